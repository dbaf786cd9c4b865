"""The field of view of a fundus photograph: the round part of the image in which retina is seen."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np

_WORKING_SIDE = 160  # pixels of the longer side that the field is looked for at
_DRAWS = 64  # candidate curves through points of the rim
_TOLERANCE = 0.01  # of half the longer side: how near a curve a point of the rim lies on it


class FieldOfView(NamedTuple):
    """An upright ellipse in pixels, a circle unless the image was squeezed.

    The corner of the image is (0, 0), so the middle of its first pixel is (0.5, 0.5). Cut fields
    reach beyond the image.
    """

    x: float
    y: float
    radius_x: float
    radius_y: float


def field_of_view(image: np.ndarray) -> FieldOfView | None:
    """Find the round field in a fundus photograph with dark surroundings.

    What is brighter than the darkest corners, by more than their noise, is the field; the curve
    through most of its convex hull, the image's own edges left out, is its rim. Shadows at the rim
    lie inside the hull and flat cuts have only their ends on it, so neither moves the curve. A
    circle is taken unless an upright ellipse meets clearly more of the rim: copies of a data set
    are about in which photographs with a flat top and bottom were squeezed to squares.

    Args:
        image: H x W x C with 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1].

    Returns:
        The field, or None where there is none to be found: the image is near black or flat, nothing
        round is in it, or it has no dark corner, as when the photograph was cut inside its field.

    Source: sampling consensus after Fischler and Bolles, "Random sample consensus", CACM 1981.

    Example:
        >>> photograph = np.zeros((300, 400, 3), dtype=np.uint8)
        >>> _ = cv2.circle(photograph, (220, 140), 120, (160, 80, 40), -1)
        >>> [round(value / 10) for value in field_of_view(photograph)]  # in tens of pixels
        [22, 14, 12, 12]
    """
    height, width = image.shape[:2]
    lit = _lit(reduce(cv2.max, cv2.split(_shrunk(without_paper(image)))))
    if lit is None:
        return None
    rim = _rim(lit)
    half = max(lit.shape) / 2
    middle = np.array(lit.shape[::-1]) / 2
    curve = _curve((rim - middle) / half)
    if curve is None:
        return None
    scale = np.array([width, height]) / lit.shape[::-1]
    x, y = (curve[:2] * half + middle) * scale
    radius_x, radius_y = curve[2:] * half * scale
    return FieldOfView(float(x), float(y), float(radius_x), float(radius_y))


def _shrunk(image: np.ndarray) -> np.ndarray:
    """The image as uint8 with at most ``_WORKING_SIDE`` pixels a side."""
    height, width, channels = image.shape
    scale = min(1.0, _WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], channels)
    return small if small.dtype == np.uint8 else np.rint(small * 255).astype(np.uint8)


def without_paper(image: np.ndarray) -> np.ndarray:
    """The image, black where it was white from the corners inwards, if all four are white.

    Args:
        image: H x W x C with 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1].
    """
    white = 0.92 * (255 if image.dtype == np.uint8 else 1)
    if image[[0, 0, -1, -1], [0, -1, 0, -1]].min() <= white:
        return image
    is_white = (reduce(cv2.min, cv2.split(image)) > white).astype(np.uint8)
    parts = cv2.connectedComponents(is_white, connectivity=4)[1]
    outside = np.isin(parts, parts[[0, 0, -1, -1], [0, -1, 0, -1]])
    return np.where(outside[..., None], image.dtype.type(0), image)


def _lit(values: np.ndarray) -> np.ndarray | None:
    """Where the field is, H x W of 0 and 1, or None."""
    height, width = values.shape
    edge = max(2, min(height, width) // 16)
    smooth = cv2.medianBlur(values, 5)
    ends = (slice(edge), slice(-edge, None))
    corners = sorted((smooth[r, c].ravel() for r in ends for c in ends), key=np.median)
    border = np.concatenate(corners[:2]).astype(np.float32)
    dark = float(np.median(border))
    noise = 1.4826 * float(np.median(np.abs(border - dark)))
    bright = float(np.percentile(smooth[::2, ::2], 95))
    if bright < dark + max(12, 6 * noise):
        return None
    bright_enough = smooth > dark + max(6, 4 * noise, 0.06 * (bright - dark))
    # Opening cuts off what is no part of the disc: letters, a camera's notch, specks of noise.
    side = max(3, max(height, width) // 28 | 1)
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    opened = cv2.morphologyEx(bright_enough.astype(np.uint8), cv2.MORPH_OPEN, brush)
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return None
    areas = statistics[1:, cv2.CC_STAT_AREA]
    if areas.max() < 0.05 * opened.size:
        return None
    return (parts == 1 + areas.argmax()).astype(np.uint8)


def _rim(lit: np.ndarray) -> np.ndarray:
    """Corners of the field's convex hull, N x 2 (x, y), but for those at the image's own edge."""
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.convexHull(max(contours, key=len))[:, 0] + 0.5
    height, width = lit.shape
    return hull[(hull > 2).all(axis=1) & (hull < (width - 2, height - 2)).all(axis=1)]


def _curve(rim: np.ndarray) -> np.ndarray | None:
    """Centre and radii, of shape 4, of the circle or ellipse that most of the rim lies on."""
    if len(rim) < 8:
        return None
    circle, on_circle = _consensus(rim, unknowns=3)
    ellipse, on_ellipse = _consensus(rim, unknowns=4)
    curve, on = (ellipse, on_ellipse) if on_ellipse > 1.1 * on_circle + 2 else (circle, on_circle)
    return curve if on >= max(6, 0.3 * len(rim)) else None


def _consensus(rim: np.ndarray, unknowns: int) -> tuple[np.ndarray | None, int]:
    """The curve x^2 + y^2 = a x + b y + c (+ e y^2) that meets most of the rim, and how much."""
    x, y = rim.T
    terms = np.stack([x, y, np.ones_like(x), y**2][:unknowns], axis=1)
    squares = x**2 + y**2
    drawn = np.random.default_rng(0).integers(len(rim), size=(_DRAWS, unknowns))
    solvable = np.abs(np.linalg.det(terms[drawn])) > 1e-7
    if not solvable.any():
        return None, 0
    drawn = drawn[solvable]
    curves = _curves(np.linalg.solve(terms[drawn], squares[drawn][..., None])[..., 0])
    if not len(curves):
        return None, 0
    beyond = _beyond(curves, rim)
    on = np.abs(beyond) < _TOLERANCE
    # A rim encloses the field: points outside of it count against it, points inside do not.
    best = int((on.sum(axis=1) - (beyond > 2 * _TOLERANCE).sum(axis=1)).argmax())
    near = on[best]
    solution = np.linalg.lstsq(terms[near], squares[near], rcond=None)[0]
    refined = _curves(solution[None])
    return (refined[0] if len(refined) else curves[best]), int(near.sum())


def _curves(solutions: np.ndarray) -> np.ndarray:
    """Centres and radii, M x 4, of those of the solutions (a, b, c[, e]) that may be a field."""
    a, b, c = solutions.T[:3]
    flatness = 1 - solutions[:, 3] if solutions.shape[1] == 4 else np.ones(len(solutions))
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = a / 2, b / (2 * flatness)
        radius_x = np.sqrt(c + x**2 + flatness * y**2)
        radius_y = radius_x / np.sqrt(flatness)
        shape = radius_x / radius_y
        curves = np.stack([x, y, radius_x, radius_y], axis=1)
        sound = (radius_x > 0.15) & (np.maximum(radius_x, radius_y) < 2)
        sound &= (shape > 0.6) & (shape < 1.7) & (np.abs(curves[:, :2]) < 1.2).all(axis=1)
    return curves[sound]


def _beyond(curves: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """How far, about, each point lies outside each curve: M x N, negative inside."""
    offsets = (rim - curves[:, None, :2]) / curves[:, None, 2:]
    return (np.hypot(offsets[..., 0], offsets[..., 1]) - 1) * curves[:, None, 2:].mean(axis=2)
