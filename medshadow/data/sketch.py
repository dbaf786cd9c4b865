"""What the search for near duplicates keeps of an image: its fine detail and its keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 128
"""Images are reduced to the area of a square of this side, in pixels; none is enlarged."""
OUTSIDE = -128
"""The value in ``Sketch.detail`` that marks a pixel outside the field of view."""
KEYPOINTS = 200
"""Most keypoints kept of an image."""

_DARK = 16
_PER_UNIT = 50
_SIGMA = 6.0
_LIMIT = 2.5


@dataclass(frozen=True, eq=False)
class Sketch:
    """Detail and keypoints of one image, some 50 KB.

    Args:
        detail: int8 h x w, the green channel less its surroundings, in units of the local contrast
            times 50, in [-125, 125]; ``OUTSIDE`` beyond the field of view and along its border.
        points: float32 N x 2, keypoints as (x, y) in pixels of ``detail``, strongest first.
        descriptors: uint8 N x 128, their SIFT descriptors.
    """

    detail: npt.NDArray[np.int8]
    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]

    @property
    def field(self) -> npt.NDArray[np.bool_]:
        """Where ``detail`` counts, bool h x w."""
        return self.detail != OUTSIDE


def sketch(pixels: npt.NDArray[np.uint8]) -> Sketch:
    """Reduce an image to what survives another day's camera settings.

    The black surroundings are cut away; of the rest the slow changes of light and colour are taken
    out and the local contrast made even, which leaves vessels, hairs, pigment and lesions. The
    border of the field of view, alike in all photographs of a camera, is masked.

    Args:
        pixels: uint8 height x width x 3, RGB.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
        >>> found = sketch(noise)
        >>> found.detail.shape, found.descriptors.shape[1]
        ((111, 148), 128)
    """
    small = _reduced(_cut_to_field(pixels))
    field = _field(small)
    detail = _even(small[..., 1].astype(np.float32), field)
    grey = (128 + _PER_UNIT * detail).astype(np.uint8)
    found, descriptors = _sift().detectAndCompute(grey, cv2.erode(field, np.ones((5, 5), np.uint8)))
    kept = np.round(_PER_UNIT * detail).astype(np.int8)
    kept[field == 0] = OUTSIDE
    if descriptors is None:
        return Sketch(kept, np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    # nfeatures keeps ties, so that more than it may come.
    order = np.argsort([-k.response for k in found], kind="stable")[:KEYPOINTS]
    points = np.array([k.pt for k in found], np.float32)[order]
    return Sketch(kept, points, descriptors[order].astype(np.uint8))


def mirrored(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The SIFT descriptors (N x 128) that the same keypoints have in the mirrored image.

    A descriptor is 4 x 4 cells of 8 directions in the keypoint's own frame: a mirror turns the
    order of the rows and the sense of the directions.
    """
    cells = descriptors.reshape(-1, 4, 4, 8)
    return cells[:, ::-1][..., -np.arange(8) % 8].reshape(-1, 128)


def unit(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Descriptors (N x 128) as float32 of length 1."""
    values = descriptors.astype(np.float32)
    return np.asarray(values / (np.linalg.norm(values, axis=1, keepdims=True) + 1e-9), np.float32)


@cache
def _sift() -> Any:
    # The thresholds are low because thin vessels are faint; the strongest are kept.
    return cv2.SIFT.create(nfeatures=KEYPOINTS, contrastThreshold=0.01, edgeThreshold=20)


def _cut_to_field(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    step = max(1, min(pixels.shape[:2]) // SIDE)
    bright = pixels[::step, ::step].max(axis=2) > _DARK
    # A speck of noise or a line of print in the dark is no field.
    rows = np.flatnonzero(bright.mean(axis=1) > 0.05)
    columns = np.flatnonzero(bright.mean(axis=0) > 0.05)
    if not len(rows) or not len(columns):
        return pixels
    top, bottom = rows[0] * step, (rows[-1] + 1) * step
    return pixels[top:bottom, columns[0] * step : (columns[-1] + 1) * step]


def _reduced(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    factor = min(1.0, SIDE / (height * width) ** 0.5)
    size = max(8, round(width * factor)), max(8, round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _field(small: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """1 inside the field of view, less a border; a dark lesion inside it is no hole."""
    bright = (small.max(axis=2) > _DARK).astype(np.uint8)
    bright = np.asarray(cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)))
    field = np.zeros_like(bright)
    points = cv2.findNonZero(bright)
    if points is not None:
        cv2.fillConvexPoly(field, cv2.convexHull(points), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    return np.asarray(cv2.erode(field, disc, borderType=cv2.BORDER_CONSTANT, borderValue=0))


def _even(green: npt.NDArray[np.float32], field: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Detail in units of the local contrast, in [-_LIMIT, _LIMIT]; 0 outside the field."""
    inside = field.astype(np.float32)
    weight = cv2.GaussianBlur(inside, (0, 0), _SIGMA) + 1e-3
    detail = (green - cv2.GaussianBlur(green * inside, (0, 0), _SIGMA) / weight) * inside
    contrast = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), _SIGMA) / weight)
    # One grey level more: where there is nothing to see, noise shall not be blown up to detail.
    even = np.clip(detail / (contrast + 1), -_LIMIT, _LIMIT) * inside
    return np.asarray(even, np.float32)
