"""Where the vectors of loaded cases lie: behind one protocol, and in this process's memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from medshadow.retrieval.products import products_into
from medshadow.retrieval.similarities import Similarities, SimilaritiesInMemory
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.vectors import length_deviation

# Rows beyond which a product with the vectors of all of them is cheaper than picking theirs.
_FEW = 1 / 8
_ROWS_AT_ONCE = 1 << 14


class Vectors(Protocol):
    """The vectors of N cases in the order of their rows, wherever they lie."""

    @property
    def deviation(self) -> float:
        """The most that a vector's length is off from 1."""

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, as stored: float32 R x D; those of erased cases are zeros."""

    def similarities(self, query: np.ndarray, allowed: np.ndarray) -> Similarities:
        """How like a query (float32 D) the allowed rows (N booleans) are."""

    def extended(self, added: Snapshot) -> Vectors:
        """These vectors and those of more cases after them."""


@dataclass(frozen=True, eq=False)
class HeldVectors:
    """Vectors in memory, or in a file that is mapped into it.

    Attributes:
        parts: float32, N rows in all; later versions share what they have in common.
        deviation: the most that a vector's length is off from 1.
    """

    parts: tuple[np.ndarray, ...]
    deviation: float

    @classmethod
    def all_of(cls, embeddings: np.ndarray) -> HeldVectors:
        """Vectors in one array: float32 N x D."""
        return cls((embeddings,), length_deviation(embeddings))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """As :meth:`Vectors.of`."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        picked = np.empty((len(rows), self.parts[0].shape[1]), np.float32)
        for first, part in self._placed_parts():
            here = (rows >= first) & (rows < first + len(part))
            picked[here] = part[rows[here] - first]
        return picked

    def similarities(self, query: np.ndarray, allowed: np.ndarray) -> SimilaritiesInMemory:
        """As :meth:`Vectors.similarities`."""
        return SimilaritiesInMemory(self._products(query, allowed))

    def extended(self, added: Snapshot) -> HeldVectors:
        """As :meth:`Vectors.extended`."""
        deviation = max(self.deviation, length_deviation(added.embeddings))
        return HeldVectors(_with_part(self.parts, added.embeddings), deviation)

    def _products(self, query: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        count = np.count_nonzero(allowed)
        if count >= _FEW * len(allowed):
            found = np.empty(len(allowed), np.float32)
            for first, part in self._placed_parts():
                products_into(found[first : first + len(part)], part, query)
            found[~allowed] = -np.inf
            return found
        found = np.full(len(allowed), -np.inf, np.float32)
        rows = np.flatnonzero(allowed)
        for first in range(0, count, _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            found[some] = np.einsum("nd,d->n", self.of(some), query)
        return found

    def _placed_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for part in self.parts:
            yield first, part
            first += len(part)


def _with_part(parts: tuple[np.ndarray, ...], part: np.ndarray) -> tuple[np.ndarray, ...]:
    # The first part is large and stays. Among the others each is more than twice as large as the
    # next, so that a row is copied only a few times however often cases are added.
    later = [*parts[1:], part]
    while len(later) > 1 and len(later[-2]) <= 2 * len(later[-1]):
        later[-2:] = [np.concatenate(later[-2:])]
    return (parts[0], *later)
