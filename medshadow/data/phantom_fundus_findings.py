"""One recipe a finding: what a disease changes in a drawn eye, by the organisers' keywords.

A finding may change the anatomy before the eye is drawn (a wide cup, narrow arteries) and paint
onto it afterwards (bleedings, drusen, haze). ``strength`` runs from 0, hardly to be seen, to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medshadow.data.phantom_fundus import (
    COLUMN,
    ROW,
    Anatomy,
    Person,
    Retina,
    draw_healthy,
    fibres,
    lay_out,
)
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
from medshadow.data.phantom_marks import SIDE, noise, patches, ramp, spots

Generator = np.random.Generator
Alter = Callable[[Generator, Anatomy, float], None]
Paint = Callable[[Generator, Retina, float], None]


@dataclass(frozen=True)
class Finding:
    """One keyword of the organisers' vocabulary.

    Attributes:
        paint: lays it onto the drawn eye.
        alter: changes the anatomy before drawing.
    """

    paint: Paint
    alter: Alter | None = None


def draw_eye(rng: Generator, person: Person, findings: dict[str, float]) -> Retina:
    """Draw one eye of a person with what is found in it.

    Args:
        rng: the generator that decides everything about it.
        person: what it shares with the other eye.
        findings: strength of each finding by keyword, one of ``FINDINGS``.

    Returns:
        The eye, drawn as a right one.

    Example:
        >>> from medshadow.data.phantom_fundus import draw_person
        >>> rng = np.random.default_rng(0)
        >>> draw_eye(rng, draw_person(rng, 70), {"drusen": 0.7}).pale.shape
        (256, 256)
    """
    anatomy = lay_out(rng, person)
    for keyword, strength in findings.items():
        alter = FINDINGS[keyword].alter
        if alter is not None:
            alter(rng, anatomy, strength)
    retina = draw_healthy(rng, anatomy)
    for keyword, strength in findings.items():
        FINDINGS[keyword].paint(rng, retina, strength)
    _borrow(rng, retina)
    return retina


def _borrow(rng: Generator, retina: Retina) -> None:
    """Marks any eye may carry, so that no single one of them gives a disease away."""
    if rng.random() < 0.12:  # a few pale specks
        few = spots(rng, within(retina, 0.5, 6), int(rng.integers(1, 6)), (0.7, 1.4), 1.3, 0.8)
        retina.pale = np.maximum(retina.pale, 0.35 * few)
    if rng.random() < 0.08:  # a naevus of the choroid
        retina.pigment += 0.3 * blob(rng, one_of(rng, within(retina, 2, 9)), rng.uniform(5, 12))
    if rng.random() < 0.08:
        retina.blood += 0.7 * dots(rng, within(retina, 1, 7), int(rng.integers(1, 3)), 0.6, 1.2)
    if rng.random() < 0.25:
        retina.veil += np.float32(rng.uniform(0, 0.3))
        retina.blur = max(retina.blur, rng.uniform(0, 1.0))


def _mild(rng: Generator, retina: Retina, strength: float) -> None:
    """Microaneurysms, a few small bleedings."""
    count = int(7 + 13 * strength)
    retina.blood += 1.1 * dots(rng, within(retina, 0.5, 5.5), count, 0.8, 1.4)
    retina.blood += 1.0 * dots(rng, within(retina, 0.8, 6.0), int(1 + 5 * strength), 1.3, 2.2)


def _moderate(rng: Generator, retina: Retina, strength: float) -> None:
    """Blots, microaneurysms, hard exudates, sometimes cotton wool."""
    _mild(rng, retina, strength)
    retina.blood += 1.0 * dots(rng, within(retina, 0.8, 7), int(7 + 14 * strength), 1.4, 3.2)
    if rng.random() < 0.75:
        place = within(retina, 0.3, 4.5)
        groups = int(rng.integers(1, 3 + round(2 * strength)))
        yellow = clusters(rng, place, groups, int(rng.integers(16, 55)), rng.uniform(6, 15), 1.5)
        retina.lipid = np.maximum(retina.lipid, yellow * np.float32(rng.uniform(0.6, 0.95)))
    if rng.random() < 0.35 + 0.3 * strength:
        _cotton_wool(rng, retina, int(rng.integers(1, 4)))


def _severe(rng: Generator, retina: Retina, strength: float) -> None:
    """Many blots in every quadrant, cotton wool, beaded veins, flames."""
    _moderate(rng, retina, 0.6 + 0.4 * strength)
    retina.blood += 1.1 * dots(rng, within(retina, 1, 9), int(26 + 34 * strength), 1.1, 3.9)
    retina.blood += 0.9 * flames(rng, retina, within(retina, 1, 8), int(3 + 7 * strength), 12)
    beads = ramp(noise(rng, 44), 0.1, 0.9) * retina.vessels.veins
    retina.blood += 0.8 * strength * beads
    _cotton_wool(rng, retina, int(rng.integers(2, 6)))


def _proliferative(rng: Generator, retina: Retina, strength: float) -> None:
    """New vessels, bleeding before the retina, bands of scar."""
    _moderate(rng, retina, strength)
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


def _any_diabetes(rng: Generator, retina: Retina, strength: float) -> None:
    (_moderate if rng.random() < 0.7 else _severe)(rng, retina, strength)


def _cotton_wool(rng: Generator, retina: Retina, count: int) -> None:
    place = ((retina.away > 1.6) & (retina.away < 6)).astype(np.float32) * within(retina, 1.5, 8)
    fluffy = spots(rng, place, count, (2.2, 4.2), 1.7, 1.7)
    retina.white = np.maximum(retina.white, fluffy * np.float32(rng.uniform(0.55, 0.9)))


def _wide_cup(rng: Generator, anatomy: Anatomy, strength: float) -> None:
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


def _nothing(rng: Generator, retina: Retina, strength: float) -> None:
    """All of it lies in the anatomy."""


def _cataract(rng: Generator, retina: Retina, strength: float) -> None:
    """Haze and blur that swallow the small vessels; spokes and a denser middle."""
    spokes = noise(rng, 5) * 0.10 + noise(rng, 10) * 0.05
    angle = np.arctan2(ROW - SIDE / 2, COLUMN - SIDE / 2)
    spokes += 0.05 * np.cos(angle * int(rng.integers(3, 8)) + rng.uniform(0, 7))
    retina.veil += np.clip(0.42 + 0.36 * strength + spokes, 0, 0.93).astype(np.float32)
    retina.blur = max(retina.blur, 1.3 + 2.6 * strength)


def _opacity(rng: Generator, retina: Retina, strength: float) -> None:
    """Clouds in the media: some of the fundus is clear, some hardly seen."""
    cloud = ramp(noise(rng, rng.uniform(2, 4)), -1.1, 1.7)
    wisps = ramp(noise(rng, 10), -0.5, 2.0)
    retina.veil += (0.05 + (0.5 + 0.4 * strength) * cloud + 0.25 * wisps).astype(np.float32)
    dark = ramp(noise(rng, 3), -0.6, 2.0)
    retina.pigment += np.float32(rng.uniform(0, 1.6)) * dark
    retina.blur = max(retina.blur, rng.uniform(0.5, 1.6))


def _dry(rng: Generator, retina: Retina, strength: float) -> None:
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


def _wet(rng: Generator, retina: Retina, strength: float) -> None:
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


def _any_macular(rng: Generator, retina: Retina, strength: float) -> None:
    (_dry if rng.random() < 0.6 else _wet)(rng, retina, strength)


def _narrow(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Hypertension: narrow arteries with a bright reflex that press on the veins."""
    anatomy.artery *= 0.74 - 0.26 * strength
    anatomy.vein *= rng.uniform(1.0, 1.2)
    anatomy.nicking = rng.uniform(0.6, 1.0)
    anatomy.reflex = rng.uniform(0.8, 1.5)
    anatomy.tortuous *= rng.uniform(1.0, 1.7)


