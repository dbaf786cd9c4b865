"""One section of a data set as MONAI items: found, audited, split by group, then loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from monai.transforms import LoadImaged

from medshadow.data.audit import AuditReport, audit, clean
from medshadow.data.cases import SECTIONS, CaseTable
from medshadow.data.dataset import CaseDataset
from medshadow.data.monai_reader import ClinicalImageReader
from medshadow.data.packed import file_state
from medshadow.data.splits import split_cases
from medshadow.errors import DataError


class SectionDataset(CaseDataset):
    """What the data sets have in common; see ``HAM10KDataset`` and ``ODIR5KDataset``."""

    @staticmethod
    def _find(root: str | os.PathLike[str], on_error: str = "raise") -> CaseTable:
        raise NotImplementedError

    def __init__(
        self,
        root_dir: str | os.PathLike[str],
        section: str,
        transform: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] = (),
        seed: int = 0,
        val_frac: float = 0.1,
        test_frac: float = 0.2,
        cache_rate: float = 1.0,
        num_workers: int = 2,
        progress: bool = True,
        on_error: str = "raise",
    ) -> None:
        if section not in SECTIONS:
            raise DataError(f"section: found {section!r}; expected one of {SECTIONS}")
        cases = self._find(root_dir, on_error)
        threads = max(1, num_workers)
        cases = clean(cases, _audited(cases, threads, progress), on_error)
        split = split_cases(cases, (1 - val_frac - test_frac, val_frac, test_frac), seed)
        self.table = split.section(section)
        if not callable(transform) and len(transform) == 0:
            transform = LoadImaged("image", reader=ClinicalImageReader, ensure_channel_first=True)
        super().__init__(self.table, transform, seed, cache_rate, num_workers, progress)

    def get_num_classes(self) -> int:
        """How many findings or diagnoses the labels of the whole data set count through."""
        return len(self.table.finding_names)


_last_audit: dict[int, AuditReport] = {}


def _audited(cases: CaseTable, threads: int, progress: bool) -> AuditReport:
    """Audit the cases, or take the last report if not a file of theirs has changed since."""
    state = hash((cases.digest, *map(file_state, cases.frame["image"])))
    if state not in _last_audit:
        report = audit(cases, near=True, threads=threads, progress=progress)
        _last_audit.clear()
        _last_audit[state] = report
    return _last_audit[state]
