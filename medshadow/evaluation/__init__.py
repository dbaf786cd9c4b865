"""Diagnostics of an embedding: how well it retrieves, how it lies in space, how sure that is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "EmbeddedCases": "embedded",
    "Neighbours": "retrieval",
    "majority_vote": "retrieval",
    "nearest_groups": "retrieval",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.evaluation.{_FILE_OF[name]}"), name)
