"""The patients of a drawn ODIR-5K: who they are, what is found in each eye, what the workbook says.

Keywords are the organisers' own, and so are the rules by which eyes become a patient's letters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medshadow.data.odir5k_keywords import LETTERS, labels_from_keywords, without_normal

FIRST_ID = 900000
"""Drawn patients are numbered from here; ODIR-5K's own ids end below 5000."""

HEALTHY = "normal fundus"
DUST = "lens dust"
POOR = "low image quality"

# Share of patients by the disease that leads: ODIR-5K's order of the common ones, less skewed.
_SHARE = {
    "N": 0.23, "D": 0.22, "G": 0.09, "C": 0.09, "A": 0.09, "H": 0.07, "M": 0.08, "O": 0.13,
}  # fmt: skip
_AGE = {"G": (61, 12), "C": (66, 9), "A": (68, 9), "H": (57, 10), "M": (52, 13)}
_BOTH_EYES = {"D": 0.8, "G": 0.65, "C": 0.6, "A": 0.6, "H": 0.85, "M": 0.8, "O": 0.4}
_KEYWORDS = {  # how often a keyword stands for its letter, and how likely it strikes again
    "D": {
        "mild nonproliferative retinopathy": 0.20,
        "moderate non proliferative retinopathy": 0.46,
        "severe nonproliferative retinopathy": 0.18,
        "proliferative diabetic retinopathy": 0.08,
        "diabetic retinopathy": 0.08,
    },
    "G": {"glaucoma": 0.85, "suspected glaucoma": 0.15},
    "C": {"cataract": 1.0},
    "A": {
        "dry age-related macular degeneration": 0.66,
        "wet age-related macular degeneration": 0.28,
        "age-related macular degeneration": 0.06,
    },
    "H": {"hypertensive retinopathy": 1.0},
    "M": {"pathological myopia": 0.88, "myopia retinopathy": 0.12},
    "O": {
        "macular epiretinal membrane": 0.16,
        "drusen": 0.14,
        "myelinated nerve fibers": 0.13,
        "vitreous degeneration": 0.11,
        "branch retinal vein occlusion": 0.11,
        "laser spot": 0.08,
        "refractive media opacity": 0.08,
        "retinitis pigmentosa": 0.07,
        "chorioretinal atrophy": 0.06,
        "tessellated fundus": 0.06,
    },
}
_BESIDE = {"D": 0.26, "O": 0.42, "H": 0.12, "G": 0.10, "A": 0.10}  # a second disease in an eye
_HIDES_VESSELS = {"cataract", "refractive media opacity", POOR}


@dataclass(frozen=True)
class DrawnEye:
    """One eye of the cohort.

    Attributes:
        findings: strength of each finding by keyword; empty for a healthy eye.
        dusty: how plainly dust on the lens shows; keyworded above 0.5.
        poor: too dark and unsharp to be judged.
        order: decides in which order the keywords stand.
    """

    findings: dict[str, float]
    dusty: float
    poor: bool
    order: int

    def keywords(self) -> str:
        """What the workbook says of this eye, joined by full-width commas."""
        if self.poor:
            return POOR
        words = list(self.findings) or [HEALTHY]
        if self.dusty > 0.5:
            words.append(DUST)
        shift = self.order % len(words)
        return "\uff0c".join(words[shift:] + words[:shift])


@dataclass(frozen=True)
class DrawnPatient:
    """One row of the workbook.

    Attributes:
        number: which drawing it is; two ids of one person share it.
        drawn_age: the age at which the eyes were drawn; a second id may state another.
        copy: "" for a patient of their own; "file" for the same two files under another id,
            "photograph" for the same eyes photographed again.
    """

    id: int
    number: int
    drawn_age: int
    age: int
    sex: str
    left: DrawnEye
    right: DrawnEye
    copy: str = ""

    def letters(self) -> dict[str, int]:
        """The patient's vector: what either eye has; N where neither has anything."""
        left, right = (labels_from_keywords(eye.keywords()) for eye in (self.left, self.right))
        found = without_normal(left | right)
        return {letter: int(letter in found) for letter in LETTERS}


def draw_cohort(rng: np.random.Generator, patients: int) -> list[DrawnPatient]:
    """Draw who is in the data set; ids are ordered by disease, as in the real one.

    Args:
        rng: the generator.
        patients: how many ids; of each 160, at least of all, two are other ids of a patient before.

    Example:
        >>> cohort = draw_cohort(np.random.default_rng(0), 40)
        >>> [patient.copy for patient in cohort[-3:]]
        ['', 'file', 'photograph']
    """
    pairs = max(1, patients // 160)
    counts = {letter: max(2, int(share * patients)) for letter, share in _SHARE.items()}
    counts["N"] += patients - 2 * pairs - sum(counts.values())
    leading = [letter for letter, count in counts.items() for _ in range(count)]
    cohort = [_patient(rng, number, letter) for number, letter in enumerate(leading)]
    clear = [p for p in cohort if not _HIDES_VESSELS & _words(p)]
    chosen = rng.choice(len(clear), 2 * pairs, replace=False)
    for number, which in enumerate(chosen.tolist()):
        again = "file" if number < pairs else "photograph"
        first = clear[which]
        age = first.age + int(rng.integers(0, 3))
        cohort.append(replace(first, id=FIRST_ID + len(cohort), age=age, copy=again))
    return cohort


def _words(patient: DrawnPatient) -> set[str]:
    both = f"{patient.left.keywords()}\uff0c{patient.right.keywords()}"
    return set(both.split("\uff0c"))


def _patient(rng: np.random.Generator, number: int, letter: str) -> DrawnPatient:
    mean, deviation = _AGE.get(letter, (57, 12))
    age = int(np.clip(round(rng.normal(mean, deviation)), 18, 91))
    first, second = _eyes(rng, letter)
    if rng.random() < 0.5:
        first, second = second, first
    sex = "Male" if rng.random() < 0.54 else "Female"
    return DrawnPatient(FIRST_ID + number, number, age, age, sex, first, second)


def _eyes(rng: np.random.Generator, letter: str) -> tuple[DrawnEye, DrawnEye]:
    """The worse eye and the other one."""
    if letter == "N":
        return _eye(rng, {}), _eye(rng, {})
    worse = {_keyword(rng, letter): _strength(rng)}
    other = {}
    if rng.random() < _BOTH_EYES[letter]:
        ((keyword, strength),) = worse.items()
        if rng.random() < 0.3:
            keyword = _keyword(rng, letter)
        other = {keyword: float(np.clip(strength + rng.normal(-0.1, 0.2), 0, 1))}
    for eye in (worse, other):
        if rng.random() < 0.16:
            another = str(rng.choice(list(_BESIDE), p=list(_BESIDE.values())))
            if another != letter or not eye:
                eye[_keyword(rng, another)] = _strength(rng)
    return _eye(rng, worse), _eye(rng, other, poor=not other and rng.random() < 0.06)


def _eye(rng: np.random.Generator, findings: dict[str, float], poor: bool = False) -> DrawnEye:
    dusty = rng.uniform(0.6, 1.0) if rng.random() < 0.10 else rng.uniform(0.0, 0.2)
    return DrawnEye(findings, dusty, poor, int(rng.integers(6)))


def _keyword(rng: np.random.Generator, letter: str) -> str:
    shares = _KEYWORDS[letter]
    return str(rng.choice(list(shares), p=list(shares.values())))


def _strength(rng: np.random.Generator) -> float:
    return float(rng.beta(1.7, 1.4))
