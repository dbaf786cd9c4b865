"""``medshadow evaluate``: diagnostics of a model folder on a data set and a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate_command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the data set (HAM10000).")],
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
    splits: Annotated[Path, typer.Option("--splits", help="splits.csv of the model's run.")],
    figures: Annotated[Path | None, typer.Option("--figures", help="Write figures here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search the training section for each test case and score what is found.

    Example: medshadow evaluate --data HAM10000 --model runs/d/model --splits runs/d/splits.csv
    """
    import pandas as pd
    from rich.console import Console

    from medshadow.data import ham10k_cases
    from medshadow.data.splits import load_split
    from medshadow.networks import Embedder
    from medshadow.workflows.evaluation import evaluate, flat_metrics, save_figures
    from medshadow.workflows.tables import frame_table

    table = load_split(ham10k_cases(data, on_error="skip"), splits)
    diagnostics = evaluate(Embedder.load(model), table)
    if figures is not None:
        save_figures(diagnostics, figures)
    if as_json:
        print(json.dumps(flat_metrics("test", diagnostics), indent=2))
        return
    nowhere = (float("nan"), float("nan"))
    rows = [
        (name, value, *diagnostics.intervals.get(name, nowhere))
        for name, value in diagnostics.metrics.items()
    ]
    frame = pd.DataFrame(rows, columns=["metric", "value", "low", "high"])
    Console().print(frame_table(frame, "Test queries against the training section"))
