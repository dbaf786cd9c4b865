"""HAM10000 as a MONAI data set, in the shape of MONAI's own ``MedNISTDataset``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import LoadImaged

from medshadow.data.audit import AuditReport, audit, clean
from medshadow.data.cases import SECTIONS, CaseTable
from medshadow.data.dataset import CaseDataset
from medshadow.data.ham10k import ham10k_cases
from medshadow.data.monai_reader import ClinicalImageReader
from medshadow.data.splits import split_cases
from medshadow.errors import DataError


class HAM10KDataset(CaseDataset):
    """One section of HAM10000, split by lesion with exact duplicates merged first.

    Making the first section reads every image once, to find duplicates and damaged files; the other
    sections of the same files reuse what was found. The split is the one that ``split_cases`` makes
    of the cleaned case table with the same seed.

    Args:
        root_dir: where HAM10000 lies, in any layout that ``ham10k_cases`` knows.
        section: "training", "validation" or "test".
        transform: MONAI transforms from ``{"image": path, "label": int, "case_id": str}``. By
            default the image is loaded: float32 of 3 x height x width, 0 to 255.
        seed: seed of the split, and of the augmentations (see ``CaseDataset``).
        val_frac: share of images in the validation section, in [0, 1).
        test_frac: share of images in the test section, in [0, 1).
        cache_rate: share of the section kept in memory, in [0, 1].
        num_workers: threads that read images.
        progress: whether to show progress bars.
        on_error: "raise" or "skip", for missing and for unreadable images.

    Attributes:
        table: the section's ``CaseTable``; a label's code is its position in ``table.classes``.

    Raises:
        DataError: no such section, or see ``ham10k_cases``, ``clean`` and ``split_cases``.
    """

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
        cases = ham10k_cases(root_dir, on_error)
        cases = clean(cases, _audited(cases, num_workers, progress), on_error)
        split = split_cases(cases, (1 - val_frac - test_frac, val_frac, test_frac), seed)
        self.table = split.section(section)
        if not callable(transform) and len(transform) == 0:
            transform = LoadImaged("image", reader=ClinicalImageReader, ensure_channel_first=True)
        super().__init__(self.table, transform, seed, cache_rate, num_workers, progress)

    def get_num_classes(self) -> int:
        """Number of diagnoses that labels count through: seven in the whole data set."""
        return len(self.table.classes)


_last_audit: dict[int, AuditReport] = {}


def _audited(cases: CaseTable, threads: int, progress: bool) -> AuditReport:
    """Audit the cases, or take the last report if not a file of theirs has changed since."""
    files = [Path(path).stat() for path in cases.frame["image"]]
    state = hash((cases.digest, *((s.st_ino, s.st_size, s.st_mtime_ns) for s in files)))
    if state not in _last_audit:
        report = audit(cases, threads=max(1, threads), progress=progress)
        _last_audit.clear()
        _last_audit[state] = report
    return _last_audit[state]
