"""Whether an image is worse than those an archive is made of: blurred, dark, glaring, flat, small.

Measured at one size whatever the camera, on what is not the black around the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

# Images are compared at this longer side: blur in pixels means nothing across cameras.
_SIDE = 256
# Luma below this is the black around a picture. Its edge is no detail, so some pixels more go.
_BLACK, _EDGE = 0.06, 7
_WHITE = 0.98
_KERNEL = 11
# Share of an archive's own images that each limit leaves outside.
OUTSIDE = 0.005


class Quality(NamedTuple):
    """What was measured of an image.

    Attributes:
        blur: in [0, 1], 0 sharp: how little the differences between neighbouring pixels lose when
            the image is blurred once more (Crete, Dolmiere, Ladret and Nicolas, SPIE 6492, 2007).
        light: the luma, in [0, 1], that three quarters of the picture stay below.
        glare: share of the picture, in [0, 1], that is white.
        contrast: standard deviation of the luma, in [0, 0.5].
        shorter_side: pixels.
    """

    blur: float
    light: float
    glare: float
    contrast: float
    shorter_side: int


def quality_of(pixels: np.ndarray) -> Quality:
    """Measure an image.

    Args:
        pixels: uint8 H x W x 3, RGB.

    Example:
        >>> quality_of(np.full((64, 48, 3), 128, dtype=np.uint8))
        Quality(blur=1.0, light=0.502, glare=0.0, contrast=0.0, shorter_side=48)
    """
    picture = Image.fromarray(pixels).convert("L")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    luma = np.asarray(picture, dtype=np.float64) / 255
    inside = _inside(luma)
    values = luma[inside]
    return Quality(
        blur=round(_blur(luma, inside), 4),
        light=round(float(np.quantile(values, 0.75)), 4),
        glare=round(float((values >= _WHITE).mean()), 4),
        contrast=round(float(values.std()), 4),
        shorter_side=min(pixels.shape[:2]),
    )


@dataclass(frozen=True)
class QualityLimits:
    """What an archive's own images keep to, all but one in two hundred on each side.

    The limits say what is unusual among these images, not what is good enough to judge: an archive
    of blurred images has a generous one.

    Args:
        blur: at most.
        light: at least.
        glare: at most.
        contrast: at least.
        shorter_side: at least, in pixels.
    """

    blur: float
    light: float
    glare: float
    contrast: float
    shorter_side: int

    @classmethod
    def fit(cls, measured: Iterable[Quality], model_size: int) -> QualityLimits:
        """Limits from an archive's images.

        Args:
            measured: of each; at least one.
            model_size: the side, in pixels, at which the model sees an image: more are not asked
                for, nor fewer accepted than the archive's own smallest have.

        Raises:
            ValueError: there is no image.
        """
        values = np.array(list(measured), dtype=np.float64)
        if len(values) == 0:
            raise ValueError("limits of image quality need at least one image")
        low, high = np.quantile(values, [OUTSIDE, 1 - OUTSIDE], axis=0)
        return cls(
            blur=float(high[0]),
            light=float(low[1]),
            glare=float(high[2]),
            contrast=float(low[3]),
            shorter_side=int(min(low[4], model_size)),
        )

    def problems(self, quality: Quality) -> list[str]:
        """What is wrong with an image, each in a few words; empty where nothing is.

        Example:
            >>> limits = QualityLimits(0.5, 0.3, 0.1, 0.05, 160)
            >>> limits.problems(Quality(0.7, 0.5, 0.0, 0.1, 100))
            ['blurred', 'small (100 pixels)']
        """
        found = {
            "blurred": quality.blur > self.blur,
            "dark": quality.light < self.light,
            "overexposed": quality.glare > self.glare,
            "almost without contrast": quality.contrast < self.contrast,
            f"small ({quality.shorter_side} pixels)": quality.shorter_side < self.shorter_side,
        }
        return [words for words, true in found.items() if true]

    def to_dict(self) -> dict[str, float]:
        """In JSON's own types; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> QualityLimits:
        """What :meth:`to_dict` made."""
        return cls(**kept)


def _inside(luma: np.ndarray) -> np.ndarray:
    """Where the picture is: not black, nor beside black; everywhere if that leaves too little."""
    square = np.ones((_EDGE, _EDGE), dtype=np.uint8)
    # Closed first: a dark hair is part of the picture.
    whole = cv2.morphologyEx((luma >= _BLACK).astype(np.uint8), cv2.MORPH_CLOSE, square)
    inside = cv2.erode(whole, square) > 0
    return inside if inside.mean() >= 0.1 else np.ones(luma.shape, dtype=bool)


def _blur(luma: np.ndarray, inside: np.ndarray) -> float:
    """The worse of both directions; 1 where neighbouring pixels never differ."""
    return max(_blur_along(luma, inside), _blur_along(luma.T, inside.T))


def _blur_along(luma: np.ndarray, inside: np.ndarray) -> float:
    sharp = np.abs(np.diff(luma, axis=0))
    again = np.abs(np.diff(_mean_filter(luma), axis=0))
    there = inside[1:] & inside[:-1]
    total = float(sharp[there].sum())
    if total <= 1e-9:
        return 1.0
    return 1 - float(np.maximum(0, sharp - again)[there].sum()) / total


def _mean_filter(luma: np.ndarray) -> np.ndarray:
    """The mean of 11 pixels along the first axis; the border is repeated."""
    half = _KERNEL // 2
    padded = np.pad(luma, ((half + 1, half), (0, 0)), mode="edge")
    sums = np.cumsum(padded, axis=0)
    means: np.ndarray = (sums[_KERNEL:] - sums[:-_KERNEL]) / _KERNEL
    return means
