"""The ``medshadow`` command: each part of the way, for people and, with ``--json``, for machines.

Exit codes: 0 done, 1 the message says what is wrong, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

import typer
from rich.console import Console
from rich.logging import RichHandler

from medshadow.cli import audit, demo, evaluate, index, lookup, serve, train

app = typer.Typer(
    name="medshadow",
    help="Find similar medical images. Research use only; not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("audit")(audit.audit_command)
app.command("train")(train.train_command)
app.command("evaluate")(evaluate.evaluate_command)
app.add_typer(index.app, name="index")
app.command("lookup")(lookup.lookup_command)
app.command("serve")(serve.serve_command)
app.command("demo")(demo.demo_command)


def main() -> None:
    """Run the command line; users' mistakes end with a message, not a traceback."""
    guarded(app)


def guarded(run: Callable[[], None]) -> None:
    """Run a command line: set up logging, and turn expected errors into messages and exit codes."""
    from medshadow.errors import MedShadowError

    _set_up_logging()
    try:
        run()
    except (MedShadowError, ValueError, OSError) as error:
        if os.environ.get("MEDSHADOW_TRACEBACK"):
            raise
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _say(message: str) -> None:
    Console(stderr=True).print(message, style="bold red", markup=False, highlight=False)


def _set_up_logging() -> None:
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    first = os.environ.get("RANK", "0") == "0"  # as torchrun numbers its ranks
    logging.getLogger("medshadow").setLevel(logging.INFO if first else logging.ERROR)
    # The engine reports an interrupt as an error of its own, before ours.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
