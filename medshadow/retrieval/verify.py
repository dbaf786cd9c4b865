"""What can be wrong inside a case store, found by reading all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.engine import Connection

from medshadow.errors import StoreError
from medshadow.retrieval.append_only import is_append_only
from medshadow.retrieval.rows import checked_embeddings
from medshadow.retrieval.schema import (
    APPEND_ONLY,
    archive,
    cases,
    erasures,
    removals,
    tombstones,
    trail,
)


def problems(
    connection: Connection, model_digest: str, dim: int, vectors_path: Path | None
) -> list[str]:
    """One sentence for each thing wrong in the database and in the file of vectors beside it.

    Args:
        connection: an open transaction on the store.
        model_digest: the model whose vectors the store holds.
        dim: D, the dimension of those vectors.
        vectors_path: where the file of vectors is, if there is one.
    """
    return [
        *_structure(connection),
        *_cases(connection, model_digest),
        *_vectors(connection, dim),
        *_keys(connection),
        *_erased(connection),
        *_trail(connection),
        *_vector_file(connection, vectors_path, model_digest),
    ]


def _structure(connection: Connection) -> Iterator[str]:
    for table in APPEND_ONLY:
        if not is_append_only(connection, table):
            yield f"table {table!r}: the triggers that make it append-only are missing"
    if connection.dialect.name != "sqlite":
        return
    for (message,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if message != "ok":
            yield f"database structure: {message}"
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"table {row[0]!r}: row {row[1]} belongs to no case"


def _cases(connection: Connection, model_digest: str) -> Iterator[str]:
    query = select(cases.c.case_id, cases.c.model_digest, cases.c.label, cases.c.labels)
    for row in connection.execute(query):
        if row.model_digest != model_digest:
            yield f"case {row.case_id!r}: vector of another model ({row.model_digest[:12]})"
        if row.label not in row.labels:
            yield f"case {row.case_id!r}: label {row.label!r} is not among {row.labels}"


def _vectors(connection: Connection, dim: int) -> Iterator[str]:
    for case_id, embedding in connection.execute(select(cases.c.case_id, cases.c.embedding)):
        if len(embedding) != 4 * dim:
            yield f"case {case_id!r}: vector of {len(embedding)} bytes, expected {4 * dim}"
            continue
        try:
            checked_embeddings(np.frombuffer(embedding, dtype="<f4")[None], [case_id], dim)
        except StoreError as error:
            yield str(error)


def _keys(connection: Connection) -> Iterator[str]:
    last, version = connection.execute(select(archive.c.last_key, archive.c.version)).one()
    beyond = select(cases.c.case_id).where((cases.c.key > last) | (cases.c.id > last))
    for case_id in connection.scalars(beyond):
        yield f"case {case_id!r}: its key is above {last}, the last that the store gave out"
    later = select(cases.c.case_id).where(cases.c.changed > version)
    for case_id in connection.scalars(later):
        yield f"case {case_id!r}: it was changed after the store's version {version}"
    gone = select(cases.c.case_id).join(removals, removals.c.key == cases.c.key)
    for case_id in connection.scalars(gone.where(cases.c.consent == "given")):
        yield f"case {case_id!r}: it may be shown, but readers were told that it is gone"


def _erased(connection: Connection) -> Iterator[str]:
    left = len(connection.scalars(select(erasures.c.key)).all())
    if left:
        yield f"erasing {left} keys of withdrawn cases is not finished; open the store again"
    there = select(cases.c.id).join(tombstones, tombstones.c.case == cases.c.id)
    for number in connection.scalars(there):
        yield f"case number {number} has a tombstone and is still there"


def _trail(connection: Connection) -> Iterator[str]:
    entries = connection.execute(select(trail.c.id, trail.c.cases).order_by(trail.c.id)).all()
    written = connection.execute(select(archive.c.trail_entries)).scalar_one()
    missing = sorted(set(range(1, written + 1)) - {entry.id for entry in entries})
    if missing:
        yield f"trail: {len(missing)} of {written} entries are missing, the first {missing[0]}"
    if len(entries) + len(missing) > written:
        yield f"trail: {len(entries)} entries, but the store wrote {written}"
    known = {
        *connection.scalars(select(cases.c.id)),
        *connection.scalars(select(tombstones.c.case)),
    }
    for entry in entries:
        lost = sorted(set(entry.cases) - known)
        if lost:
            yield (
                f"trail: entry {entry.id} names case number {lost[0]}, which is neither in the "
                "store nor withdrawn"
            )


def _vector_file(connection: Connection, path: Path | None, model_digest: str) -> Iterator[str]:
    from medshadow.retrieval.vectors import VectorFileError, case_marks, open_vectors

    if path is None or not path.exists():
        return
    try:
        file = open_vectors(path)
    except VectorFileError as error:
        yield f"file of vectors: {error}"
        return
    if file.model_digest != model_digest:
        yield f"file of vectors: of another model ({file.model_digest[:12]})"
        return
    withdrawn = select(removals.c.key).join(tombstones, tombstones.c.case == removals.c.case)
    for key in sorted(set(connection.scalars(withdrawn)) & set(file.keys.tolist())):
        yield f"file of vectors: it still holds key {key}, of a withdrawn case"
    row_of = {key: row for row, key in enumerate(file.keys.tolist())}
    columns = (cases.c.key, cases.c.case_id, cases.c.added, cases.c.embedding)
    rows = [row for row in connection.execute(select(*columns)) if row.key in row_of]
    added = pd.to_datetime(pd.Series([row.added for row in rows]), utc=True)
    names = pd.Series([row.case_id for row in rows], dtype=str)
    marks = case_marks(pd.DataFrame({"case_id": names, "added": added}))
    for row, mark in zip(rows, marks, strict=True):
        at = row_of[row.key]
        same = file.marks[at] == mark and file.vectors[at].tobytes() == row.embedding
        if not same:
            yield f"case {row.case_id!r}: the file of vectors holds something else"
