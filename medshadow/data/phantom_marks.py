"""The marks that drawn lesions are made of: noise, network, globules, streaks, vessels, ridges.

Each function takes a generator and gives a float32 map of ``SIDE x SIDE``, mostly within [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]

SIDE = 256  # the lesion's own canvas, about one image pixel a canvas pixel
_BINS = 720  # angles at which an outline is known
_SUBPIXEL = 4  # OpenCV draws at 1/16 pixel, so that small marks do not snap to the grid

_ROW, _COLUMN = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) - np.float32(SIDE / 2 - 0.5)
_RADIUS: Map = np.hypot(_ROW, _COLUMN)
_BIN = (np.arctan2(_ROW, _COLUMN) / (2 * np.pi) * _BINS).astype(np.int64) % _BINS


@dataclass(frozen=True)
class Shape:
    """Where a lesion is.

    Attributes:
        inside: SIDE x SIDE, 1 within, 0 outside, soft across the border.
        depth: SIDE x SIDE, pixels to the border along the ray, negative outside.
        edge: the border's distance from the centre in pixels for each of 720 angles.
    """

    inside: Map
    depth: Map
    edge: NDArray[np.float32]


def ramp(value: Map, low: float, high: float) -> Map:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def noise(rng: np.random.Generator, cells: float) -> Map:
    """Smooth noise of about unit deviation with ``cells`` humps across the canvas."""
    return grown(rng, round(cells) + 2, round(cells) + 2, SIDE, SIDE) * np.float32(1.3)


def grown(rng: np.random.Generator, rows: int, columns: int, height: int, width: int) -> Map:
    """Normal noise on a coarse grid, grown to ``height x width``."""
    coarse = rng.standard_normal((max(4, rows), max(4, columns)), dtype=np.float32)
    if 8 * rows >= height:
        return _resized(coarse, height, width, cv2.INTER_CUBIC)
    # Cubic to a quarter, then linear: as smooth to the eye, far quicker.
    quarter = _resized(coarse, height // 4, width // 4, cv2.INTER_CUBIC)
    return _resized(quarter, height, width, cv2.INTER_LINEAR)


def patches(rng: np.random.Generator, cells: float, share: float, soft: float = 1.2) -> Map:
    """Blotches with rough, soft edges that cover about ``share`` of the canvas."""
    field = noise(rng, cells) + np.float32(0.3) * noise(rng, 6 * cells)
    level = float(np.quantile(field[::8, ::8], 1 - share))
    return ramp(field, level - soft / 2, level + soft / 2)


def outline(
    rng: np.random.Generator,
    *,
    size: float,
    stretch: float,
    irregular: float,
    soft: float,
    uneven: float = 0.0,
) -> Shape:
    """A closed border.

    Args:
        rng: the generator.
        size: mean distance of the border from the centre, in pixels.
        stretch: long axis over short axis, at least 1.
        irregular: relative size of the border's bumps; 0 is an ellipse.
        soft: width of the border's fading, in pixels.
        uneven: 0 for the same fading all round, 1 for sharp on one side and soft on the other.
    """
    angle = np.arange(_BINS, dtype=np.float32) * np.float32(2 * np.pi / _BINS)
    turn = rng.uniform(0, np.pi)
    bumps = np.zeros(_BINS, np.float32)
    for wave in range(2, 10):
        bumps += rng.normal(0, irregular / wave**0.7) * np.cos(wave * angle + rng.uniform(0, 7))
    ellipse = 1 / np.hypot(np.cos(angle - turn) / stretch**0.5, np.sin(angle - turn) * stretch**0.5)
    edge = (size * ellipse * np.clip(1 + bumps, 0.45, 1.7)).astype(np.float32)
    ragged = 0.12 * irregular * size + 0.8
    depth = edge[_BIN] - _RADIUS + (noise(rng, 22) + 0.6 * noise(rng, 50)) * np.float32(ragged)
    side = 1 + uneven * np.cos(angle + rng.uniform(0, 7))
    width = np.maximum(1.5, soft * side).astype(np.float32)[_BIN]
    inside = np.clip(depth / width + 0.5, 0, 1)
    return Shape((inside * inside * (3 - 2 * inside)).astype(np.float32), depth, edge)


def network(
    rng: np.random.Generator, *, spacing: float, jitter: float, lines: float, gaps: float = 0.0
) -> Map:
    """Pigment network: 1 on the lines, 0 in the holes.

    Args:
        rng: the generator.
        spacing: distance of neighbouring holes in pixels.
        jitter: how far holes stray from the regular grid, in spacings.
        lines: width of the lines, 0 (thin) to 1 (broad).
        gaps: share of holes that are missing, which makes dark, broad meshes.
    """
    rows = np.arange(-1, SIDE / (0.866 * spacing) + 1)
    columns = np.arange(-1, SIDE / spacing + 1)
    y, x = np.meshgrid(rows * 0.866 * spacing, columns * spacing, indexing="ij")
    x = x + (np.arange(len(rows)) % 2)[:, None] * spacing / 2
    x = x + rng.normal(0, jitter * spacing, x.shape)
    y = y + rng.normal(0, jitter * spacing, y.shape)
    keep = (rng.random(x.shape) >= gaps) & (x >= 0) & (y >= 0) & (x < SIDE) & (y < SIDE)
    holes = np.full((SIDE, SIDE), 255, np.uint8)
    holes[y[keep].astype(np.int64), x[keep].astype(np.int64)] = 0
    away = cv2.distanceTransform(holes, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    middle = spacing * (0.42 - 0.22 * lines)
    return ramp(away.astype(np.float32), middle - 0.16 * spacing, middle + 0.16 * spacing)


def spots(
    rng: np.random.Generator,
    where: Map,
    count: int,
    radius: tuple[float, float],
    stretch: float = 1.3,
    blur: float = 0.6,
) -> Map:
    """Round or oval spots at random places where ``where`` is above one half."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    places = np.flatnonzero(where > 0.5)
    if count > 0 and len(places):
        chosen = places[rng.integers(0, len(places), count)]
        small = rng.uniform(*radius, count)
        long = small * rng.uniform(1, stretch, count)
        turn = rng.uniform(0, 180, count)
        one = 1 << _SUBPIXEL
        for place, a, b, t in zip(chosen, small, long, turn, strict=True):
            row, column = divmod(int(place), SIDE)
            centre = (column * one, row * one)
            axes = (max(1, round(a * one)), max(1, round(b * one)))
            cv2.ellipse(canvas, centre, axes, t, 0, 360, 255, -1, cv2.LINE_AA, _SUBPIXEL)
    return _blurred(canvas, blur)


