"""``medshadow train``: the whole way for one data set, from images to a case store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

logger = logging.getLogger(__name__)

Data = Annotated[Path, typer.Option("--data", help="Folder of the data set.")]
Out = Annotated[Path, typer.Option("--out", help="Output folder.")]
Config = Annotated[str, typer.Option("--config", help="Configuration file, or a packaged one.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in it.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the configuration; repeatable."),
]


def train_command(
    data: Data,
    out: Out,
    config: Config = "dermatology",
    resume: Resume = False,
    overwrite: Overwrite = False,
    values: Set = None,
) -> None:
    """Audit, split, train, diagnose, index, and look one case up.

    Example: medshadow train --data HAM10000 --out runs/dermatology --set max_epochs=8
    """
    from medshadow.workflows import run_config

    settings = dict(map(parse_setting, values or []))
    places = {"data_dir": str(data), "output_dir": str(out)}
    try:
        summary = run_config(config, **places, resume=resume, overwrite=overwrite, **settings)
        if summary is not None:  # of several ranks the first one has it
            summary.print()
    except KeyboardInterrupt:
        logger.warning("interrupted; --resume goes on where the last whole epoch ended")
        raise


def parse_setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML: numbers, booleans, lists and names.

    Example:
        >>> parse_setting("loss#margin=0.3")
        ('loss#margin', 0.3)
    """
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r}: expected KEY=VALUE", param_hint="--set")
    return key, yaml.safe_load(value)
