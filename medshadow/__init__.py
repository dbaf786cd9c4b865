"""MedShadow: find similar medical images, and know how far the answer can be trusted.

Public names load when they are first used, so that ``import medshadow`` costs no more than torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOM_OF = {
    "CaseTable": "medshadow.data",
    "ham10k_cases": "medshadow.data",
    "HAM10KDataset": "medshadow.data",
    "PKSampler": "medshadow.data",
    "audit": "medshadow.data",
    "split_cases": "medshadow.data",
    "write_phantoms": "medshadow.data",
    "ShadowLoss": "medshadow.losses",
    "shadow_deviation": "medshadow.losses",
    "Embedder": "medshadow.networks",
    "MetricTrainer": "medshadow.training",
    "diagnose": "medshadow.evaluation",
    "encode_cases": "medshadow.retrieval",
    "CaseStore": "medshadow.retrieval",
    "ExactSearch": "medshadow.retrieval",
    "CaseLookup": "medshadow.retrieval",
}

__all__ = ["__version__", *_ROOM_OF]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'medshadow' has no attribute {name!r}")
    return getattr(import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
