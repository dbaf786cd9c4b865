"""Vectors that lie in Milvus: how a ranking asks there, so that nothing is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medshadow.errors import StoreError
from medshadow.retrieval.milvus_mirror import Mirror
from medshadow.retrieval.milvus_server import MOST_HITS, between, one_of
from medshadow.retrieval.rows import UNIT_TOLERANCE
from medshadow.retrieval.similarities import LOWEST
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.store import CaseStore

# Keys named in one question. So few cases are asked for by their keys in the first place.
_KEYS_AT_ONCE = 2048
# Of a span of keys there may be more in Milvus than are known here.
_SPAN = MOST_HITS * 3 // 4


@dataclass(frozen=True, eq=False)
class MilvusVectors:
    """Vectors of which Milvus tells rough similarities; those that decide come from the store.

    Args:
        store: the cases. What it no longer lets be shown is not found.
        mirror: its collection.
        keys: int64 N, ever higher.
    """

    store: CaseStore
    mirror: Mirror
    keys: np.ndarray

    @property
    def deviation(self) -> float:
        """The most that a vector's length is off from 1."""
        return UNIT_TOLERANCE + self.store.embedding_dim * float(np.finfo(np.float32).eps)

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, from the store: zeros where a case may not be shown now."""
        return self.store.vectors_of(self.keys[rows])

    def similarities(self, query: np.ndarray, allowed: np.ndarray) -> MilvusSimilarities:
        """How like a query (float32 D) the allowed rows (N booleans) are."""
        return MilvusSimilarities(self, query, allowed)

    def extended(self, added: Snapshot) -> MilvusVectors:
        """These vectors and those of more cases after them."""
        return MilvusVectors(self.store, self.mirror, np.concatenate([self.keys, added.keys]))

    def nearest(
        self, query: np.ndarray, limit: int, where: str = ""
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows most like a query and their similarities; -1 for a key that is none of these.

        Raises:
            StoreError: the server does not answer.
        """
        keys, found = self.mirror.nearest(query, limit, where)
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        return np.where(self.keys[rows] == keys, rows, -1), found


class MilvusSimilarities:
    """What is known so far of the similarities of some cases to a query.

    At first the nearest of all cases are asked for and those left out that may not be found, a few
    hundred, then more, up to the most that Milvus gives. Beyond that, and where there are few that
    may be found, they are asked for by their keys. Which these are is known before, so one that
    should be among the answers and is not shows.

    Args:
        vectors: where they lie.
        query: float32 D.
        allowed: N booleans, the rows that may be found.
    """

    def __init__(self, vectors: MilvusVectors, query: np.ndarray, allowed: np.ndarray) -> None:
        self._vectors = vectors
        self._query = query
        self._allowed = allowed.copy()
        self._limit = 0
        self._know(np.empty(0, np.int64), np.empty(0, np.float32), np.inf)

    def floor(self, wanted: int) -> float:
        """As :meth:`medshadow.retrieval.similarities.Similarities.floor`."""
        while self._bound > -np.inf:
            if np.count_nonzero(self._found > self._bound) >= wanted:
                break
            self._ask_further(wanted)
        every = self._bound == -np.inf and wanted >= len(self._found)
        return LOWEST if every else float(self._found[wanted - 1])

    def above(self, floor: float) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`medshadow.retrieval.similarities.Similarities.above`."""
        # As it is compared with similarities below, so that none that equals it is left out.
        floor = float(np.float32(floor))
        while floor <= self._bound:
            self._ask_further(len(self._found))
        reaching = self._found >= floor
        return self._rows[reaching], self._found[reaching]

    def among(self, rows: np.ndarray) -> MilvusSimilarities:
        """As :meth:`medshadow.retrieval.similarities.Similarities.among`."""
        fewer = MilvusSimilarities(self._vectors, self._query, self._allowed & rows)
        fewer._limit = self._limit
        fewer._know(self._rows, self._found, self._bound)
        return fewer

    def forget(self, rows: np.ndarray) -> None:
        """As :meth:`medshadow.retrieval.similarities.Similarities.forget`."""
        self._allowed[rows] = False
        self._know(self._rows, self._found, self._bound)

    def _know(self, rows: np.ndarray, found: np.ndarray, bound: float) -> None:
        """Keep those of some rows that may be found, the most similar first, each once.

        Args:
            rows: int64 R; -1 for none.
            found: float32 R, their similarities.
            bound: every row whose similarity lies above it is among them.
        """
        rows, at = np.unique(rows, return_index=True)
        may = (rows >= 0) & self._allowed[rows] if len(self._allowed) else np.zeros(0, bool)
        rows, found = rows[may], found[at[may]]
        order = np.argsort(-found)
        self._rows, self._found, self._bound = rows[order], found[order], bound

    def _ask_further(self, wanted: int) -> None:
        few = np.count_nonzero(self._allowed) <= _KEYS_AT_ONCE
        if few or self._limit == MOST_HITS:
            self._ask_all()
            return
        share = np.count_nonzero(self._allowed) / len(self._allowed)
        self._limit = min(MOST_HITS, max(8 * self._limit, int(1.5 * wanted / share) + 64))
        rows, found = self._vectors.nearest(self._query, self._limit)
        if len(rows) < self._limit:
            # That was all there is.
            self._know_all(rows, found)
        else:
            self._know(rows, found, float(found.min()))

    def _ask_all(self) -> None:
        allowed = np.flatnonzero(self._allowed)
        by_key = len(allowed) * _SPAN <= len(self._allowed) * _KEYS_AT_ONCE
        if by_key or len(allowed) <= _KEYS_AT_ONCE:
            self._know_all(*self._by_key(allowed))
            return
        keys, answers = self._vectors.keys, []
        for first in range(0, len(keys), _SPAN):
            last = min(first + _SPAN, len(keys)) - 1
            span = between(int(keys[first]), int(keys[last]))
            answers.append(self._vectors.nearest(self._query, MOST_HITS, span))
        rows, found = zip(*answers, strict=True)
        self._know_all(np.concatenate(rows), np.concatenate(found))

    def _by_key(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answers = [(np.empty(0, np.int64), np.empty(0, np.float32))]
        for first in range(0, len(rows), _KEYS_AT_ONCE):
            keys = self._vectors.keys[rows[first : first + _KEYS_AT_ONCE]]
            answers.append(self._vectors.nearest(self._query, len(keys), one_of(keys)))
        found_rows, found = zip(*answers, strict=True)
        return np.concatenate(found_rows), np.concatenate(found)

    def _know_all(self, rows: np.ndarray, found: np.ndarray) -> None:
        """Make sure that no row that may be found is missing from answers that should be all."""
        for attempt in range(3):
            missing = np.setdiff1d(np.flatnonzero(self._allowed), rows)
            if len(missing):
                # Those withdrawn or suspended since this ranking began are missing rightly.
                missing = missing[self._vectors.of(missing).any(axis=1)]
            if not len(missing):
                break
            if attempt == 2:
                raise StoreError(
                    f"Milvus at {self._vectors.mirror.server.address} does not find {len(missing)} "
                    f"of {len(self._allowed)} cases that were put into it"
                )
            if attempt:
                self._vectors.mirror.renew(self._vectors.mirror.name)
            more_rows, more = self._by_key(missing)
            rows, found = np.concatenate([rows, more_rows]), np.concatenate([found, more])
        self._know(rows, found, -np.inf)
