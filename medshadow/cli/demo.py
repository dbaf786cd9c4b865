"""``medshadow demo``: the main job on drawn lesions, or on HAM10000 where it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    data: Annotated[
        Path | None, typer.Option("--data", help="HAM10000 folder; phantoms are drawn without one.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Output folder.")] = Path("runs/demo"),
) -> None:
    """Audit, split, train, diagnose, index and look a case up; a few minutes on phantoms.

    Example: medshadow demo
    """
    from medshadow.workflows import run_demo

    run_demo(out, data).print()
