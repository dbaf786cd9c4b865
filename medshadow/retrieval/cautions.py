"""What to be careful about in an answer: its warnings, most serious first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medshadow.retrieval.ranking import Hit, Ranking

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


def which_eye() -> LookupWarning:
    """Nobody said which eye is shown, to a model that wants to know."""
    return LookupWarning(
        "which_eye",
        "Which eye this is was not said: a left eye is compared as if it were a right one, of "
        "which it is the mirror image.",
    )


def few_cases(ranking: Ranking, k: int, where: str) -> list[LookupWarning]:
    """Fewer cases than were asked for."""
    if ranking.groups >= k:
        return []
    which = f"meet the filter {where}" if where else "are in the archive"
    text = f"Only {ranking.groups} distinct cases {which}; {k} were asked for."
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
