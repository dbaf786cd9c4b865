"""From a data set to a table fit for training: audited, duplicates merged, split, all on record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from medshadow.data.audit import AuditReport, audit, clean
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
    _log_findings(cases, report)
    table = clean(cases, report, on_error)
    if output.resume and output.splits.is_file():
        return load_split(table, output.splits)
    table = split_cases(table, fractions, seed)
    save_split(table, output.splits)
    return table


def _log_findings(cases: CaseTable, report: AuditReport) -> None:
    groups, classes = cases.frame["group"].nunique(), len(cases.classes)
    logger.info("%s: %d images, %d groups, %d classes", cases.name, len(cases), groups, classes)
    for row in report.summary().itertuples(index=False):
        if row.count:
            logger.info("audit: %d %s: %s", row.count, row.finding, row.first)
