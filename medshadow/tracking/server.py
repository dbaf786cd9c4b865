"""Which MLflow server a run goes to, and whether it answers, before any work is done."""

from __future__ import annotations

import logging
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from medshadow.errors import TrackingError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

PATIENCE_SECONDS = 8.0
_AT_MOST_SECONDS = 9.0


def tracking_uri(output_dir: str | Path) -> str:
    """``MLFLOW_TRACKING_URI`` where it is set, else ``mlflow.db`` (SQLite) in the output folder."""
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or f"sqlite:///{Path(output_dir).resolve() / 'mlflow.db'}"


def check_tracking(uri: str) -> None:
    """See within ten seconds that a tracking server answers.

    Args:
        uri: an MLflow tracking URI: a server, a database, or whatever MLflow knows.

    Raises:
        TrackingError: it is not reached, or MLflow refuses it; the message names the URI without
            any password in it.
    """
    if uri.startswith("sqlite"):
        failure = _ask_mlflow(uri)  # a file does not hang, and making its tables takes its time
    else:
        web = uri.startswith(("http://", "https://"))
        failure = _patiently(_ask_server if web else _ask_mlflow, uri)
    if failure:
        raise TrackingError(
            f"the MLflow tracking server {without_password(uri)} cannot be used: {failure}. "
            "Start it, correct MLFLOW_TRACKING_URI, or unset it to track into the output folder"
        )


def without_password(uri: str) -> str:
    """The URI as it may be shown: user and password left out."""
    parts = urllib.parse.urlsplit(uri)
    return uri if "@" not in parts.netloc else uri.replace(parts.netloc, parts.netloc.split("@")[1])


def _ask_server(uri: str) -> str | None:
    health = without_password(uri).rstrip("/") + "/health"
    try:
        with urllib.request.urlopen(health, timeout=PATIENCE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        # It answers; whether it lets us in is for MLflow to say. A proxy's 503 is no answer of its.
        return f"it answers with status {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _patiently(ask: Callable[[str], str | None], uri: str) -> str | None:
    outcome: list[str | None] = []
    # A driver or a name's several addresses that hang cannot be interrupted: they are left behind
    # in a daemon thread.
    thread = threading.Thread(target=lambda: outcome.append(ask(uri)), daemon=True)
    thread.start()
    thread.join(_AT_MOST_SECONDS)
    return outcome[0] if outcome else f"no answer within {_AT_MOST_SECONDS:.0f} s"


def _ask_mlflow(uri: str) -> str | None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, OSError, ImportError) as error:
        return str(error).splitlines()[0]
    return None
