"""One recipe a finding: what a disease changes in a drawn eye, by the organisers' keywords.

A finding may change the anatomy before the eye is drawn (a wide cup, narrow arteries) and paint
onto it afterwards (bleedings, drusen, haze). ``strength`` runs from 0, hardly to be seen, to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medshadow.data.phantom_anatomy import Anatomy, Person, lay_out
from medshadow.data.phantom_fundus import Retina, draw_healthy
from medshadow.data.phantom_fundus_diseases import (
    any_diabetes,
    any_macular,
    cataract,
    dry,
    hypertension,
    long_eye,
    mild,
    moderate,
    myopia,
    narrow,
    proliferative,
    severe,
    wet,
    wide_cup,
)
from medshadow.data.phantom_fundus_marks import blob, dots, one_of, within
from medshadow.data.phantom_fundus_others import (
    asteroid,
    atrophy,
    branch_vein,
    drusen,
    laser,
    membrane,
    myelinated,
    opacity,
    spicules,
    tessellated,
    thin,
)
from medshadow.data.phantom_marks import spots

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

    paint: Paint | None = None
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
        >>> from medshadow.data.phantom_anatomy import draw_person
        >>> rng = np.random.default_rng(0)
        >>> draw_eye(rng, draw_person(rng, 70), {"drusen": 0.7}).pale.shape
        (256, 256)
    """
    anatomy = lay_out(rng, person)
    for keyword, strength in findings.items():
        if alter := FINDINGS[keyword].alter:
            alter(rng, anatomy, strength)
    retina = draw_healthy(rng, anatomy)
    for keyword, strength in findings.items():
        if paint := FINDINGS[keyword].paint:
            paint(rng, retina, strength)
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
        retina.veil += np.float32(rng.uniform(0, 0.42))
        retina.blur = max(retina.blur, rng.uniform(0, 1.7))


FINDINGS: dict[str, Finding] = {
    "mild nonproliferative retinopathy": Finding(mild),
    "moderate non proliferative retinopathy": Finding(moderate),
    "severe nonproliferative retinopathy": Finding(severe),
    "proliferative diabetic retinopathy": Finding(proliferative),
    "diabetic retinopathy": Finding(any_diabetes),
    "glaucoma": Finding(alter=wide_cup),
    "suspected glaucoma": Finding(alter=wide_cup),
    "cataract": Finding(cataract),
    "dry age-related macular degeneration": Finding(dry),
    "wet age-related macular degeneration": Finding(wet),
    "age-related macular degeneration": Finding(any_macular),
    "hypertensive retinopathy": Finding(hypertension, narrow),
    "pathological myopia": Finding(myopia, long_eye),
    "myopia retinopathy": Finding(myopia, long_eye),
    "macular epiretinal membrane": Finding(membrane),
    "drusen": Finding(drusen),
    "myelinated nerve fibers": Finding(myelinated),
    "vitreous degeneration": Finding(asteroid),
    "laser spot": Finding(laser),
    "branch retinal vein occlusion": Finding(branch_vein),
    "refractive media opacity": Finding(opacity),
    "retinitis pigmentosa": Finding(spicules, thin),
    "chorioretinal atrophy": Finding(atrophy),
    "tessellated fundus": Finding(alter=tessellated),
}