def streaks(
    rng: np.random.Generator, shape: Shape, *, count: int, length: float, arc: float
) -> Map:
    """Radial streaks and pseudopods across the border, over ``arc`` of the way round (0 to 1)."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    start = rng.uniform(0, _BINS)
    for at in np.sort(rng.uniform(0, arc, count)):
        where = int(start + at * _BINS) % _BINS
        angle = where * 2 * np.pi / _BINS
        inner = shape.edge[where] - rng.uniform(0.6, 1.6) * length
        outer = shape.edge[where] + rng.uniform(-0.1, 0.5) * length
        lean = angle + rng.normal(0, 0.05)
        a, b = _point(inner, angle), _point(outer, lean)
        cv2.line(canvas, a, b, 255, int(rng.integers(1, 4)), cv2.LINE_AA, _SUBPIXEL)
        if rng.random() < 0.5:
            one = 1 << _SUBPIXEL
            cv2.circle(canvas, b, int(rng.uniform(1.2, 2.8) * one), 255, -1, cv2.LINE_AA, _SUBPIXEL)
    return _blurred(canvas, 0.7)


def vessels(rng: np.random.Generator, shape: Shape, *, trees: int, length: float) -> Map:
    """Arborising vessels: sharp stems from the border inwards that fork into finer branches."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(trees):
        where = int(rng.integers(0, _BINS))
        angle = where * 2 * np.pi / _BINS
        start = np.array([np.cos(angle), np.sin(angle)]) * shape.edge[where] * rng.uniform(0.5, 1.0)
        _branch(rng, canvas, start, angle + np.pi + rng.normal(0, 0.6), length, 3)
    return _blurred(canvas, 0.5)


