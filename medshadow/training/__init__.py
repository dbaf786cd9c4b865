"""Training an embedder on MONAI's engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "MetricTrainer": "trainer",
    "adamw": "optimization",
    "cosine": "optimization",
    "one_cycle": "optimization",
    "training_loader": "loader",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.training' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.training.{_FILE_OF[name]}"), name)
