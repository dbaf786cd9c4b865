"""What to be careful about in an answer: its warnings, most serious first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medshadow.retrieval.familiarity import Look, colours_of
from medshadow.retrieval.image_quality import quality_of
from medshadow.retrieval.ranking import Hit

if TYPE_CHECKING:
    from medshadow.retrieval.answer import LookupAnswer
    from medshadow.retrieval.calibration import ArchiveCalibration

# With fewer cases a majority says little anyway.
_LEAST_VOTES = 3

CODES = (
    "wrong_kind",
    "unlike_archive",
    "poor_quality",
    "disagreeing_neighbours",
    "same_image",
    "which_eye",
    "few_cases",
    "no_malignant",
    "malignant_outside_filter",
)
"""Every kind of warning, most serious first."""


@dataclass(frozen=True, eq=True)
class LookupWarning:
    """One thing to be careful about.

    Args:
        code: one of :data:`CODES`, for programs.
        text: a sentence or two, for people.

    Raises:
        ValueError: the code is none of these.

    Example:
        >>> print(LookupWarning("poor_quality", "The image is blurred."))
        The image is blurred.
    """

    code: str
    text: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"warning code {self.code!r} is not known; expected one of {CODES}")

    def __str__(self) -> str:
        return self.text


def most_serious_first(warnings: Iterable[LookupWarning]) -> tuple[LookupWarning, ...]:
    """Warnings in the order of :data:`CODES`; those of one kind stay as they came."""
    return tuple(sorted(warnings, key=lambda warning: CODES.index(warning.code)))


def about_image(
    calibration: ArchiveCalibration | None, pixels: np.ndarray, pooled: np.ndarray
) -> list[LookupWarning]:
    """The image is not of the archive's kind, or unusual in it, or of poor quality.

    Args:
        calibration: the archive's; without one nothing can be said.
        pixels: uint8 H x W x 3, RGB.
        pooled: float C, the network's pooled features of it.
    """
    if calibration is None:
        return []
    found = []
    known = calibration.familiarity
    if known is not None:
        score = known.score(Look(pooled, colours_of(pixels)))
        if score > known.wrong_kind:
            text = (
                "This does not look like the kind of image that this archive holds. The cases "
                "shown may have nothing to do with it."
            )
            found.append(LookupWarning("wrong_kind", text))
        elif score > known.unlike:
            text = (
                "This image is unlike those of this archive: fewer than 3 in 100 of its own kind "
                "lie as far away. The cases shown may mislead."
            )
            found.append(LookupWarning("unlike_archive", text))
    problems = calibration.quality.problems(quality_of(pixels))
    if problems:
        words = ", ".join(problems)
        text = f"Poor image quality for this archive: {words}. Take the image again if you can."
        found.append(LookupWarning("poor_quality", text))
    return found


def disagreeing(answer: LookupAnswer) -> list[LookupWarning]:
    """No diagnosis is that of even half of the cases found."""
    share, count = answer.share_in_this_archive, len(answer.hits)
    if answer.vote is None or count < _LEAST_VOTES or share[answer.vote] >= 0.5:
        return []
    malignant = sum(answer.is_malignant(hit) for hit in answer.hits)
    text = (
        f"The cases found disagree: no diagnosis is that of half of them, and {malignant} of "
        f"{count} are {answer.archive.malignant_word}. Such a vote is often wrong."
    )
    return [LookupWarning("disagreeing_neighbours", text)]


def which_eye() -> LookupWarning:
    """Nobody said which eye is shown, to a model that wants to know."""
    return LookupWarning(
        "which_eye",
        "Which eye this is was not said: a left eye is compared as if it were a right one, of "
        "which it is the mirror image.",
    )


def few_cases(found: int, k: int, where: str) -> list[LookupWarning]:
    """Fewer cases than were asked for."""
    if found >= k:
        return []
    one = found == 1
    cases = "distinct case" if one else "distinct cases"
    if where:
        which = f"{'meets' if one else 'meet'} the filter {where}"
    else:
        which = "is in the archive" if one else "are in the archive"
    text = f"Only {found} {cases} {which}; {k} were asked for."
    return [LookupWarning("few_cases", text)]


def same_image(hit: Hit) -> LookupWarning:
    """The query stands in the archive itself."""
    return LookupWarning(
        "same_image",
        f"Case {hit.case_id} shows the query image itself (similarity {hit.similarity:.4f}): it "
        f"counts in its own vote. Exclude group {hit.group} to leave it out.",
    )


def about_malignant(malignant: Hit | None, outside: bool, word: str) -> list[LookupWarning]:
    """There is no malignant case, or none that meets the filter."""
    if malignant is None:
        text = f"No case of this archive carries a label that counts as {word}."
        return [LookupWarning("no_malignant", text)]
    if outside:
        text = (
            f"No case that meets the filter is {word}; the nearest {word} case shown does not "
            "meet it."
        )
        return [LookupWarning("malignant_outside_filter", text)]
    return []
