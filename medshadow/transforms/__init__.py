"""From an image file to what a network takes: MONAI dictionary transforms and named presets."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_FILE_OF = {
    "Albumentationsd": "augment",
    "ShadesOfGrayd": "color",
    "dermatology_transforms": "dermatology",
    "preset": "presets",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module 'medshadow.transforms' has no attribute {name!r}")
    return getattr(import_module(f"medshadow.transforms.{_FILE_OF[name]}"), name)
