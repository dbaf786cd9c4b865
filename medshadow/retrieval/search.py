"""Exact search: every case compared, filters before ranking, one hit a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from threading import Lock

import numpy as np

from medshadow.errors import StoreError
from medshadow.retrieval.loaded import LoadedCases
from medshadow.retrieval.loading import load_cases
from medshadow.retrieval.milvus_mirror import Mirror
from medshadow.retrieval.milvus_server import MilvusServer
from medshadow.retrieval.milvus_vectors import MilvusVectors
from medshadow.retrieval.ranking import Hit, Ranking
from medshadow.retrieval.store import CaseStore
from medshadow.retrieval.where import Where, matching, parse_where


class Search(ABC):
    """Nearest cases of a store, whatever holds their vectors: what all searches have in common.

    Each search first asks the store's version (one small query) and reads what changed when this
    or another process has changed it, so a withdrawn case is gone at the next search. Cases whose
    consent is suspended are never found.

    Several threads may search at once.

    Args:
        store: the cases.
    """

    def __init__(self, store: CaseStore) -> None:
        self._store = store
        self._lock = Lock()
        self._loaded = self._load()

    def search(
        self, query: np.ndarray, k: int, where: Where = None, exclude_groups: Iterable[str] = ()
    ) -> list[Hit]:
        """The k nearest groups that meet the filter, each by its case nearest to the query.

        Args:
            query: D values, a unit vector.
            k: groups wanted, at least 1.
            where: a filter; see :func:`medshadow.retrieval.parse_where`.
            exclude_groups: groups that must not be found.

        Returns:
            min(k, groups that meet the filter) hits, nearest first. A group meets it when one of
            its cases does, and is then shown by such a case.

        Raises:
            ValueError: k is below 1, or the query is not a finite unit vector of dimension D.
            StoreError: the filter cannot be read or names an unknown key.
        """
        return self.rank(query, where, exclude_groups).nearest(k)

    def rank(
        self, query: np.ndarray, where: Where = None, exclude_groups: Iterable[str] = ()
    ) -> Ranking:
        """Compare a query with every case; the hits are then asked of the ranking.

        Raises:
            ValueError, StoreError: as :meth:`search`.
        """
        loaded = self._current()
        vector = _checked_query(query, self._store.embedding_dim)
        allowed = matching(parse_where(where), loaded.columns, among=loaded.shown)
        excluded = list(exclude_groups)
        if excluded:
            allowed &= ~loaded.in_groups(excluded)
        return Ranking(loaded, vector, allowed)

    def vector_of(self, case_id: str) -> np.ndarray:
        """The vector of a case that may be shown: float32 D.

        Raises:
            StoreError: there is no such case.
        """
        loaded = self._current()
        row = loaded.row_of(case_id)
        if row is None:
            raise StoreError(f"no case {case_id!r} that may be shown")
        return loaded.vectors.of(np.array([row]))[0]

    def check(self) -> None:
        """Make sure that a search would find what it should.

        Raises:
            StoreError: it would fail.
        """
        self._current()

    @abstractmethod
    def close(self) -> None:
        """Let go of what is this search's own; the store stays open."""

    @abstractmethod
    def _load(self) -> LoadedCases:
        """Every case that may be shown."""

    def _caught_up(self, loaded: LoadedCases) -> LoadedCases:
        """What was loaded, brought to the store's present version; read anew only where it must."""
        changes = self._store.changes_since(loaded.version)
        later = None if changes is None else loaded.after(changes)
        return self._load() if later is None else later

    def _current(self) -> LoadedCases:
        if self._store.version != self._loaded.version:
            with self._lock:
                # Another thread may have caught up while this one waited.
                if self._store.version != self._loaded.version:
                    self._loaded = self._caught_up(self._loaded)
        return self._loaded


