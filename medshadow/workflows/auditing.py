"""The audit of a data set as a function: recognise, look, report, write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medshadow.data.audit import AuditReport, audit
from medshadow.data.audit_page import audit_page
from medshadow.data.cases import CaseTable
from medshadow.data.published_split import load_published_split
from medshadow.data.recognise import recognised_cases


def run_audit(
    data: str | Path,
    *,
    split: str | Path | None = None,
    near: bool = True,
    out: str | Path | None = None,
    threads: int = 2,
    progress: bool = True,
    **archive: Any,
) -> AuditReport:
    """Audit whichever data set lies in a folder.

    Args:
        data: its folder, or an own archive; see ``recognised_cases``.
        split: a file that ``save_split`` wrote or a published split by image, to be checked for
            leakage over the merged groups.
        near: whether to search for the same lesion or eye under several groups.
        out: a folder for ``audit.json``, ``audit.csv`` and ``audit.html``, made if need be.
        threads: how many images are decoded, and pairs compared, at a time.
        progress: whether to show bars.
        **archive: arguments of ``archive_cases``, for an own archive.

    Raises:
        DataError: no data set is recognised, or the split is none of its cases.
    """
    table = recognised_cases(data, on_error="skip", **archive)
    if split is not None:
        table = load_published_split(table, split)
    report = audit(table, near=near, threads=threads, progress=progress)
    if out is not None:
        write_audit(report, table, out)
    return report


def write_audit(report: AuditReport, table: CaseTable, folder: str | Path) -> None:
    """Write ``audit.json``, ``audit.csv`` and ``audit.html`` to a folder, which is made if need be.

    The files name cases and groups and hold no paths; the page holds thumbnails of the images that
    the findings are about.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / "audit.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    report.findings().to_csv(place / "audit.csv", index=False, lineterminator="\n")
    (place / "audit.html").write_text(audit_page(report, table), encoding="utf-8")
