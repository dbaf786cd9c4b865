"""Building the case store from a model and a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medshadow.data.cases import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, encode_cases, thumbnails_of

if TYPE_CHECKING:
    from medshadow.networks import Embedder


def build_index(
    embedder: Embedder,
    cases: CaseTable,
    path: str | Path,
    *,
    diagnosis_names: Mapping[str, str] | None = None,
    embeddings: np.ndarray | None = None,
) -> CaseStore:
    """Make a case store of every case of a table.

    Args:
        embedder: the model whose vectors the store keeps.
        cases: what will be found; leave out of it what queries are to be drawn from.
        path: the SQLite file to make.
        diagnosis_names: label to diagnosis in words.
        embeddings: float32 N x D of these cases by this model, where they are at hand.

    Raises:
        StoreError: the file exists.
    """
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists; remove it or name another file")
    if embeddings is None:
        embeddings = encode_cases(embedder, cases)
    store = CaseStore.create(
        path,
        name=cases.name,
        model_digest=embedder.digest,
        embedding_dim=embedder.embedding_dim,
        preprocess=embedder.preprocess,
        malignant=cases.malignant,
        malignant_word=cases.malignant_word,
        diagnosis_names=diagnosis_names,
    )
    try:
        thumbnails = thumbnails_of(cases.frame["image"])
        store.add(cases, embeddings, model_digest=embedder.digest, thumbnails=thumbnails)
    except BaseException:
        # A store that was only begun would answer, and answer wrongly.
        store.close()
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            path.with_name(name).unlink(missing_ok=True)
        raise
    return store
