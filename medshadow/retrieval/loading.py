"""Reading a store for a search: vectors from their file where it fits, the rest as it is now."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from medshadow.retrieval.loaded import LoadedCases, only
from medshadow.retrieval.snapshot import Changes, Snapshot
from medshadow.retrieval.store import CaseStore
from medshadow.retrieval.vectors import VectorFile, VectorFileError, open_vectors, write_vectors

_log = logging.getLogger(__name__)
# The share of all cases, and the least number of them, that may have to be read from the store
# although there is a file, before that file is made anew.
_STALE_SHARE = 0.05
_STALE_CASES = 2048


def load_cases(store: CaseStore) -> LoadedCases:
    """Every case of a store that may be shown, with its vector.

    A vector file that is missing, damaged, of another store or far behind is made anew; where that
    cannot be done (no room, no permission) the vectors are kept in memory.
    """
    path = store.vectors_path
    found = None if path is None else _from_file(store, path)
    if found is not None:
        return found
    snapshot = store.snapshot()
    written = None if path is None else _written(store, path, snapshot)
    return written or LoadedCases.of(snapshot)


def _from_file(store: CaseStore, path: Path) -> LoadedCases | None:
    file = _opened(store, path)
    if file is None:
        return None
    snapshot = store.snapshot(with_embeddings=False)
    loaded = LoadedCases.of_file(file, snapshot)
    if loaded is None:
        return None
    given = (snapshot.frame["consent"] == "given").to_numpy()
    missing = snapshot.keys[given & ~np.isin(snapshot.keys, file.keys)]
    if not len(missing):
        return loaded
    if len(missing) > max(_STALE_CASES, _STALE_SHARE * len(file.keys)):
        return None
    changes = store.changes_since(file.version)
    if changes is None:
        return None
    added = only(changes.added, np.isin(changes.added.keys, missing))
    if len(added.keys) < len(missing):
        # The file has lost some, or the store was changed between the two readings.
        return None
    none = np.empty(0, np.int64)
    return loaded.after(Changes(version=snapshot.version, removed=none, added=added))


def _opened(store: CaseStore, path: Path) -> VectorFile | None:
    if not path.exists():
        return None
    try:
        file = open_vectors(path)
    except VectorFileError as error:
        _log.warning("vectors are read from the store again: %s", error)
        return None
    fits = file.model_digest == store.model_digest and file.vectors.shape[1] == store.embedding_dim
    return file if fits else None


def _written(store: CaseStore, path: Path, snapshot: Snapshot) -> LoadedCases | None:
    def withdrawn() -> np.ndarray:
        changes = store.changes_since(snapshot.version)
        if changes is None:
            raise VectorFileError(f"{path.name}: the store was replaced while it was read")
        return changes.removed

    try:
        write_vectors(path, snapshot, model_digest=store.model_digest, withdrawn=withdrawn)
        file = open_vectors(path)
    except (OSError, VectorFileError) as error:
        _log.warning("vectors are kept in memory: their file cannot be written (%s)", error)
        return None
    return LoadedCases.of_file(file, snapshot)
