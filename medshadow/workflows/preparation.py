"""From a data set to a table fit for training: audited, duplicates merged, split, all on record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from medshadow.data.audit import audit, clean
from medshadow.data.cases import CaseTable
from medshadow.data.splits import load_split, save_split, split_cases
from medshadow.workflows.output import OutputFolder

logger = logging.getLogger(__name__)


def prepare_cases(
    cases: CaseTable,
    output: OutputFolder,
    fractions: Mapping[str, float],
    seed: int = 0,
    on_error: str = "raise",
    progress: bool = True,
) -> CaseTable:
    """Audit the cases, merge duplicated lesions or patients, leave out what cannot be read, split.

    Writes ``audit.json`` and ``splits.csv``. A resumed run takes its split from ``splits.csv``.

    Args:
        cases: all cases of the data set.
        output: where to write.
        fractions: share of the images in "training", "validation" and "test".
        seed: seed of the split.
        on_error: "raise" for an image that cannot be read, or "skip" to leave it out by name.
        progress: whether to show a bar.

    Returns:
        The table with its sections.

    Raises:
        DataError: an image cannot be read and ``on_error`` is "raise", or the split in the output
            folder is of other cases.
    """
    report = audit(cases, progress=progress)
    output.audit.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    logger.info("audit of %s:\n%s", cases.name, report.summary())
    table = clean(cases, report, on_error)
    if output.resume and output.splits.is_file():
        return load_split(table, output.splits)
    table = split_cases(table, fractions, seed)
    save_split(table, output.splits)
    return table
