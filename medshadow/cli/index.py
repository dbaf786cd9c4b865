"""``medshadow index``: making the case store that lookups search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make a case store.", no_args_is_help=True)


@app.callback()
def _index() -> None:
    """Make a case store."""


@app.command("build")
def build_command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the data set (HAM10000).")],
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
    cases: Annotated[Path, typer.Option("--cases", help="The case store to make.")],
    splits: Annotated[
        Path | None, typer.Option("--splits", help="Take only the training section of this split.")
    ] = None,
) -> None:
    """Encode every case of a data set and keep vectors, diagnoses and small pictures.

    Example: medshadow index build --data HAM10000 --model runs/d/model --cases cases.db
    """
    from medshadow.data import ham10k_cases
    from medshadow.data.ham10k import DIAGNOSES
    from medshadow.data.splits import load_split
    from medshadow.networks import Embedder
    from medshadow.workflows import build_index

    table = ham10k_cases(data, on_error="skip")
    if splits is not None:
        table = load_split(table, splits).section("training")
    with build_index(Embedder.load(model), table, cases, diagnosis_names=DIAGNOSES) as store:
        typer.echo(f"{len(store)} cases in {cases}")
