"""Building a case store so that a stop loses no work, and no half of a store is ever searched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medshadow.data.cases import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, calibrate
from medshadow.retrieval.database import store_url
from medshadow.workflows.additions import add_cases, compared
from medshadow.workflows.index import create_store

if TYPE_CHECKING:
    from medshadow.networks import Embedder


def build_store(
    embedder: Embedder,
    cases: CaseTable,
    url_or_path: str | Path,
    *,
    diagnosis_names: Mapping[str, str] | None = None,
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
        validation: cases that are not among ``cases``, from which lookups learn what to warn of and
            how sure they are; see :func:`medshadow.retrieval.calibrate`.
        by: who builds it, for the trail.
        progress: whether to show a bar.

    Raises:
        StoreError: there is a whole store already, or one that was begun of other cases.
        ImageReadError: an image cannot be read; what was added before it is kept.
    """
    place = file_of(url_or_path)
    if place is not None and place.exists():
        raise StoreError(
            f"{place} exists: medshadow index add adds to it; or remove it, or name another file"
        )
    part = place and place.with_name(f"{place.name}.part")
    with _opened(part or url_or_path, embedder, cases, diagnosis_names or {}) as store:
        add_cases(store, embedder, cases, by=by, progress=progress)
        if validation is not None:
            calibrate(store, embedder, cases, validation, progress=progress)
    if place is not None and part is not None:
        _rename(part, place)
    return CaseStore(url_or_path)


def file_of(url_or_path: str | Path) -> Path | None:
    """The file of a SQLite store; None for a store of another database."""
    url = store_url(url_or_path)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def _opened(
    place: str | Path, embedder: Embedder, cases: CaseTable, names: Mapping[str, str]
) -> CaseStore:
    """The store that was begun of these cases with this model, or a new one."""
    try:
        return create_store(place, embedder, cases, names)
    except StoreError:
        store = CaseStore(place)
        if _is_begun(store, embedder, cases):
            return store
        store.close()
        file = file_of(place)
        if file is None:
            raise
    _delete(file)
    return create_store(place, embedder, cases, names)


def _is_begun(store: CaseStore, embedder: Embedder, cases: CaseTable) -> bool:
    """Whether what a store holds is a part of what building it of these cases would add."""
    if store.model_digest != embedder.digest or store.name != cases.name:
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
    """Delete a store that was begun, and its log, vectors and locks."""
    for path in file.parent.iterdir():
        if path.name.startswith(file.name):
            path.unlink()


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
