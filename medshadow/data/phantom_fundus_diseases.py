"""What the six named diseases change in a drawn eye.

A function either changes the anatomy before the eye is drawn or paints onto it afterwards.
``strength`` runs from 0, hardly to be seen, to 1.
"""

from __future__ import annotations

import numpy as np

from medshadow.data.phantom_anatomy import Anatomy
from medshadow.data.phantom_fundus import COLUMN, ROW, Retina
from medshadow.data.phantom_fundus_marks import (
    blob,
    clusters,
    dots,
    flames,
    one_of,
    strokes,
    within,
)
from medshadow.data.phantom_marks import SIDE, noise, ramp, spots

Generator = np.random.Generator


def mild(rng: Generator, retina: Retina, strength: float) -> None:
    """Microaneurysms, a few small bleedings."""
    count = int(7 + 13 * strength)
    retina.blood += 1.1 * dots(rng, within(retina, 0.5, 5.5), count, 0.8, 1.4)
    retina.blood += 1.0 * dots(rng, within(retina, 0.8, 6.0), int(1 + 5 * strength), 1.3, 2.2)


def moderate(rng: Generator, retina: Retina, strength: float) -> None:
    """Blots, microaneurysms, hard exudates, sometimes cotton wool."""
    mild(rng, retina, strength)
    retina.blood += 1.0 * dots(rng, within(retina, 0.8, 7), int(7 + 14 * strength), 1.4, 3.2)
    if rng.random() < 0.75:
        place = within(retina, 0.3, 4.5)
        groups = int(rng.integers(1, 3 + round(2 * strength)))
        yellow = clusters(rng, place, groups, int(rng.integers(16, 55)), rng.uniform(6, 15), 1.5)
        retina.lipid = np.maximum(retina.lipid, yellow * np.float32(rng.uniform(0.6, 0.95)))
    if rng.random() < 0.35 + 0.3 * strength:
        _cotton_wool(rng, retina, int(rng.integers(1, 4)))


def severe(rng: Generator, retina: Retina, strength: float) -> None:
    """Many blots in every quadrant, cotton wool, beaded veins, flames."""
    moderate(rng, retina, 0.6 + 0.4 * strength)
    retina.blood += 1.1 * dots(rng, within(retina, 1, 9), int(26 + 34 * strength), 1.1, 3.9)
    retina.blood += 0.9 * flames(rng, retina, within(retina, 1, 8), int(3 + 7 * strength), 12)
    beads = ramp(noise(rng, 44), 0.1, 0.9) * retina.vessels.veins
    retina.blood += 0.8 * strength * beads
    _cotton_wool(rng, retina, int(rng.integers(2, 6)))


def proliferative(rng: Generator, retina: Retina, strength: float) -> None:
    """New vessels, bleeding before the retina, bands of scar."""
    moderate(rng, retina, strength)
    place = ((retina.away < 2.2) & (retina.away > 0.2)).astype(np.float32)
    places = [place, *(within(retina, 3, 8) for _ in range(int(rng.integers(0, 3))))]
    for place in places:
        patch = blob(rng, one_of(rng, place), rng.uniform(8, 13))
        retina.blood += 0.75 * strokes(rng, patch, int(10 + 10 * strength), 13, 5, 2)
    if rng.random() < 0.6:
        x, y = one_of(rng, within(retina, 1.5, 6))
        boat = blob(rng, (x, y), rng.uniform(10, 22), 0.12) * ramp(ROW - np.float32(y), -1.5, 1.5)
        retina.blood += rng.uniform(1.0, 1.7) * boat
    if rng.random() < 0.5:
        band = blob(rng, one_of(rng, within(retina, 2, 7)), rng.uniform(9, 20))
        band *= ramp(noise(rng, 16), -0.5, 0.7)
        retina.white = np.maximum(retina.white, band * np.float32(rng.uniform(0.4, 0.75)))


def any_diabetes(rng: Generator, retina: Retina, strength: float) -> None:
    """A retinopathy whose grade was not written down."""
    (moderate if rng.random() < 0.7 else severe)(rng, retina, strength)


