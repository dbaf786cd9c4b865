"""Building the case store from a model and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medshadow.data.cases import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, calibrate, encode_cases, thumbnails_of

if TYPE_CHECKING:
    from medshadow.networks import Embedder


def build_index(
    embedder: Embedder,
    cases: CaseTable,
    path: str | Path,
    *,
    diagnosis_names: Mapping[str, str] | None = None,
    embeddings: np.ndarray | None = None,
    validation: CaseTable | None = None,
) -> CaseStore:
    """Make a case store of every case of a table, calibrated where there are validation cases.

    Args:
        embedder: the model whose vectors the store keeps.
        cases: what will be found; leave out of it what queries are to be drawn from.
        path: the SQLite file to make.
        diagnosis_names: label to diagnosis in words.
        embeddings: float32 N x D of these cases by this model, where they are at hand.
        validation: cases that are not among these, from which lookups learn what to warn of and
            how sure they are; see :func:`medshadow.retrieval.calibrate`.

    Raises:
        StoreError: the file exists.
    """
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists; remove it or name another file")
    if embeddings is None:
        embeddings = encode_cases(embedder, cases)
    store = create_store(path, embedder, cases, diagnosis_names)
    try:
        thumbnails = thumbnails_of(cases.frame["image"])
        store.add(cases, embeddings, model_digest=embedder.digest, thumbnails=thumbnails)
        if validation is not None:
            calibrate(store, embedder, cases, validation)
    except BaseException:
        # A store that was only begun would answer, and answer wrongly.
        store.close()
        for ending in ("", "-wal", "-shm", ".vectors", ".vectors.lock"):
            path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
        raise
    return store


def create_store(
    place: str | Path,
    embedder: Embedder,
    cases: CaseTable,
    diagnosis_names: Mapping[str, str] | None = None,
) -> CaseStore:
    """An empty store for cases of a table and the vectors of a model.

    Raises:
        StoreError: the database already holds a store or other tables.
    """
    return CaseStore.create(
        place,
        name=cases.name,
        source=cases.source,
        model_digest=embedder.digest,
        embedding_dim=embedder.embedding_dim,
        preprocess=embedder.preprocess,
        malignant=cases.malignant,
        malignant_word=cases.malignant_word,
        diagnosis_names=diagnosis_names,
    )
