"""Retinal vessels of a drawn eye: arteries and veins that leave the disc and arch round the macula.

Points are complex numbers, x + iy on the canvas. Vessels are drawn three times finer than the
canvas, so that a width need not be a whole number of pixels.
"""

from __future__ import annotations

import cmath
import math
from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medshadow.data.phantom_anatomy import Anatomy
from medshadow.data.phantom_marks import SIDE, Map

Points = NDArray[np.complex128]

_FINER = 3
_STEP = 5.0  # pixels between two points of a branch
_THINNEST = 0.6
_COUNT = np.arange(64.0)


@dataclass
class Vessels:
    """Drawn vessels: each map SIDE x SIDE within 0 to 1.

    Attributes:
        arteries: where arteries run.
        veins: where veins run.
        reflex: the bright streak along the arteries.
        over: where an artery crosses a vein, and a little around.
    """

    arteries: Map
    veins: Map
    reflex: Map
    over: Map


@dataclass
class _Course:
    """One vessel from its stem to its end, with its width in pixels at both."""

    points: Points
    stem: float
    end: float


def grow_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Vessels:
    """Grow both trees of an eye and draw them.

    Args:
        rng: the generator.
        anatomy: where disc and macula are, and how wide and winding vessels are.
    """
    veins = _tree(rng, anatomy, anatomy.vein, arch=0.0)
    arteries = _tree(rng, anatomy, anatomy.artery, arch=0.09 * float(rng.choice([-1, 1])))
    drawn = _draw(arteries)
    around = cv2.dilate(drawn, np.ones((5, 5), np.uint8))
    return Vessels(
        arteries=drawn,
        veins=_draw(veins),
        reflex=_draw(arteries, share=0.34, least=1.9),
        over=np.asarray(cv2.GaussianBlur(around, (0, 0), 1.2), np.float32),
    )


def _draw(courses: list[_Course], share: float = 1.0, least: float = 0.0) -> Map:
    """Draw vessels, each ``share`` of its width, leaving out what is thinner than ``least``."""
    pieces = defaultdict(list)
    for course in courses:
        count = len(course.points)
        plane = course.points.view(np.float64).reshape(-1, 2)
        pixels = (plane * (_FINER * 16)).round().astype(np.int32)
        for start in range(0, count - 1, 3):
            wide = course.stem + (course.end - course.stem) * start / count
            if wide >= least:
                pieces[max(1, round(wide * share * _FINER))].append(pixels[start : start + 4])
    canvas = np.zeros((SIDE * _FINER, SIDE * _FINER), np.uint8)
    for thickness, lines in sorted(pieces.items()):  # thin ones are the paler: less blood
        level = min(255, 95 + 20 * thickness)
        cv2.polylines(canvas, lines, False, level, thickness, cv2.LINE_8, 4)
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) * np.float32(1 / 255)


def _tree(rng: np.random.Generator, anatomy: Anatomy, width: float, arch: float) -> list[_Course]:
    courses: list[_Course] = []
    for side in (1.0, -1.0):  # temporal, above and below
        trunk = _arcade(rng, anatomy, side, rng.uniform(0.68, 0.86) + arch)
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.92, 1.08), 2)
    for degrees in (38.0, -38.0):  # nasal
        trunk = _straight(rng, anatomy, math.radians(degrees + rng.normal(0, 9) + 60 * arch), 95)
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.5, 0.72), 2)
    for _ in range(int(rng.integers(1, 4))):  # small ones straight to the macula and nasally
        degrees = float(rng.choice([180, 180, 0])) + rng.normal(0, 24)
        trunk = _straight(rng, anatomy, math.radians(degrees), rng.uniform(30, 55))
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.26, 0.36), 1)
    return courses


