"""How like a query the cases are: what a ranking asks, and the answers from memory."""

from __future__ import annotations

from typing import Protocol

import numpy as np

# Below every cosine, and above the -inf of rows that may not be found.
LOWEST = -2.0
# Rows of which one is a sample when the similarity that many reach is looked for.
_RUN = 256


class Similarities(Protocol):
    """The similarity of one query to each case that may be found, within the error of float32."""

    def floor(self, wanted: int) -> float:
        """A similarity that so many cases reach, and not very many more.

        Args:
            wanted: at least 1.

        Returns:
            ``LOWEST`` where there are no more cases than that.
        """

    def above(self, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """Every case that reaches a similarity: R rows, and float32 R, their similarities."""

    def among(self, rows: np.ndarray) -> Similarities:
        """The same for those cases alone that are also among some rows: N booleans."""

    def forget(self, rows: np.ndarray) -> None:
        """Find some rows no longer: their cases are being erased."""


class SimilaritiesInMemory:
    """Similarities of which each has been computed.

    Args:
        similarities: float32 N, -inf where a row may not be found.
    """

    def __init__(self, similarities: np.ndarray) -> None:
        self._similarities = similarities

    def floor(self, wanted: int) -> float:
        """As :meth:`Similarities.floor`."""
        every = self._similarities
        runs = every[: len(every) // _RUN * _RUN].reshape(-1, _RUN)
        if wanted < len(runs):
            # As many runs of rows have a best one that reaches what it finds, so as many rows do.
            floor = np.partition(runs.max(axis=1), -wanted)[-wanted]
            if floor > LOWEST:
                return float(floor)
        if wanted >= np.count_nonzero(every > LOWEST):
            return LOWEST
        return float(np.partition(every, -wanted)[-wanted])

    def above(self, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Similarities.above`."""
        rows = np.flatnonzero(self._similarities >= max(floor, LOWEST))
        return rows, self._similarities[rows]

    def among(self, rows: np.ndarray) -> SimilaritiesInMemory:
        """As :meth:`Similarities.among`."""
        return SimilaritiesInMemory(np.where(rows, self._similarities, -np.inf))

    def forget(self, rows: np.ndarray) -> None:
        """As :meth:`Similarities.forget`."""
        self._similarities[rows] = -np.inf
