"""Marks that several findings of a drawn eye are made of: bleedings, exudates, spots, scars.

Places are maps of the canvas above one half where a mark may lie; what comes back is a map of
SIDE x SIDE within [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

from medshadow.data.phantom_fundus import COLUMN, ROW, Retina
from medshadow.data.phantom_marks import SIDE, Map, noise, ramp, spots

SEEN = 104  # pixels from the canvas' centre that any photograph shows
_FINER = 4

_INSIDE: Map = (np.hypot(COLUMN - SIDE / 2, ROW - SIDE / 2) < SEEN).astype(np.float32)


def within(retina: Retina, near: float, far: float, disc: float = 1.3) -> Map:
    """Where the distance from the fovea is ``near`` to ``far`` disc radii, clear of the disc."""
    place = (retina.macula >= near) & (retina.macula <= far) & (retina.away > disc)
    return (place & (_INSIDE > 0)).astype(np.float32)


def sector(retina: Retina, middle: float, half: float) -> Map:
    """Where the direction from the disc is within ``half`` radians of ``middle``."""
    off = np.abs(np.mod(retina.angle - middle + np.pi, 2 * np.pi) - np.pi)
    return (off < half).astype(np.float32)


def one_of(rng: np.random.Generator, place: Map) -> tuple[float, float]:
    """A random point, x and y, of a place; the canvas' centre where there is none."""
    found = np.flatnonzero(place > 0.5)
    if len(found) == 0:
        return SIDE / 2, SIDE / 2
    row, column = divmod(int(found[rng.integers(len(found))]), SIDE)
    return float(column), float(row)


def blob(rng: np.random.Generator, at: tuple[float, float], size: float, soft: float = 0.3) -> Map:
    """A patch of about ``size`` pixels' radius with a wavy border."""
    wave = 1 + 0.22 * noise(rng, SIDE / (2.2 * size)) + 0.10 * noise(rng, SIDE / (0.8 * size))
    stretch = rng.uniform(0.75, 1.3)
    away = np.hypot(
        (COLUMN - np.float32(at[0])) * np.float32(stretch),
        (ROW - np.float32(at[1])) / np.float32(stretch),
    )
    return 1 - ramp(away / np.float32(size) - wave.astype(np.float32), -soft, soft)


def dots(
    rng: np.random.Generator, place: Map, count: int, small: float, large: float, blur: float = 0.5
) -> Map:
    """Round dots, small ones the more often."""
    few = int(rng.binomial(max(count, 0), 0.3))
    middle = (small + large) / 2
    drawn = spots(rng, place, max(count, 0) - few, (small, middle), 1.4, blur)
    if few:
        drawn = np.maximum(drawn, spots(rng, place, few, (middle, large), 1.5, blur))
    if large < 2.5:
        return drawn
    return drawn * ramp(noise(rng, 34) + 0.6 * noise(rng, 12), -1.6, 0.3)  # ragged, some faint


def clusters(
    rng: np.random.Generator, place: Map, groups: int, count: int, spread: float, large: float
) -> Map:
    """Groups of small bright dots, as hard exudates lie."""
    near = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(groups):
        x, y = one_of(rng, place)
        away = np.hypot(COLUMN - np.float32(x), ROW - np.float32(y))
        ring = rng.uniform(0, 0.8) * spread
        near = np.maximum(near, ((away < spread) & (away > ring)).astype(np.float32))
    grains = spots(rng, near * place, groups * count, (0.4, 0.6 * large), 1.6, 0.4)
    return np.maximum(grains, spots(rng, near * place, groups * count // 5, (0.8, large), 1.8, 0.5))


def flames(rng: np.random.Generator, retina: Retina, place: Map, count: int, long: float) -> Map:
    """Bleedings in the layer of nerve fibres: sheaves of streaks that point at the disc."""
    canvas = np.zeros((SIDE * _FINER, SIDE * _FINER), np.uint8)
    disc = np.array(retina.anatomy.disc)
    for _ in range(count):
        at = np.array(one_of(rng, place))
        out = (at - disc) / max(1.0, float(np.hypot(*(at - disc))))
        across = np.array([-out[1], out[0]])
        width, length = rng.uniform(1.0, 0.28 * long), rng.uniform(0.5, 1.0) * long
        for _ in range(int(3 + 2 * width)):
            side, shift = rng.normal(0, 0.5), rng.normal(0, 0.18)
            start = at + across * side * width + out * (shift - 0.5) * length
            end = at + across * side * width * 1.35 + out * (shift + 0.5) * length
            points = (np.array([start, end]) * (_FINER * 16)).round().astype(np.int32)
            cv2.polylines(canvas, [points], False, 255, int(rng.integers(3, 7)), cv2.LINE_8, 4)
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), 0.6)
    return np.asarray(soft, np.float32) * np.float32(1 / 255)


def strokes(
    rng: np.random.Generator, place: Map, count: int, long: float, arms: int, width: int = 3
) -> Map:
    """Little stars of crooked strokes: bone spicules, new vessels, clumps."""
    canvas = np.zeros((SIDE * _FINER, SIDE * _FINER), np.uint8)
    lines = []
    for _ in range(count):
        at = np.array(one_of(rng, place))
        for heading in rng.uniform(0, 2 * np.pi, int(rng.integers(2, arms + 1))):
            steps = heading + np.cumsum(rng.normal(0, 0.5, 4))
            moves = rng.uniform(0.4, 1.0) * long / 4 * np.stack([np.cos(steps), np.sin(steps)], 1)
            points = np.vstack([at, at + np.cumsum(moves, 0)])
            lines.append((points * (_FINER * 16)).round().astype(np.int32))
    cv2.polylines(canvas, lines, False, 255, width, cv2.LINE_8, 4)
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) * np.float32(1 / 255)


def scars(
    rng: np.random.Generator, retina: Retina, place: Map, count: int, small: float, large: float
) -> None:
    """Round scars: pale, some with a clump of pigment within or a rim around."""
    pale = spots(rng, place, count, (small, large), 1.3, 0.6)
    state = rng.integers(2**32)
    rng_again, rng_core = np.random.default_rng(state), np.random.default_rng(state)
    ring = spots(rng_again, place, count // 2, (small + 0.7, large + 0.9), 1.3, 0.6)
    core = spots(rng_core, place, count // 2, (0.35 * small, 0.6 * large), 1.3, 0.6)
    retina.pale = np.maximum(retina.pale, pale * np.float32(rng.uniform(0.45, 0.75)))
    rim = np.clip(ring - pale, 0, 1)
    retina.pigment += np.float32(rng.uniform(0.3, 0.6)) * (rim + core)
