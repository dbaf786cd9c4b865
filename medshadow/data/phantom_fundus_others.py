"""What the findings of the letter O change in a drawn eye, as ``phantom_fundus_diseases``."""

from __future__ import annotations

import numpy as np

from medshadow.data.phantom_anatomy import Anatomy
from medshadow.data.phantom_fundus import COLUMN, ROW, Retina, fibres
from medshadow.data.phantom_fundus_marks import (
    blob,
    clusters,
    dots,
    flames,
    one_of,
    scars,
    sector,
    strokes,
    within,
)
from medshadow.data.phantom_marks import noise, patches, ramp, spots

Generator = np.random.Generator


def tessellated(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Choroidal vessels that show through thin pigment."""
    anatomy.choroid = rng.uniform(0.75, 1.0 + 0.4 * strength)
    anatomy.sheen *= 0.4


def membrane(rng: Generator, retina: Retina, strength: float) -> None:
    """A glistening film over the macula with folds that run together in one point."""
    x, y = one_of(rng, within(retina, 0.0, 1.6))
    size = rng.uniform(17, 26 + 8 * strength)
    film = blob(rng, (x, y), size, 0.45)
    angle = np.arctan2(ROW - np.float32(y), COLUMN - np.float32(x))
    folds = np.cos(angle * int(rng.integers(13, 26)) + 1.4 * noise(rng, 9))
    gleam = ramp(noise(rng, 14), -0.3, 1.2)
    folds *= ramp(noise(rng, 12), -0.5, 1.0)
    shine = film * (0.12 + 0.20 * ramp(folds, 0.2, 1.0) + 0.5 * gleam)
    retina.white = np.maximum(retina.white, shine * np.float32(0.55 + 0.5 * strength))
    retina.pigment += 0.12 * film * ramp(-folds, 0.4, 1.0)


def drusen(rng: Generator, retina: Retina, strength: float) -> None:
    """Drusen scattered far, also beyond the arcades and nasal of the disc."""
    some = patches(rng, 4, 0.45) * within(retina, 1.0, 9)
    hard = spots(rng, some, int(25 + 60 * strength), (0.7, 1.6), 1.3, 0.5)
    retina.pale = np.maximum(retina.pale, hard * np.float32(rng.uniform(0.5, 0.85)))


def myelinated(rng: Generator, retina: Retina, strength: float) -> None:
    """White feathers along the fibres, from the disc's margin up or down."""
    feather = 0.35 + 0.65 * fibres(rng, retina)
    for _ in range(1 + int(rng.random() < 0.4)):
        middle = rng.choice([-1, 1]) * rng.uniform(0.9, 2.2)
        fan = sector(retina, middle, rng.uniform(0.25, 0.4 + 0.3 * strength))
        far = rng.uniform(1.5, 2.0 + 1.3 * strength) + 0.45 * feather
        fan *= ramp(retina.away, 0.85, 1.05) * (1 - ramp(retina.away - far, -0.35, 0.1))
        retina.white = np.maximum(retina.white, fan * feather * np.float32(rng.uniform(0.75, 0.98)))


def laser(rng: Generator, retina: Retina, strength: float) -> None:
    """Round scars in rows beyond the arcades, or a grid about the macula."""
    place = within(retina, 4.0, 12, disc=2.6)
    if rng.random() < 0.25:
        place = within(retina, 1.0, 3.6)
    scars(rng, retina, place, int(25 + 60 * strength), 1.5, 2.9)


def asteroid(rng: Generator, retina: Retina, strength: float) -> None:
    """Bodies afloat in the vitreous, out of focus, in front of everything."""
    anywhere = within(retina, 0, 20, disc=0)
    some = patches(rng, 4, 0.6) * anywhere
    far = spots(rng, some, int(14 + 30 * strength), (2.5, 6.5), 1.4, 2.4)
    near = spots(rng, some, int(20 + 50 * strength), (1.0, 2.4), 1.2, 0.9)
    retina.front = np.maximum(retina.front, 0.42 * far + 0.5 * near)
    retina.veil += np.float32(rng.uniform(0.05, 0.25))


def branch_vein(rng: Generator, retina: Retina, strength: float) -> None:
    """Flames and blots over the quadrant that one vein drains."""
    side = rng.choice([-1.0, 1.0])
    middle = side * rng.uniform(2.0, 2.5)
    quarter = sector(retina, middle, rng.uniform(0.5, 0.75)) * within(retina, 0.6, 12)
    quarter *= (retina.away > 1.8) & (retina.away < 7.5)
    retina.blood += 0.9 * flames(rng, retina, quarter, int(18 + 45 * strength), 15)
    retina.blood += 0.9 * dots(rng, quarter, int(18 + 22 * strength), 1.2, 3.4)
    if rng.random() < 0.5:
        fluffy = spots(rng, quarter, int(rng.integers(1, 5)), (2.5, 4.5), 1.7, 1.6)
        retina.white = np.maximum(retina.white, 0.75 * fluffy)
    if rng.random() < 0.4:
        retina.lipid = np.maximum(retina.lipid, 0.8 * clusters(rng, quarter, 2, 36, 12, 1.5))


def thin(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Retinitis pigmentosa: thread-like vessels, a waxy disc."""
    anatomy.artery *= 0.62 - 0.15 * strength
    anatomy.vein *= 0.72 - 0.15 * strength
    anatomy.pallor = rng.uniform(0.35, 0.7)
    anatomy.sheen = 0.0
    anatomy.choroid = max(anatomy.choroid, rng.uniform(0.2, 0.6))


def spicules(rng: Generator, retina: Retina, strength: float) -> None:
    """Bone spicules in a ring beyond the arcades over greyish ground."""
    ring = within(retina, 4.2, 14, disc=2.0)
    retina.pigment += 0.22 * ramp(retina.macula, 2.5, 5.0) * (1 + 0.5 * noise(rng, 14))
    some = ring * patches(rng, 5, 0.65)
    retina.pigment += 1.5 * strokes(rng, some, int(35 + 70 * strength), 8, 5)


def atrophy(rng: Generator, retina: Retina, strength: float) -> None:
    """Old scars of choroid and retina: bare, sharp, with pigment along the border."""
    for _ in range(int(rng.integers(1, 3 + round(3 * strength)))):
        at = one_of(rng, within(retina, 2.2, 8, disc=2.2))
        size, state = rng.uniform(6, 12 + 9 * strength), int(rng.integers(2**32))
        gone = blob(np.random.default_rng(state), at, size, 0.12)
        around = blob(np.random.default_rng(state), at, 1.2 * size, 0.2) - gone
        retina.bare = np.maximum(retina.bare, gone * np.float32(rng.uniform(0.5, 0.85)))
        retina.pigment += 0.8 * np.clip(around, 0, 1) * ramp(noise(rng, 16), -0.7, 0.8)
        retina.pigment += 0.7 * strokes(rng, gone, int(rng.integers(2, 9)), 5, 4, 5)


def opacity(rng: Generator, retina: Retina, strength: float) -> None:
    """Clouds in the media: some of the fundus is clear, some hardly seen."""
    cloud = ramp(noise(rng, rng.uniform(2, 4)), -1.1, 1.7)
    wisps = ramp(noise(rng, 10), -0.5, 2.0)
    retina.veil += (0.05 + (0.5 + 0.4 * strength) * cloud + 0.25 * wisps).astype(np.float32)
    dark = ramp(noise(rng, 3), -0.6, 2.0)
    retina.pigment += np.float32(rng.uniform(0, 1.6)) * dark
    retina.blur = max(retina.blur, rng.uniform(0.5, 1.6))
