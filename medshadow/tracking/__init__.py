"""What MLflow is told: runs, their settings, curves, figures and models."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {"TrackedRun": "runs", "check_tracking": "server", "tracking_uri": "server"}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
