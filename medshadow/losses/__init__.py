"""Shadow Loss: the deviation, the exact engine over all triplets, and the loss module."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "CrossBatchMemory": "memory",
    "ShadowLoss": "shadow",
    "TripletStatistics": "triplets",
    "all_triplet_hinge": "triplets",
    "batch_hard": "mining",
    "hardest_negative": "mining",
    "semihard": "mining",
    "shadow_deviation": "shadow",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
