"""What MLflow is told: runs, their settings, curves, figures and models."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {"TrackedRun": "runs", "check_tracking": "server", "tracking_uri": "server"}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.tracking' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.tracking.{_FILE_OF[name]}"), name)
