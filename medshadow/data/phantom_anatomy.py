"""The patients' eyes before they are drawn: what a person's two eyes share, where things lie.

Every eye is laid out as a right eye seen by the photographer: disc to the right of the macula. A
left eye is its mirror image, made when it is photographed. Sizes are pixels of a ``SIDE x SIDE``
canvas, on which the optic disc is about 30 wide, as in a photograph of 45 degrees and 210 across.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medshadow.data.phantom_marks import SIDE


@dataclass(frozen=True)
class Person:
    """What a patient's two eyes have in common."""

    tone: tuple[float, float, float]
    age: int
    vein: float
    artery: float
    tortuous: float
    disc: float
    cup: float
    choroid: float


@dataclass
class Anatomy:
    """How one eye is built; diseases change it before it is drawn.

    Attributes:
        disc: centre of the disc, x and y.
        fovea: centre of the macula, x and y.
        radius: half the disc's height.
        tilt: the disc's height over its width, at least 1.
        turn: the disc's rotation in radians.
        cup: the cup's height over the disc's.
        notch: where the rim is thinned, in radians, and how much.
        crescent: width of the pale crescent beside the disc, in disc radii.
        halo: how far the crescent reaches round the disc, 0 to 1.
        pallor: 0 for a pink rim, 1 for a white one.
        vein: width of the large veins.
        artery: width of the large arteries.
        tortuous: how far vessels wind.
        nicking: how far veins vanish under arteries, 0 to 1.
        reflex: brightness of the streak along arteries.
        choroid: how plainly choroidal vessels show, about 0 to 1.5.
        sheen: brightness of the nerve fibres.
        defect: where nerve fibres are lost, in radians round the disc, and how broadly.
    """

    disc: tuple[float, float]
    fovea: tuple[float, float]
    radius: float
    vein: float
    artery: float
    tortuous: float
    cup: float
    choroid: float
    tilt: float = 1.05
    turn: float = 0.0
    notch: tuple[float, float] = (0.0, 0.0)
    crescent: float = 0.0
    halo: float = 0.0
    pallor: float = 0.0
    nicking: float = 0.0
    reflex: float = 0.4
    sheen: float = 0.2
    defect: tuple[float, float] = (0.0, 0.0)


def draw_person(rng: np.random.Generator, age: int) -> Person:
    """Draw what both eyes of a patient of that age share: colour, vessels, disc, choroid.

    Example:
        >>> draw_person(np.random.default_rng(0), 60).age
        60
    """
    melanin, red = rng.uniform(0.1, 1.0), rng.uniform(0.6, 1.3)
    tone = np.array([0.86, 0.60, 0.42]) * np.exp(
        -melanin * np.array([0.28, 0.42, 0.60]) - red * np.array([0.05, 0.40, 0.62])
    )
    r, g, b = tone.tolist()
    vein = rng.uniform(2.5, 3.4)
    return Person(
        tone=(r, g, b),
        age=age,
        vein=vein,
        artery=vein * rng.uniform(0.62, 0.80),
        tortuous=rng.uniform(0.5, 1.3),
        disc=rng.uniform(13.5, 17.0),
        cup=float(np.clip(rng.normal(0.38, 0.11), 0.12, 0.62)),
        choroid=float(np.clip(rng.normal(0.22 + 0.004 * (age - 55), 0.16), 0, 0.75)),
    )


def lay_out(rng: np.random.Generator, person: Person) -> Anatomy:
    """One healthy eye of a person: where things are, and how its details differ."""
    x = SIDE / 2 + rng.uniform(36, 80)
    y = SIDE / 2 + rng.normal(-2, 6)
    reach = person.disc * rng.uniform(4.6, 5.3)
    drop = rng.uniform(0.04, 0.16)
    crescent = rng.uniform(0.1, 0.45) if rng.random() < 0.3 else 0.0
    return Anatomy(
        disc=(x, y),
        fovea=(x - reach * np.cos(drop), y + reach * np.sin(drop)),
        radius=person.disc * rng.uniform(0.95, 1.05),
        vein=person.vein * rng.uniform(0.93, 1.07),
        artery=person.artery * rng.uniform(0.93, 1.07),
        tortuous=person.tortuous * rng.uniform(0.8, 1.2),
        cup=float(np.clip(person.cup + rng.normal(0, 0.04), 0.1, 0.66)),
        choroid=person.choroid * rng.uniform(0.8, 1.2),
        tilt=rng.uniform(1.0, 1.2),
        turn=rng.normal(0, 0.25),
        crescent=crescent,
        halo=rng.uniform(0.0, 0.3),
        pallor=rng.uniform(0, 0.3),
        reflex=rng.uniform(0.25, 0.6),
        sheen=float(np.clip(0.42 - 0.006 * (person.age - 20), 0.03, 0.4) * rng.uniform(0.5, 1.4)),
    )
