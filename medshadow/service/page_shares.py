"""The counts behind the vote, each with the interval that so few cases leave open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from medshadow.service.page_marks import Mark

_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class ShareRow:
    """How many of the cases found carry a label, or any malignant one.

    Args:
        mark: the label; None for any malignant one.
        count: cases that carry it.
        of: cases found.
        low: lower end of the 95 % interval of the share, in [0, 1].
        high: its upper end.
        malignant: whether the label counts as malignant.
    """

    mark: Mark | None
    count: int
    of: int
    low: float
    high: float
    malignant: bool

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.count / self.of


def share_rows(
    of: int,
    shares: Mapping[str, float],
    marks: Mapping[str, Mark],
    malignant: Collection[str],
) -> tuple[ShareRow, ...]:
    """The answer's shares as counts of the cases found, each with the interval that k leaves.

    Args:
        of: cases found.
        shares: label to its share of them.
        marks: how each label looks.
        malignant: the labels that count as malignant.
    """
    counts = {label: round(share * of) for label, share in shares.items()}
    return tuple(
        ShareRow(
            marks.get(label) or Mark(label, label, None, 0),
            count,
            of,
            *wilson(count, of),
            label in malignant,
        )
        for label, count in counts.items()
    )


def most_often(shares: Sequence[ShareRow]) -> str:
    """What most of the cases are, or that no diagnosis is that of more than half of them.

    Example:
        >>> rows = [ShareRow(Mark("n", "naevus", 0, 0), 9, 16, 0.3, 0.8, False)]
        >>> most_often(rows)
        'Most of them: naevus, 9 of 16'
    """
    if not shares:
        return ""
    most = max(row.count for row in shares)
    first = [row for row in shares if row.count == most]
    names = " and ".join(row.mark.name for row in first if row.mark is not None)
    if len(first) == 1 and 2 * most > first[0].of:
        return f"Most of them: {names}, {most} of {first[0].of}"
    return f"No majority; most often {names}, {most} of {first[0].of}{' each' * (len(first) > 1)}"


def malignant_row(malignant: Sequence[bool]) -> ShareRow | None:
    """How many of the cases found are malignant, whichever malignant label they carry.

    Args:
        malignant: of each case found, whether it is.
    """
    if not malignant:
        return None
    count, of = sum(malignant), len(malignant)
    return ShareRow(None, count, of, *wilson(count, of), True)


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, in [0, 1] (Wilson, JASA 22 (1927), 209).

    Example:
        >>> [round(end, 2) for end in wilson(12, 16)]
        [0.51, 0.9]
    """
    share, z2 = count / of, _Z**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * sqrt(share * (1 - share) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)