def _cotton_wool(rng: Generator, retina: Retina, count: int) -> None:
    place = ((retina.away > 1.6) & (retina.away < 6)).astype(np.float32) * within(retina, 1.5, 8)
    fluffy = spots(rng, place, count, (2.2, 4.2), 1.7, 1.7)
    retina.white = np.maximum(retina.white, fluffy * np.float32(rng.uniform(0.55, 0.9)))


def wide_cup(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Glaucoma: a tall cup, a thinned rim below or above, lost fibres, a paler disc."""
    anatomy.cup = float(np.clip(0.62 + 0.26 * strength + rng.normal(0, 0.03), anatomy.cup, 0.92))
    below = rng.random() < 0.65
    where = (-1 if below else 1) * rng.uniform(np.pi / 2, 2.1)
    if rng.random() < 0.75:
        anatomy.notch = (where, rng.uniform(0.1, 0.35))
    if rng.random() < 0.3 + 0.6 * strength:
        anatomy.defect = (where, rng.uniform(0.12, 0.3))
    anatomy.sheen *= rng.uniform(0.2, 0.8)
    anatomy.pallor = rng.uniform(0.3, 0.5 + 0.4 * strength)
    anatomy.artery *= rng.uniform(0.8, 1.0)
    if rng.random() < 0.5:
        anatomy.crescent = max(anatomy.crescent, rng.uniform(0.15, 0.5))
        anatomy.halo = rng.uniform(0.2, 0.8)


def cataract(rng: Generator, retina: Retina, strength: float) -> None:
    """Haze and blur that swallow the small vessels; spokes and a denser middle."""
    spokes = noise(rng, 5) * 0.10 + noise(rng, 10) * 0.05
    angle = np.arctan2(ROW - SIDE / 2, COLUMN - SIDE / 2)
    spokes += 0.05 * np.cos(angle * int(rng.integers(3, 8)) + rng.uniform(0, 7))
    retina.veil += np.clip(0.34 + 0.42 * strength + spokes, 0, 0.92).astype(np.float32)
    retina.blur = max(retina.blur, 0.9 + 2.7 * strength)


def dry(rng: Generator, retina: Retina, strength: float) -> None:
    """Many drusen about the macula, some run together; patches where the pigment layer is gone."""
    place = within(retina, 0.0, 2.2 + 1.4 * rng.random())
    hard = spots(rng, place, int(20 + 45 * strength), (0.7, 1.7), 1.3, 0.6)
    soft = spots(rng, place, int(8 + 22 * strength), (1.6, 3.3), 1.3, 1.0)
    both = np.maximum(hard, 0.85 * soft)
    retina.pale = np.maximum(retina.pale, both * np.float32(rng.uniform(0.5, 0.8)))
    retina.pigment += 0.5 * strokes(rng, place, int(12 * rng.random()), 3, 3)
    if rng.random() < 0.25 + 0.45 * strength:
        size = rng.uniform(9, 15 + 12 * strength)
        gone = blob(rng, one_of(rng, within(retina, 0.0, 1.2)), size, 0.13)
        retina.pale = np.maximum(retina.pale, gone * np.float32(rng.uniform(0.5, 0.75)))
        retina.pigment *= 1 - gone
        retina.choroid -= 0.45 * gone * ramp(noise(rng, 24), -0.3, 1.0)


def wet(rng: Generator, retina: Retina, strength: float) -> None:
    """Bleeding under the macula round a grey membrane, exudates, later a scar."""
    at = one_of(rng, within(retina, 0.0, 1.1))
    size = rng.uniform(9, 13 + 10 * strength)
    if rng.random() < 0.72:
        blood = blob(rng, at, size, 0.25) * ramp(noise(rng, 14), -0.7, 0.6)
        retina.blood += np.float32(rng.uniform(0.8, 1.5)) * blood
        retina.pigment += 0.25 * blob(rng, at, 0.6 * size)
    if rng.random() < 0.6:
        off = rng.normal(0, 0.55 * size, 2)
        scar = blob(rng, (at[0] + off[0], at[1] + off[1]), rng.uniform(0.5, 1.0) * size, 0.35)
        scar *= ramp(noise(rng, 20), -1.6, 0.2)
        retina.lipid = np.maximum(retina.lipid, scar * np.float32(rng.uniform(0.4, 0.8)))
        retina.pigment += 0.5 * strokes(rng, scar, int(rng.integers(2, 14)), 4, 3)
    ring = within(retina, 0.8, 3.0)
    yellow = clusters(rng, ring, int(rng.integers(1, 4)), 34, 9, 1.5)
    retina.lipid = np.maximum(retina.lipid, yellow * np.float32(rng.uniform(0.4, 0.9)))
    some = spots(rng, within(retina, 0, 3.5), int(rng.integers(4, 26)), (0.8, 2.0), 1.3, 0.8)
    retina.pale = np.maximum(retina.pale, 0.5 * some)


def any_macular(rng: Generator, retina: Retina, strength: float) -> None:
    """A degeneration whose form was not written down."""
    (dry if rng.random() < 0.6 else wet)(rng, retina, strength)


def narrow(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Hypertension: narrow arteries with a bright reflex that press on the veins."""
    anatomy.artery *= 0.74 - 0.26 * strength
    anatomy.vein *= rng.uniform(1.0, 1.2)
    anatomy.nicking = rng.uniform(0.6, 1.0)
    anatomy.reflex = rng.uniform(0.8, 1.5)
    anatomy.tortuous *= rng.uniform(1.0, 1.7)


def hypertension(rng: Generator, retina: Retina, strength: float) -> None:
    """Flames near the disc, cotton wool; at its worst a star of exudates in the macula."""
    near = ((retina.away > 1.2) & (retina.away < 4.2)).astype(np.float32)
    near *= within(retina, 1.2, 9)
    retina.blood += 0.95 * flames(rng, retina, near, int(3 + 9 * strength), 13)
    if rng.random() < 0.3 + 0.5 * strength:
        _cotton_wool(rng, retina, int(rng.integers(1, 5)))
    if rng.random() < 0.35 * strength + 0.1:
        x, y = retina.anatomy.fovea
        angle = np.arctan2(ROW - np.float32(y), COLUMN - np.float32(x))
        rays = ramp(np.cos(angle * int(rng.integers(9, 15)) + noise(rng, 8)), 0.7, 1.0)
        star = rays * ramp(retina.macula, 0.2, 0.4) * (1 - ramp(retina.macula, 0.9, 1.9))
        star *= ramp(noise(rng, 50), -0.4, 0.5)
        retina.lipid = np.maximum(retina.lipid, 0.85 * star)


def long_eye(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Myopia: a tilted disc with a broad crescent, and choroid that shines through."""
    anatomy.tilt = rng.uniform(1.2, 1.35 + 0.35 * strength)
    anatomy.turn = rng.normal(0, 0.45)
    anatomy.crescent = rng.uniform(0.4, 0.8 + 0.9 * strength)
    anatomy.halo = rng.uniform(0.1, 0.3 + 0.7 * strength)
    anatomy.choroid = rng.uniform(0.55, 0.9 + 0.5 * strength)
    anatomy.sheen *= 0.3
    anatomy.tortuous *= rng.uniform(0.5, 0.9)


def myopia(rng: Generator, retina: Retina, strength: float) -> None:
    """Patches of bare sclera, cracks, a dark spot at the fovea."""
    for _ in range(int(rng.integers(0, 2 + round(4 * strength)))):
        size = rng.uniform(5, 9 + 16 * strength)
        gone = blob(rng, one_of(rng, within(retina, 0.4, 6.5)), size, 0.18)
        retina.bare = np.maximum(retina.bare, gone * np.float32(rng.uniform(0.5, 0.9)))
        retina.pigment += 0.45 * strokes(rng, gone, int(rng.integers(0, 9)), 4, 3)
    if rng.random() < 0.4:
        cracks = strokes(rng, within(retina, 0, 3), int(rng.integers(2, 5)), 30, 2)
        retina.pale = np.maximum(retina.pale, 0.4 * cracks)
    if rng.random() < 0.2:
        retina.pigment += 0.9 * blob(rng, retina.anatomy.fovea, rng.uniform(3, 6))
