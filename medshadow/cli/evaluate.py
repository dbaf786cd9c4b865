"""``medshadow evaluate``: diagnostics of a model folder on a data set and a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate_command(
    data: Annotated[Path, typer.Option("--data", help="HAM10000, ODIR-5K or an own archive.")],
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
    splits: Annotated[Path, typer.Option("--splits", help="splits.csv of the model's run.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Of an own archive: KEY=VALUE, such as label=diagnosis."),
    ] = None,
    figures: Annotated[Path | None, typer.Option("--figures", help="Write figures here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search the training section for each test case and score what is found.

    Beside it stand the majority class and the same backbone as it comes, not trained.

    Example: medshadow evaluate --data HAM10000 --model runs/d/model --splits runs/d/splits.csv
    """
    import pandas as pd
    from rich.console import Console

    from medshadow.cli.train import parse_setting
    from medshadow.data.recognise import recognised_cases
    from medshadow.data.splits import load_split
    from medshadow.networks import Embedder
    from medshadow.workflows.evaluation import baselines, evaluate, flat_metrics, save_figures
    from medshadow.workflows.tables import frame_table

    archive = dict(map(parse_setting, setting or ()))
    table = load_split(recognised_cases(data, on_error="skip", **archive), splits)
    embedder = Embedder.load(model)
    diagnostics = evaluate(embedder, table)
    if figures is not None:
        save_figures(diagnostics, figures)
    metrics = {**baselines(embedder, table), **flat_metrics("test", diagnostics)}
    if as_json:
        print(json.dumps(metrics, indent=2))
        return
    columns = {"majority": "majority/{}", "frozen": "frozen/{}", "model": "test/{}"}
    columns |= {"low": "test/{}_low", "high": "test/{}_high"}
    rows = [
        {"metric": name, **{c: metrics.get(key.format(name)) for c, key in columns.items()}}
        for name in diagnostics.metrics
    ]
    title = "Test queries against the training section, with 95 % intervals"
    Console().print(frame_table(pd.DataFrame(rows), title))