def _arcade(rng: np.random.Generator, anatomy: Anatomy, side: float, height: float) -> Points:
    """From the disc up (or down), round the macula and on towards the temporal edge."""
    disc, fovea = complex(*anatomy.disc), complex(*anatomy.fovea)
    reach = abs(fovea - disc)
    turn = (disc - fovea) / reach
    t = np.linspace(0.02, 0.87, 36) * np.pi
    across = np.where(t < np.pi / 2, 0.86, rng.uniform(1.6, 2.2)) * np.cos(t)
    down = -side * height * np.sin(np.minimum(t, 2.2)) ** 0.8
    points = disc + (fovea - disc) * 0.86 + reach * turn * (across + 1j * down)
    # Stems leave from the middle of the disc, nasal of its centre.
    start = disc + anatomy.radius * rng.uniform(-0.05, 0.3)
    points += np.exp(-_COUNT[:36] / 2) * (start - points[0])
    return np.asarray(points + _wander(rng, 36, 1.5 * anatomy.tortuous))


def _straight(rng: np.random.Generator, anatomy: Anatomy, angle: float, length: float) -> Points:
    """Outward from the disc, slightly bent."""
    start = complex(*anatomy.disc) + 0.12 * anatomy.radius * complex(*rng.normal(0, 1, 2))
    count = max(4, int(length / _STEP))
    heading = -angle + rng.normal(0, 0.4) / count * _COUNT[:count]
    points = start + _STEP * np.cumsum(np.exp(1j * heading))
    return np.asarray(points + _wander(rng, count, 1.2 * anatomy.tortuous))


def _wander(rng: np.random.Generator, count: int, size: float) -> Points:
    """Smooth winding along a vessel, none at its stem."""
    loose = rng.normal(0, 1, 2 * count + 4).view(np.complex128)
    smooth = (loose[:-2] + 2 * loose[1:-1] + loose[2:]) / 2.45
    drift = np.cumsum(rng.normal(0, 0.35, 2 * count).view(np.complex128))
    return np.asarray(size * np.minimum(1, _COUNT[:count] / 4) * (0.75 * smooth + drift))


def _branch_out(
    rng: np.random.Generator,
    anatomy: Anatomy,
    courses: list[_Course],
    points: Points,
    width: float,
    depth: int,
) -> None:
    """Add a vessel and the branches that leave it."""
    points = _outside_fovea(anatomy, points)
    count = len(points)
    if count < 3:
        return
    courses.append(_Course(points, width, max(_THINNEST, 0.36 * width)))
    if depth == 0:
        return
    side = float(rng.choice([-1, 1]))
    at = rng.uniform(3, 6)
    while at < count - 3:
        here = int(at)
        share = width * (1 - 0.5 * here / count) * rng.uniform(0.42, 0.66)
        if share > 0.55:
            heading = cmath.phase(points[here + 1] - points[here - 1])
            length = rng.uniform(0.5, 1.2) * (30 + 0.5 * _STEP * (count - here))
            steps = max(4, int(length * (0.4 + 0.3 * depth) / _STEP))
            branch = points[here] + _branch(rng, heading, side, steps, anatomy.tortuous)
            _branch_out(rng, anatomy, courses, branch, share, depth - 1)
        side = -side if rng.random() < 0.75 else side
        at += rng.uniform(3.0, 7.5)


def _branch(
    rng: np.random.Generator, heading: float, side: float, steps: int, tortuous: float
) -> Points:
    """The way of a branch: off to a side, bending back, winding."""
    count = _COUNT[:steps]
    headings = np.cumsum(rng.normal(-side * rng.uniform(0, 0.9) / steps, 0.13 * tortuous, steps))
    headings += heading + side * rng.uniform(0.45, 1.0)
    headings += 0.22 * tortuous * np.sin(rng.uniform(0.7, 1.3) * count)
    moves = _STEP * np.exp(1j * headings)
    moves[0] = 0
    return np.asarray(np.cumsum(moves))


def _outside_fovea(anatomy: Anatomy, points: Points) -> Points:
    """Cut a vessel where it would enter the fovea or leave the canvas."""
    gone = abs(points - complex(*anatomy.fovea)) < 0.75 * anatomy.radius
    gone |= abs(points - complex(SIDE / 2, SIDE / 2)) > 0.62 * SIDE
    return points[: int(gone.argmax())] if gone.any() else points
