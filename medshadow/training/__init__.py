"""Training an embedder on MONAI's engine."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "MetricTrainer": "trainer",
    "adamw": "optimization",
    "cosine": "optimization",
    "one_cycle": "optimization",
    "training_loader": "loader",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
