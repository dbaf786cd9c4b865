"""Shadow Loss: the deviation, the exact engine over all triplets, and the loss module."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "ShadowLoss": "shadow",
    "TripletStatistics": "triplets",
    "all_triplet_hinge": "triplets",
    "shadow_deviation": "shadow",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.losses' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.losses.{_FILE_OF[name]}"), name)
