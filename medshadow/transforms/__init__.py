"""From an image file to what a network takes: MONAI dictionary transforms and named presets."""

from __future__ import annotations

from typing import Any

from medshadow.lazy import load

_FILE_OF = {
    "AlignLateralityd": "fundus",
    "Albumentationsd": "augment",
    "CropFundusd": "fundus",
    "EvenIlluminationd": "illumination",
    "ShadesOfGrayd": "color",
    "dermatology_transforms": "dermatology",
    "fundus_transforms": "fundus",
    "preset": "presets",
}

__all__ = list(_FILE_OF)


def __getattr__(name: str) -> Any:
    return load(__name__, _FILE_OF, name)