class ExactSearch(Search):
    """Nearest cases by comparing the query with every vector of a store.

    The vectors lie in a file beside a SQLite store that processes share, mapped into memory (see
    :mod:`medshadow.retrieval.vectors`); it is made when there is none that fits. Those of another
    store lie in memory.

    As every search it sees changes of the store at once, and takes several threads.

    Args:
        store: the cases.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pandas as pd
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = CaseStore.create(Path(folder.name) / "cases.db", name="example",
        ...     model_digest="d", embedding_dim=2, preprocess={})
        >>> frame = pd.DataFrame({"case_id": list("abc"), "group": ["1", "1", "2"],
        ...                       "label": ["mel", "mel", "nv"], "sex": ["male", "male", "female"]})
        >>> store.add(frame, np.array([[1, 0], [0.8, 0.6], [0, 1.0]]), model_digest="d")
        >>> search = ExactSearch(store)
        >>> [(hit.case_id, hit.rank) for hit in search.search(np.array([0, 1.0]), k=5)]
        [('c', 1), ('b', 2)]
        >>> [hit.case_id for hit in search.search(np.array([0, 1.0]), k=5, where="sex=male")]
        ['b']
        >>> store.close(); folder.cleanup()
    """

    def close(self) -> None:
        """As :meth:`Search.close`: it has nothing of its own."""

    def _load(self) -> LoadedCases:
        return load_cases(self._store)


class MilvusSearch(Search):
    """Nearest cases where the vectors of a store lie in Milvus, which may be many machines.

    Finds the same cases as :class:`ExactSearch`, in the same order and with the same similarities:
    Milvus compares every vector (a FLAT index; all that was put in is seen) and says which come
    into question; those are compared again with the store's own, as is whether they may still be
    shown. What is known of the cases, all but the vectors, lies in this process's memory, and
    filters are applied there. Milvus is told numbers and vectors, nothing that is said of a case.

    The collection is made from the store (see :class:`~medshadow.retrieval.milvus_mirror.Mirror`).
    A withdrawn case is gone at the next search, and a new collection without its vector is begun
    then, in the background; when it is there, the old one is dropped.

    Args:
        store: the cases.
        uri: of the server; see :class:`~medshadow.retrieval.milvus_server.MilvusServer`.
        token: what the server lets in, where it asks for it.

    Raises:
        OptionalDependencyError: pymilvus is not installed.
        StoreError: the server does not answer or refuses; here and in every method.

    Example:
        >>> search = MilvusSearch(store, "http://milvus:19530")  # doctest: +SKIP
        >>> [hit.case_id for hit in search.search(query, k=3)]  # doctest: +SKIP
        ['a', 'c', 'b']
        >>> search.close()  # doctest: +SKIP
    """

    def __init__(self, store: CaseStore, uri: str, token: str | None = None) -> None:
        server = MilvusServer(uri, token)
        try:
            self._mirror = Mirror(store, server)
            super().__init__(store)
        except BaseException:
            server.close()
            raise

    def check(self) -> None:
        """As :meth:`Search.check`; whether Milvus answers too, and holds no withdrawn case."""
        super().check()
        self._mirror.check()

    def close(self) -> None:
        """Wait until withdrawn cases are erased from Milvus, and close the connection."""
        self._mirror.close()

    def _load(self) -> LoadedCases:
        snapshot = self._store.snapshot(with_embeddings=False)
        self._mirror.follow()
        return LoadedCases.elsewhere(
            snapshot, lambda keys: MilvusVectors(self._store, self._mirror, keys)
        )

    def _caught_up(self, loaded: LoadedCases) -> LoadedCases:
        later = super()._caught_up(loaded)
        self._mirror.follow()
        return later

    def _current(self) -> LoadedCases:
        if self._mirror.doubtful:
            self._mirror.follow()
        return super()._current()


def _checked_query(query: np.ndarray, dim: int) -> np.ndarray:
    vector = np.asarray(query)
    if vector.shape != (dim,):
        raise ValueError(f"query has shape {vector.shape}; expected ({dim},)")
    length = float(np.linalg.norm(vector))
    if not abs(length - 1) <= 1e-3:
        raise ValueError(f"query has length {length:.4f}; expected a finite unit vector")
    return vector
