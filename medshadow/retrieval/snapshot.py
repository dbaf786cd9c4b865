"""The cases of a store at one moment, and what changed since an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, select, true
from sqlalchemy.engine import Connection

from medshadow.retrieval.changes import parts
from medshadow.retrieval.schema import archive, cases, removals


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Cases of a store at one moment.

    Args:
        version: the store's version at that moment.
        frame: N rows in the order of their keys; see ``CaseStore.frame``.
        embeddings: float32 N x D unit vectors in the same order, or 0 x D where none were read.
        keys: int64 N, ever increasing: the number of what each case is. A case that was changed,
            replaced, or suspended and given again has a new one, and no key is ever used twice.
    """

    version: int
    frame: pd.DataFrame
    embeddings: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True, eq=False)
class Changes:
    """What a reader of an earlier version must do to know the present one.

    Args:
        version: the store's present version.
        removed: int64, keys that were there and are no longer to be found: withdrawn, suspended,
            changed or replaced.
        added: cases that are to be found by keys that the reader has not seen; all of these are
            higher than any it has.
    """

    version: int
    removed: np.ndarray
    added: Snapshot


def read_snapshot(connection: Connection, dim: int, *, with_embeddings: bool = True) -> Snapshot:
    """Read all cases.

    Args:
        connection: an open transaction on the store.
        dim: D, the dimension of the store's vectors.
        with_embeddings: whether to read the vectors.
    """
    version = connection.execute(select(archive.c.version)).scalar_one()
    return _read(connection, version, dim, true(), with_embeddings)


def read_changes(connection: Connection, dim: int, since: int) -> Changes | None:
    """Read what changed after a version; None where the store cannot tell.

    Args:
        connection: an open transaction on the store.
        dim: D, the dimension of the store's vectors.
        since: the version that the reader knows.
    """
    row = connection.execute(select(archive.c.version, archive.c.changes_from)).one()
    if not row.changes_from <= since <= row.version:
        return None
    gone = select(removals.c.key).where(removals.c.version > since, removals.c.made <= since)
    removed = np.sort(np.array(connection.scalars(gone).all(), dtype=np.int64))
    found = (cases.c.changed > since) & (cases.c.consent == "given")
    return Changes(row.version, removed, _read(connection, row.version, dim, found, True))


def read_vectors(connection: Connection, dim: int, keys: np.ndarray) -> np.ndarray:
    """The vectors of cases that may be shown: float32 N x D, zeros where a key is one no longer.

    Args:
        connection: an open transaction on the store.
        dim: D, the dimension of the store's vectors.
        keys: int64 N.
    """
    vectors = np.zeros((len(keys), dim), np.float32)
    row_of = {key: row for row, key in enumerate(keys.tolist())}
    for part in parts(list(row_of)):
        query = select(cases.c.key, cases.c.embedding).where(cases.c.key.in_(part))
        for key, embedding in connection.execute(query.where(cases.c.consent == "given")):
            vectors[row_of[key]] = np.frombuffer(embedding, dtype="<f4")
    return vectors


def _read(
    connection: Connection,
    version: int,
    dim: int,
    which: ColumnElement[bool],
    with_embeddings: bool,
) -> Snapshot:
    left_out = {"id", "changed", "model_digest"} | (set() if with_embeddings else {"embedding"})
    columns = [c for c in cases.c if c.name not in left_out]
    # Not ordered by the database, which would walk along the keys of all cases to find a few.
    rows = sorted(connection.execute(select(*columns).where(which)).all(), key=lambda r: r.key)
    vectors = np.empty((len(rows) if with_embeddings else 0, dim), np.float32)
    for i in range(len(vectors)):
        vectors[i] = np.frombuffer(rows[i].embedding, dtype="<f4")
    keys = np.array([row.key for row in rows], dtype=np.int64)
    return Snapshot(version, _frame_of(rows), vectors, keys)


def _frame_of(rows: Any) -> pd.DataFrame:
    fixed = pd.DataFrame(
        {
            "case_id": pd.Series([row.case_id for row in rows], dtype=str),
            "group": pd.Series([row.group for row in rows], dtype=str),
            "label": pd.Series([row.label for row in rows], dtype=str),
            "labels": pd.Series([frozenset(row.labels) for row in rows], dtype=object),
        }
    )
    metadata = pd.DataFrame([row.metadata for row in rows], index=fixed.index)
    state = pd.DataFrame(
        {
            "consent": pd.Series([row.consent for row in rows], dtype=str),
            "added": pd.to_datetime(pd.Series([row.added for row in rows]), utc=True),
        }
    )
    return pd.concat([fixed, metadata, state], axis=1)
