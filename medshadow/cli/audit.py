"""``medshadow audit``: what is wrong with a data set, before it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def audit_command(
    data: Annotated[Path, typer.Argument(help="HAM10000, ODIR-5K or an own archive.")],
    split: Annotated[
        Path | None,
        typer.Option(help="A split to check for leakage: a splits.csv, or one by image."),
    ] = None,
    near: Annotated[
        bool,
        typer.Option(help="Search for the same lesion or eye in several groups (minutes)."),
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for audit.json, audit.csv and audit.html with thumbnails."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of an own archive: KEY=VALUE, such as label=diagnosis."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Images looked at at a time.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at every image: missing, unreadable, blank, duplicated, conflicting, leaking.

    Example: medshadow audit HAM10000 --out audit
    """
    from rich.console import Console

    from medshadow.cli.train import parse_setting
    from medshadow.workflows.auditing import run_audit
    from medshadow.workflows.tables import frame_table

    archive = dict(parse_setting(text) for text in setting or ())
    report = run_audit(
        data, split=split, near=near, out=out, threads=threads, progress=not as_json, **archive
    )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
        return
    console = Console()
    console.print(frame_table(report.counts, "Cases"))
    console.print(frame_table(report.summary(), "Audit"))
    if out is not None:
        console.print(f"Written: audit.json, audit.csv and audit.html in {out}", highlight=False)
