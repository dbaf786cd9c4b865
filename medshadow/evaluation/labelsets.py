"""Label sets as rows of ones and zeros, and which cases of two sets share a finding."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases


def multi_hot(sets: Sequence[Collection[str]] | np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Bool N x L: which of L names each of N sets holds; a name of no column is passed by.

    Example:
        >>> multi_hot([{"D", "G"}, {"N"}], ["D", "G", "N"]).astype(int).tolist()
        [[1, 1, 0], [0, 0, 1]]
    """
    place = {name: column for column, name in enumerate(names)}
    held = [(row, place[name]) for row, own in enumerate(sets) for name in own if name in place]
    ones = np.zeros((len(sets), len(names)), dtype=bool)
    if held:
        ones[tuple(np.array(held).T)] = True
    return ones


def primary_first(label: str, labels: Collection[str]) -> list[str]:
    """A label set in order: the label that stands for the case, then the others by the alphabet.

    Example:
        >>> primary_first("H", {"D", "A", "H"})
        ['H', 'A', 'D']
    """
    return [label, *sorted(set(labels) - {label})]


def carrying(sets: Sequence[Collection[str]] | np.ndarray, wanted: Collection[str]) -> np.ndarray:
    """Bool N: which of N sets hold any of some names.

    Example:
        >>> carrying([{"D", "G"}, {"N"}], {"G", "A"}).tolist()
        [True, False]
    """
    held: np.ndarray = multi_hot(sets, sorted(wanted)).sum(axis=1) > 0
    return held


class Sharing:
    """Which gallery cases share a finding with which queries.

    The multi-hot rows of the distinct sets of findings are multiplied once: two sets share a
    finding where the product is above zero. Asking is then a look into that table.

    Args:
        queries: Q cases.
        gallery: N cases.

    Example:
        >>> eyes = EmbeddedCases(np.eye(3), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": list("abc"), "label": ["G", "C", "N"],
        ...      "labels": [{"G", "C"}, {"C"}, {"N"}]}))
        >>> Sharing(eyes, eyes)(np.array([0]), np.array([[1, 2, -1]])).tolist()
        [[True, False, False]]
    """

    def __init__(self, queries: EmbeddedCases, gallery: EmbeddedCases) -> None:
        self._asked, asked_sets = pd.factorize(queries.findings)
        self._known, known_sets = pd.factorize(gallery.findings)
        names = sorted(frozenset().union(*asked_sets))
        product = multi_hot(asked_sets, names).astype(np.float32) @ multi_hot(
            known_sets, names
        ).T.astype(np.float32)
        self._shares = product > 0

    def __call__(self, rows: slice | np.ndarray, index: np.ndarray) -> np.ndarray:
        """Whether each neighbour shares a finding with its query.

        Args:
            rows: B of the queries.
            index: int B x M, gallery rows; -1 is nobody.

        Returns:
            bool B x M, False where there is nobody.
        """
        shares: np.ndarray = self._shares[self._asked[rows, None], self._known[index]]
        return shares & (index >= 0)