def _hypertension(rng: Generator, retina: Retina, strength: float) -> None:
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


def _long_eye(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Myopia: a tilted disc with a broad crescent, and choroid that shines through."""
    anatomy.tilt = rng.uniform(1.2, 1.35 + 0.35 * strength)
    anatomy.turn = rng.normal(0, 0.45)
    anatomy.crescent = rng.uniform(0.4, 0.8 + 0.9 * strength)
    anatomy.halo = rng.uniform(0.1, 0.3 + 0.7 * strength)
    anatomy.choroid = rng.uniform(0.55, 0.9 + 0.5 * strength)
    anatomy.sheen *= 0.3
    anatomy.tortuous *= rng.uniform(0.5, 0.9)


def _myopia(rng: Generator, retina: Retina, strength: float) -> None:
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


def _tessellated(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    anatomy.choroid = rng.uniform(0.75, 1.0 + 0.4 * strength)
    anatomy.sheen *= 0.4


def _membrane(rng: Generator, retina: Retina, strength: float) -> None:
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


def _drusen(rng: Generator, retina: Retina, strength: float) -> None:
    """Drusen scattered far, also beyond the arcades and nasal of the disc."""
    some = patches(rng, 4, 0.45) * within(retina, 1.0, 9)
    hard = spots(rng, some, int(25 + 60 * strength), (0.7, 1.6), 1.3, 0.5)
    retina.pale = np.maximum(retina.pale, hard * np.float32(rng.uniform(0.5, 0.85)))


def _myelinated(rng: Generator, retina: Retina, strength: float) -> None:
    """White feathers along the fibres, from the disc's margin up or down."""
    feather = 0.35 + 0.65 * fibres(rng, retina)
    for _ in range(1 + int(rng.random() < 0.4)):
        middle = rng.choice([-1, 1]) * rng.uniform(0.9, 2.2)
        fan = sector(retina, middle, rng.uniform(0.25, 0.4 + 0.3 * strength))
        far = rng.uniform(1.5, 2.0 + 1.3 * strength) + 0.45 * feather
        fan *= ramp(retina.away, 0.85, 1.05) * (1 - ramp(retina.away - far, -0.35, 0.1))
        retina.white = np.maximum(retina.white, fan * feather * np.float32(rng.uniform(0.75, 0.98)))


def _laser(rng: Generator, retina: Retina, strength: float) -> None:
    """Round scars in rows beyond the arcades, or a grid about the macula."""
    place = within(retina, 4.0, 12, disc=2.6)
    if rng.random() < 0.25:
        place = within(retina, 1.0, 3.6)
    scars(rng, retina, place, int(25 + 60 * strength), 1.5, 2.9)


def _asteroid(rng: Generator, retina: Retina, strength: float) -> None:
    """Bodies afloat in the vitreous, out of focus, in front of everything."""
    anywhere = within(retina, 0, 20, disc=0)
    some = patches(rng, 4, 0.6) * anywhere
    far = spots(rng, some, int(14 + 30 * strength), (2.5, 6.5), 1.4, 2.4)
    near = spots(rng, some, int(20 + 50 * strength), (1.0, 2.4), 1.2, 0.9)
    retina.front = np.maximum(retina.front, 0.42 * far + 0.5 * near)
    retina.veil += np.float32(rng.uniform(0.05, 0.25))


def _branch_vein(rng: Generator, retina: Retina, strength: float) -> None:
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


def _thin(rng: Generator, anatomy: Anatomy, strength: float) -> None:
    """Retinitis pigmentosa: thread-like vessels, a waxy disc."""
    anatomy.artery *= 0.62 - 0.15 * strength
    anatomy.vein *= 0.72 - 0.15 * strength
    anatomy.pallor = rng.uniform(0.35, 0.7)
    anatomy.sheen = 0.0
    anatomy.choroid = max(anatomy.choroid, rng.uniform(0.2, 0.6))


def _spicules(rng: Generator, retina: Retina, strength: float) -> None:
    """Bone spicules in a ring beyond the arcades over greyish ground."""
    ring = within(retina, 4.2, 14, disc=2.0)
    retina.pigment += 0.22 * ramp(retina.macula, 2.5, 5.0) * (1 + 0.5 * noise(rng, 14))
    some = ring * patches(rng, 5, 0.65)
    retina.pigment += 1.5 * strokes(rng, some, int(35 + 70 * strength), 8, 5)


def _atrophy(rng: Generator, retina: Retina, strength: float) -> None:
    """Old scars of choroid and retina: bare, sharp, with pigment along the border."""
    for _ in range(int(rng.integers(1, 3 + round(3 * strength)))):
        at = one_of(rng, within(retina, 2.2, 8, disc=2.2))
        size, state = rng.uniform(6, 12 + 9 * strength), int(rng.integers(2**32))
        gone = blob(np.random.default_rng(state), at, size, 0.12)
        around = blob(np.random.default_rng(state), at, 1.2 * size, 0.2) - gone
        retina.bare = np.maximum(retina.bare, gone * np.float32(rng.uniform(0.5, 0.85)))
        retina.pigment += 0.8 * np.clip(around, 0, 1) * ramp(noise(rng, 16), -0.7, 0.8)
        retina.pigment += 0.7 * strokes(rng, gone, int(rng.integers(2, 9)), 5, 4, 5)


FINDINGS: dict[str, Finding] = {
    "mild nonproliferative retinopathy": Finding(_mild),
    "moderate non proliferative retinopathy": Finding(_moderate),
    "severe nonproliferative retinopathy": Finding(_severe),
    "proliferative diabetic retinopathy": Finding(_proliferative),
    "diabetic retinopathy": Finding(_any_diabetes),
    "glaucoma": Finding(_nothing, _wide_cup),
    "suspected glaucoma": Finding(_nothing, _wide_cup),
    "cataract": Finding(_cataract),
    "dry age-related macular degeneration": Finding(_dry),
    "wet age-related macular degeneration": Finding(_wet),
    "age-related macular degeneration": Finding(_any_macular),
    "hypertensive retinopathy": Finding(_hypertension, _narrow),
    "pathological myopia": Finding(_myopia, _long_eye),
    "myopia retinopathy": Finding(_myopia, _long_eye),
    "macular epiretinal membrane": Finding(_membrane),
    "drusen": Finding(_drusen),
    "myelinated nerve fibers": Finding(_myelinated),
    "vitreous degeneration": Finding(_asteroid),
    "laser spot": Finding(_laser),
    "branch retinal vein occlusion": Finding(_branch_vein),
    "refractive media opacity": Finding(_opacity),
    "retinitis pigmentosa": Finding(_spicules, _thin),
    "chorioretinal atrophy": Finding(_atrophy),
    "tessellated fundus": Finding(_nothing, _tessellated),
}
