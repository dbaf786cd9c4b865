"""``medshadow demo``: the main job on drawn images, or on HAM10000 or ODIR-5K where it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def demo_command(
    kind: Annotated[
        Literal["dermatology", "fundus"],
        typer.Option("--kind", help="Skin lesions or eyes."),
    ] = "dermatology",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder of HAM10000, or of ODIR-5K; phantoms are drawn without one."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Output folder; by default runs/demo or runs/demo-fundus, and with --data "
            "runs/ham10000 or runs/odir5k.",
        ),
    ] = None,
) -> None:
    """Audit, split, train, diagnose, index and look a case up; a few minutes on phantoms.

    Ends with the command that serves the index it made, and an image to look up there.

    Example: medshadow demo --kind fundus
    """
    from medshadow.workflows import run_demo
    from medshadow.workflows.demo import DEMOS

    drawn = "demo" if kind == "dermatology" else f"demo-{kind}"
    folder = out or Path("runs") / (drawn if data is None else DEMOS[kind].real)
    summary = run_demo(folder, data, kind)
    summary.print()
    image = new_image(summary.output.splits, data or folder / "phantoms")
    if image is not None:
        print(f"             and drop {image} on the page: the index does not hold it")


def new_image(splits: Path, data: Path) -> Path | None:
    """An image that the index does not hold: the first of the test section, by case id.

    Args:
        splits: the run's ``splits.csv``.
        data: the folder that the images lie in, at any depth.
    """
    import pandas as pd

    cases = pd.read_csv(splits, dtype=str)
    tested = sorted(cases.loc[cases["section"] == "test", "case_id"])
    return next((path for case in tested for path in sorted(data.rglob(f"{case}.*"))), None)
