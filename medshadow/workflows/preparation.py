"""From a data set to a table fit for training: audited, duplicates merged, split, all on record."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping

from medshadow.data.audit import AuditReport, audit, clean
from medshadow.data.cases import CaseTable
from medshadow.data.looks import content_digest
from medshadow.data.splits import load_split, save_split, split_cases
from medshadow.training.distributed import from_first_rank
from medshadow.workflows.output import OutputFolder

logger = logging.getLogger(__name__)


def prepare_cases(
    cases: CaseTable,
    output: OutputFolder,
    fractions: Mapping[str, float],
    seed: int = 0,
    on_error: str = "raise",
    progress: bool = True,
    near_duplicates: bool = True,
) -> CaseTable:
    """Audit the cases, merge duplicated lesions or patients, leave out what cannot be read, split.

    Writes ``audit.json`` and ``splits.csv``. A resumed run takes its split from ``splits.csv``, and
    what the audit found from ``audit.json`` as long as no file has changed. Of several ranks the
    first does all of it and hands its table to the others, who must find the images at the same
    paths.

    Args:
        cases: all cases of the data set.
        output: where to write.
        fractions: share of the images in "training", "validation" and "test".
        seed: seed of the split.
        on_error: "raise" for an image that cannot be read, or "skip" to leave it out by name.
        progress: whether to show a bar.
        near_duplicates: whether to search for the same lesion or patient under several groups, and
            to merge those, too; minutes for ten thousand images.

    Returns:
        The table with its sections.

    Raises:
        DataError: an image cannot be read and ``on_error`` is "raise", or the split in the output
            folder is of other cases.
    """

    def prepared() -> CaseTable:
        report = _audited(cases, output, near_duplicates, progress)
        _log_findings(cases, report)
        table = clean(cases, report, on_error)
        if output.resume and output.splits.is_file():
            return load_split(table, output.splits)
        table = split_cases(table, fractions, seed)
        save_split(table, output.splits)
        return table

    return from_first_rank(prepared)


def data_digest(table: CaseTable, output: OutputFolder) -> str:
    """SHA-256 of a table's rows and of the bytes of its image files: the data of a tracked run.

    Where the output folder has an audit, the files were read for it and are not read again; what it
    tells covers the cases that were left out since, too.
    """
    content = ""
    if output.audit.is_file():
        content = json.loads(output.audit.read_text())["content_digest"]
    return hashlib.sha256(f"{table.digest} {content or _content(table)}".encode()).hexdigest()


def _audited(
    cases: CaseTable, output: OutputFolder, near_duplicates: bool, progress: bool
) -> AuditReport:
    """Audit the cases, or take the report in the output folder if it is of the same files."""
    if output.resume and output.audit.is_file():
        known = AuditReport.from_dict(json.loads(output.audit.read_text()))
        same = known.table_digest == cases.digest and known.content_digest == _content(cases)
        if not same:
            logger.warning("the data have changed since the run began: they are audited anew")
        elif near_duplicates == (known.near_duplicates is not None):
            return known
    report = audit(cases, near=near_duplicates, progress=progress)
    output.audit.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    return report


def _content(cases: CaseTable) -> str:
    return content_digest(zip(cases.frame["case_id"], cases.frame["image"], strict=True))


def _log_findings(cases: CaseTable, report: AuditReport) -> None:
    groups, classes = cases.frame["group"].nunique(), len(cases.classes)
    logger.info("%s: %d images, %d groups, %d classes", cases.name, len(cases), groups, classes)
    for row in report.summary().itertuples(index=False):
        if row.count:
            logger.info("audit: %d %s: %s", row.count, row.finding, row.first)
