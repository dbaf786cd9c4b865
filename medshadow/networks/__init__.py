"""Backbones and the embedder: images in, unit vectors out."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "Backbone": "backbones",
    "Embedder": "embedder",
    "Whitening": "whitening",
    "backbone": "backbones",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
