"""Adding cases to a store in batches that can be cut short at any point and resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Literal

import numpy as np
import pandas as pd
from sqlalchemy import Engine, select
from sqlalchemy.engine import Connection

from medshadow.errors import StoreError
from medshadow.retrieval.changes import numbers_of, parts, put_cases
from medshadow.retrieval.database import changing, reading
from medshadow.retrieval.rows import (
    checked_embeddings,
    checked_frame,
    checked_thumbnail,
    plain_rows,
)
from medshadow.retrieval.schema import archive, cases
from medshadow.retrieval.trail import withdrawn_numbers

# What becomes of a case that is in the store already.
Known = Literal["refuse", "resume", "replace"]
# Most that a vector may differ when the same image is encoded again, in other company.
_SAME_VECTOR = 1e-3
_END = object()


@dataclass(frozen=True, eq=False)
class Batch:
    """Cases fit to be stored.

    Args:
        rows: N rows of plain values; see ``plain_rows``.
        vectors: float32 N x D of unit length.
    """

    rows: list[dict[str, Any]]
    vectors: np.ndarray

    @classmethod
    def checked(cls, frame: pd.DataFrame, embeddings: np.ndarray, dim: int) -> Batch:
        """Cases from a table and their vectors.

        Raises:
            StoreError: see ``CaseStore.add``.
        """
        frame = checked_frame(frame)
        vectors = checked_embeddings(embeddings, frame["case_id"].tolist(), dim)
        return cls(list(plain_rows(frame)), vectors)

    @cached_property
    def ids(self) -> list[str]:
        """The N case ids."""
        return [row["case_id"] for row in self.rows]

    def cut(self, first: int, last: int) -> Batch:
        """The cases from position ``first`` to before ``last``."""
        return Batch(self.rows[first:last], self.vectors[first:last])

    def only(self, positions: list[int]) -> Batch:
        """The cases at some positions."""
        return Batch([self.rows[at] for at in positions], self.vectors[positions])


def add_cases(
    engine: Engine,
    batch: Batch,
    thumbnails: Iterable[bytes | None] | None,
    known: Known,
    batch_size: int,
    by: str,
) -> None:
    """Add all cases of a batch, some in each transaction; see ``CaseStore.add``."""
    with reading(engine) as connection:
        wanted = set(_to_put(connection, batch, known))
        model_digest = connection.execute(select(archive.c.model_digest)).scalar_one()
    pictures = iter(repeat(None, len(batch.rows)) if thumbnails is None else thumbnails)
    for first in range(0, len(batch.rows), batch_size):
        piece = batch.cut(first, first + batch_size)
        jpegs = [_next_thumbnail(pictures, case_id) for case_id in piece.ids]
        if wanted.isdisjoint(range(first, first + batch_size)):
            continue
        with changing(engine, by) as turn:
            # Another process may have added the same case since the first look.
            put = _to_put(turn.connection, piece, known)
            if put:
                new = piece.only(put)
                put_cases(turn, new.rows, new.vectors, [jpegs[at] for at in put], model_digest)
    if next(pictures, _END) is not _END:
        raise StoreError(f"more thumbnails than the {len(batch.rows)} cases")


def _to_put(connection: Connection, batch: Batch, known: Known) -> list[int]:
    """Positions of the cases that are to be written."""
    if known == "replace":
        return list(range(len(batch.rows)))
    there = numbers_of(connection, batch.ids)
    if there and known == "refuse":
        raise StoreError(
            f"cases already in the store: {sorted(there)[:5]}; pass replace=True to replace them, "
            "or resume=True to pass by those with the same content"
        )
    _refuse_other_content(
        connection, batch.only([i for i, c in enumerate(batch.ids) if c in there])
    )
    new = [at for at, case_id in enumerate(batch.ids) if case_id not in there]
    salt = connection.execute(select(archive.c.salt)).scalar_one()
    withdrawn = withdrawn_numbers(connection, salt, [batch.ids[at] for at in new])
    if withdrawn:
        raise StoreError(
            f"cases that were withdrawn from this store before: {sorted(withdrawn)[:5]}; leave "
            "them out, or pass replace=True if they may come back"
        )
    return new


def _refuse_other_content(connection: Connection, batch: Batch) -> None:
    columns = [cases.c[name] for name in ("case_id", "group", "label", "labels", "metadata")]
    kept: dict[str, Any] = {}
    for part in parts(batch.ids):
        query = select(*columns, cases.c.embedding).where(cases.c.case_id.in_(part))
        kept.update((row.case_id, row) for row in connection.execute(query))
    for row, vector in zip(batch.rows, batch.vectors, strict=True):
        there = kept[row["case_id"]]
        differing = [c.name for c in columns if getattr(there, c.name) != row[c.name]]
        stored = np.frombuffer(there.embedding, dtype="<f4")
        if np.abs(stored - vector).max() > _SAME_VECTOR:
            differing.append("embedding")
        if differing:
            raise StoreError(
                f"case {row['case_id']!r} is in the store with another content: {differing} differ"
            )


def _next_thumbnail(pictures: Iterator[bytes | None], case_id: str) -> bytes | None:
    jpeg = next(pictures, _END)
    if jpeg is _END:
        raise StoreError(f"thumbnails end before case {case_id!r}; one a case is expected")
    return checked_thumbnail(jpeg, case_id)  # type: ignore[arg-type]