def commas(rng: np.random.Generator, where: Map, count: int, length: float) -> Map:
    """Short curved vessels (comma and hairpin) scattered where ``where`` is above one half."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    places = np.flatnonzero(where > 0.5)
    for place in places[rng.integers(0, len(places), count)] if len(places) else []:
        row, column = divmod(int(place), SIDE)
        at = np.array([column - SIDE / 2, row - SIDE / 2])
        _path(rng, canvas, at, rng.uniform(0, 7), length, 1, bend=rng.choice([-0.5, 0.5]))
    return _blurred(canvas, 0.5)


def ridges(rng: np.random.Generator, *, period: float, wander: float) -> Map:
    """Parallel ridges as on a fingerprint; with much ``wander`` as on a brain. 1 in furrows."""
    turn = rng.uniform(0, np.pi)
    along = _COLUMN * np.float32(np.cos(turn)) + _ROW * np.float32(np.sin(turn))
    phase = along * np.float32(2 * np.pi / period) + np.float32(wander) * noise(rng, 7)
    return (0.5 + 0.5 * np.sin(phase)).astype(np.float32)


def organic(rng: np.random.Generator, layers: NDArray[np.float32], pixels: float) -> Map:
    """Bend all layers (SIDE x SIDE x up to 4) by the same smooth displacement."""
    middle = np.float32(SIDE / 2 - 0.5)
    x = _COLUMN + middle + noise(rng, 9) * np.float32(pixels)
    y = _ROW + middle + noise(rng, 9) * np.float32(pixels)
    bent = cv2.remap(layers, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(bent, np.float32)


def off_centre(rng: np.random.Generator, shape: Shape, *, size: float, far: float) -> Map:
    """A soft round region of ``size`` pixels, ``far`` pixels from the centre in some direction."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = far * np.cos(angle), far * np.sin(angle)
    wobble = (noise(rng, 8) + 0.5 * noise(rng, 24)) * np.float32(0.22 * size)
    away = np.hypot(_COLUMN - np.float32(x), _ROW - np.float32(y)) + wobble
    return ramp(-away, -1.5 * size, -0.4 * size) * shape.inside


def _resized(field: Map, height: int, width: int, how: int) -> Map:
    return np.asarray(cv2.resize(field, (width, height), interpolation=how), np.float32)


def _point(radius: float, angle: float) -> tuple[int, int]:
    one = 1 << _SUBPIXEL
    x, y = SIDE / 2 + radius * np.cos(angle), SIDE / 2 + radius * np.sin(angle)
    return round(x * one), round(y * one)


def _path(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    heading: float,
    length: float,
    width: int,
    bend: float = 0.0,
) -> tuple[NDArray[np.float64], float]:
    steps = max(3, int(length / 4))
    headings = heading + np.cumsum(rng.normal(bend, 0.22, steps))
    moves = np.stack([np.cos(headings), np.sin(headings)], 1) * (length / steps)
    points = np.vstack([start, start + np.cumsum(moves, 0)])
    pixels = ((points + SIDE / 2) * (1 << _SUBPIXEL)).round().astype(np.int32)
    cv2.polylines(canvas, [pixels], False, 255, width, cv2.LINE_AA, _SUBPIXEL)
    return points[-1], float(headings[-1])


def _branch(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    heading: float,
    length: float,
    width: int,
) -> None:
    end, heading = _path(rng, canvas, start, heading, length, width)
    if width > 1 or (length > 14 and rng.random() < 0.6):
        for side in (-1, 1):
            turn = heading + side * rng.uniform(0.3, 0.9)
            _branch(rng, canvas, end, turn, length * rng.uniform(0.5, 0.8), max(1, width - 1))


def _blurred(canvas: NDArray[np.uint8], sigma: float) -> Map:
    soft = cv2.GaussianBlur(canvas, (0, 0), sigma) if sigma > 0 else canvas
    return soft.astype(np.float32) / np.float32(255)
