"""``medshadow demo``: the main job on drawn lesions, or on HAM10000 where it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    data: Annotated[
        Path | None, typer.Option("--data", help="HAM10000 folder; phantoms are drawn without one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Output folder; runs/demo, or runs/ham10000 with --data."),
    ] = None,
) -> None:
    """Audit, split, train, diagnose, index and look a case up; a few minutes on phantoms.

    Example: medshadow demo
    """
    from medshadow.workflows import run_demo

    folder = out or Path("runs") / ("demo" if data is None else "ham10000")
    run_demo(folder, data).print()
