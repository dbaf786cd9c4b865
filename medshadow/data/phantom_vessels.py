"""Retinal vessels of a drawn eye: arteries and veins that leave the disc and arch round the macula.

Courses are polylines, from thick to thin; they are drawn three times finer than the canvas, so that
a width need not be a whole number of pixels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from medshadow.data.phantom_anatomy import Anatomy
from medshadow.data.phantom_marks import SIDE, Map

Points = NDArray[np.float64]

_FINER = 3
_STEP = 5.0  # pixels between two points of a branch
_THINNEST = 0.6

# Trunks: direction from the disc in degrees, 0 nasal, 90 up; how far a temporal one arches.
_NASAL = (38.0, -38.0)
_TEMPORAL = (1.0, -1.0)


@dataclass
class Course:
    """One vessel from its stem to its end.

    Attributes:
        points: n x 2, x and y on the canvas.
        widths: n widths in pixels.
        quadrant: which trunk it belongs to: "up temporal", "down nasal" and so on.
    """

    points: Points
    widths: NDArray[np.float64]
    quadrant: str


@dataclass
class Vessels:
    """Drawn vessels: each map SIDE x SIDE within 0 to 1.

    Attributes:
        arteries: where arteries run.
        veins: where veins run.
        reflex: the bright streak along the arteries.
        over: where an artery crosses a vein, and a little around.
        courses: the veins' courses, by which bleedings are laid.
    """

    arteries: Map
    veins: Map
    reflex: Map
    over: Map
    courses: list[Course] = field(default_factory=list)


def grow_vessels(rng: np.random.Generator, anatomy: Anatomy) -> Vessels:
    """Grow both trees of an eye and draw them.

    Args:
        rng: the generator.
        anatomy: where disc and macula are, and how wide and winding vessels are.

    Returns:
        Drawn vessels with the courses of the veins.
    """
    veins = _tree(rng, anatomy, anatomy.vein, arch=0.0)
    arteries = _tree(rng, anatomy, anatomy.artery, arch=rng.choice([-0.09, 0.09]))
    drawn_arteries = draw_courses(arteries)
    around = cv2.dilate(drawn_arteries, np.ones((5, 5), np.uint8))
    return Vessels(
        arteries=drawn_arteries,
        veins=draw_courses(veins),
        reflex=draw_courses(arteries, share=0.34, least=1.9),
        over=np.asarray(cv2.GaussianBlur(around, (0, 0), 1.2), np.float32),
        courses=veins,
    )


def draw_courses(courses: list[Course], share: float = 1.0, least: float = 0.0) -> Map:
    """Draw vessels, each ``share`` of its width, leaving out what is thinner than ``least``."""
    pieces = defaultdict(list)
    for course in courses:
        pixels = (course.points * (_FINER * 16)).round().astype(np.int32)
        for start in range(0, len(pixels) - 1, 3):
            wide = course.widths[start]
            if wide >= least:
                pieces[max(1, round(wide * share * _FINER))].append(pixels[start : start + 4])
    canvas = np.zeros((SIDE * _FINER, SIDE * _FINER), np.uint8)
    for thickness, lines in sorted(pieces.items()):  # thin ones are the paler: less blood
        level = min(255, 95 + 20 * thickness)
        cv2.polylines(canvas, lines, False, level, thickness, cv2.LINE_8, 4)
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) * np.float32(1 / 255)


def _tree(rng: np.random.Generator, anatomy: Anatomy, width: float, arch: float) -> list[Course]:
    courses: list[Course] = []
    for side in _TEMPORAL:
        name = ("up" if side > 0 else "down") + " temporal"
        trunk = _arcade(rng, anatomy, side, rng.uniform(0.68, 0.86) + arch)
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.92, 1.08), name, 2)
    for degrees in _NASAL:
        name = ("up" if degrees > 0 else "down") + " nasal"
        trunk = _straight(rng, anatomy, np.radians(degrees + rng.normal(0, 9) + 60 * arch), 95)
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.5, 0.72), name, 2)
    for _ in range(int(rng.integers(1, 4))):  # small ones straight to the macula and nasally
        degrees = rng.choice([180.0, 180.0, 0.0]) + rng.normal(0, 24)
        trunk = _straight(rng, anatomy, np.radians(degrees), rng.uniform(30, 55))
        _branch_out(rng, anatomy, courses, trunk, width * rng.uniform(0.26, 0.36), "small", 1)
    return courses


def _arcade(rng: np.random.Generator, anatomy: Anatomy, side: float, height: float) -> Points:
    """From the disc up (or down), round the macula and on towards the temporal edge."""
    disc, fovea = np.array(anatomy.disc), np.array(anatomy.fovea)
    reach = float(np.hypot(*(fovea - disc)))
    t = np.linspace(0.02, 0.87, 36) * np.pi
    centre = disc + (fovea - disc) * 0.86
    across = np.where(t < np.pi / 2, 0.86 * reach, rng.uniform(1.6, 2.2) * reach)
    lean = np.arctan2(fovea[1] - disc[1], disc[0] - fovea[0])
    x = across * np.cos(t)
    y = -side * height * reach * np.sin(np.minimum(t, 2.2)) ** 0.8
    x, y = x * np.cos(lean) + y * np.sin(lean), y * np.cos(lean) - x * np.sin(lean)
    points = centre + np.stack([x, y], 1)
    # Stems leave from the middle of the disc, nasal of its centre.
    start = disc + np.array([anatomy.radius * rng.uniform(-0.05, 0.3), 0.0])
    pull = np.exp(-np.arange(36) / 2.0)[:, None]
    points += pull * (start - points[0])
    return points + _wander(rng, 36, 1.5 * anatomy.tortuous)


def _straight(rng: np.random.Generator, anatomy: Anatomy, angle: float, length: float) -> Points:
    """Outward from the disc, slightly bent."""
    start = np.array(anatomy.disc) + rng.normal(0, 0.12 * anatomy.radius, 2)
    count = max(4, int(length / _STEP))
    heading = angle + np.linspace(0, rng.normal(0, 0.4), count)
    moves = _STEP * np.stack([np.cos(heading), -np.sin(heading)], 1)
    return start + np.cumsum(moves, 0) + _wander(rng, count, 1.2 * anatomy.tortuous)


def _wander(rng: np.random.Generator, count: int, size: float) -> Points:
    """Smooth sideways winding along a vessel, none at its stem."""
    loose = rng.normal(0, 1, (count + 2, 2))
    smooth = (loose[:-2] + 2 * loose[1:-1] + loose[2:]) / 2.45
    drift = np.cumsum(rng.normal(0, 0.35, (count, 2)), 0)
    return size * np.minimum(1, np.arange(count) / 4)[:, None] * (0.75 * smooth + drift)


def _branch_out(
    rng: np.random.Generator,
    anatomy: Anatomy,
    courses: list[Course],
    points: Points,
    width: float,
    quadrant: str,
    depth: int,
) -> None:
    """Add a vessel and the branches that leave it."""
    points = _outside_fovea(anatomy, points)
    count = len(points)
    if count < 3:
        return
    thin = max(_THINNEST, 0.36 * width)
    courses.append(Course(points, np.linspace(width, thin, count), quadrant))
    if depth == 0:
        return
    side = rng.choice([-1.0, 1.0])
    at = rng.uniform(3, 6)
    while at < count - 3:
        here = int(at)
        along = points[here + 1] - points[here - 1]
        heading = np.arctan2(along[1], along[0]) + side * rng.uniform(0.45, 1.0)
        length = rng.uniform(0.5, 1.2) * (30 + 0.5 * _STEP * (count - here)) * (0.4 + 0.3 * depth)
        steps = max(4, int(length / _STEP))
        bend = -side * rng.uniform(0.0, 0.9)
        headings = heading + np.linspace(0, bend, steps)
        headings += np.cumsum(rng.normal(0, 0.13 * anatomy.tortuous, steps))
        headings += 0.22 * anatomy.tortuous * np.sin(np.arange(steps) * rng.uniform(0.7, 1.3))
        moves = _STEP * np.stack([np.cos(headings), np.sin(headings)], 1)
        moves[0] = 0
        share = width * (1 - 0.5 * here / count) * rng.uniform(0.42, 0.66)
        branch = points[here] + np.cumsum(moves, 0)
        if share > 0.55:
            _branch_out(rng, anatomy, courses, branch, share, quadrant, depth - 1)
        side = -side if rng.random() < 0.75 else side
        at += rng.uniform(3.0, 7.5)


def _outside_fovea(anatomy: Anatomy, points: Points) -> Points:
    """Cut a vessel where it would enter the fovea or leave the canvas."""
    near = np.hypot(*(points - np.array(anatomy.fovea)).T) < 0.75 * anatomy.radius
    gone = near | (np.abs(points - SIDE / 2) > SIDE / 2 + 8).any(1)
    first = int(gone.argmax()) if gone.any() else len(points)
    return points[:first]
