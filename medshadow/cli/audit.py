"""``medshadow audit``: what is wrong with a data set, before it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def audit_command(
    data: Annotated[Path, typer.Argument(help="Folder of the data set (HAM10000).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count, read and hash every image; name the missing, unreadable, blank and duplicated ones.

    Example: medshadow audit HAM10000
    """
    from rich.console import Console

    from medshadow.data import audit, ham10k_cases
    from medshadow.workflows.tables import frame_table

    report = audit(ham10k_cases(data, on_error="skip"), progress=not as_json)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        Console().print(frame_table(report.summary(), "Audit"))
