"""MedShadow: find similar medical images, and know how far the answer can be trusted.

Public names load when they are first used, so that ``import medshadow`` costs no more than torch.
"""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

__version__ = "0.1.0"

_ROOM_OF = {
    "CaseTable": "data",
    "ham10k_cases": "data",
    "HAM10KDataset": "data",
    "PKSampler": "data",
    "audit": "data",
    "split_cases": "data",
    "write_phantoms": "data",
    "ShadowLoss": "losses",
    "shadow_deviation": "losses",
    "Embedder": "networks",
    "MetricTrainer": "training",
    "diagnose": "evaluation",
    "encode_cases": "retrieval",
    "CaseStore": "retrieval",
    "ExactSearch": "retrieval",
    "CaseLookup": "retrieval",
}

__all__ = ["__version__", *_ROOM_OF]


def __getattr__(name: str) -> Any:
    return load(__name__, _ROOM_OF, name)


def __dir__() -> list[str]:
    return sorted(__all__)
