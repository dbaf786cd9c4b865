"""Building a case store so that a stop loses no work, and no half of a store is ever searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from medshadow.data.cases import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, calibrate
from medshadow.retrieval.database import store_url
from medshadow.workflows.additions import add_cases, compared

if TYPE_CHECKING:
    from medshadow.networks import Embedder

# What SQLite and a search keep beside a store's file.
_BESIDE = ("-wal", "-shm", ".vectors", ".vectors.new", ".vectors.lock")


def build_store(
    embedder: Embedder,
    cases: CaseTable,
    url_or_path: str | Path,
    *,
    diagnosis_names: Mapping[str, str] | None = None,
    embeddings: np.ndarray | None = None,
    validation: CaseTable | None = None,
    by: str = "",
    progress: bool = True,
) -> CaseStore:
    """Make a case store of every case of a table, going on with one that was begun.

    A SQLite store is built beside its place, as ``<name>.part``, and takes its name when it is
    whole: half an archive would answer, and answer wrongly. A PostgreSQL database is filled where
    it is; serve it when this has returned. There a second call finds nothing to do.

    Args:
        embedder: the model whose vectors the store keeps.
        cases: what will be found; leave out of it what queries are to be drawn from.
        url_or_path: the SQLite file to make, or the URL of a database.
        diagnosis_names: label to diagnosis in words.
        embeddings: float32 N x D of these cases by this model, where they are at hand.
        validation: cases that are not among ``cases``, from which lookups learn what to warn of and
            how sure they are; see :func:`medshadow.retrieval.calibrate`.
        by: who builds it, for the trail.
        progress: whether to show a bar.

    Raises:
        StoreError: there is a whole store already, one that was begun of other cases in a
            database, or another process is building it.
        ImageReadError: an image cannot be read; what was added before it is kept.
    """
    with (
        _in_part(url_or_path) as part,
        _opened(part, embedder, cases, diagnosis_names or {}) as store,
    ):
        add_cases(store, embedder, cases, embeddings=embeddings, by=by, progress=progress)
        if validation is not None:
            calibrate(store, embedder, cases, validation, progress=progress)
    return CaseStore(url_or_path)


@contextmanager
def _in_part(url_or_path: str | Path) -> Iterator[str | Path]:
    """Where to build: beside the place of a file, which has it at the end, or in a database."""
    url = store_url(url_or_path)
    if url.get_backend_name() != "sqlite":
        yield url_or_path
        return
    place = Path(url.database or "")
    part = place.with_name(f"{place.name}.part")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(part):
        if place.exists():
            raise StoreError(
                f"{place} exists: medshadow index add adds to it; or remove it, or name another "
                "file"
            )
        yield part
        _rename(part, place)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes from building the same file."""
    path = part.with_name(f"{part.name}.lock")
    lock = FileLock(path, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{part} is being built by another process") from None
    try:
        yield
    finally:
        path.unlink()
        lock.release()


def _opened(
    place: str | Path, embedder: Embedder, cases: CaseTable, names: Mapping[str, str]
) -> CaseStore:
    """The store that was begun of these cases with this model, or a new one."""
    about: dict[str, Any] = {
        "name": cases.name,
        "source": cases.source,
        "model_digest": embedder.digest,
        "malignant": cases.malignant,
        "malignant_word": cases.malignant_word,
        "diagnosis_names": dict(names),
    }
    settings = {"embedding_dim": embedder.embedding_dim, "preprocess": embedder.preprocess}
    try:
        return CaseStore.create(place, **about, **settings)
    except StoreError:
        store = CaseStore(place)
        if _is_begun(store, about, cases):
            return store
        store.close()
        if not isinstance(place, Path):
            raise
    _delete(place)
    return CaseStore.create(place, **about, **settings)


def _is_begun(store: CaseStore, about: Mapping[str, Any], cases: CaseTable) -> bool:
    """Whether what a store holds is a part of what building it of these cases would add."""
    if any(getattr(store, name) != value for name, value in about.items()):
        return False
    there = compared(store, cases)
    return not there.changed and not there.others


def _rename(part: Path, place: Path) -> None:
    """Give a closed store its name, and delete what lay beside it under the other."""
    log = part.with_name(f"{part.name}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreError(f"{part} is open in another process; build again when that has ended")
    part.rename(place)
    _delete(part)


def _delete(file: Path) -> None:
    """Delete a store that was begun, and what lies beside it."""
    for ending in ("", *_BESIDE):
        file.with_name(f"{file.name}{ending}").unlink(missing_ok=True)


def names_of_diagnoses(cases: CaseTable) -> dict[str, str]:
    """The diagnoses of HAM10000 or ODIR-5K in words; an own archive's labels speak for themselves.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"case_id": ["a"], "image": ["a"], "group": ["1"], "label": "mel"})
        >>> names_of_diagnoses(CaseTable(frame, "ham10000"))["mel"]
        'melanoma'
    """
    from medshadow.data.ham10k import DIAGNOSES as LESIONS
    from medshadow.data.odir5k import DIAGNOSES as EYES

    drawn = LESIONS if set(cases.classes) <= set(LESIONS) else EYES
    return dict({"ham10000": LESIONS, "odir5k": EYES, "phantoms": drawn}.get(cases.name, {}))
