"""Backbones and the embedder: images in, unit vectors out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {"Backbone": "backbones", "backbone": "backbones", "Embedder": "embedder"}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.networks' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.networks.{_FILE_OF[name]}"), name)
