"""What can be wrong inside a case store, found by reading all of it."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select
from sqlalchemy.engine import Connection

from medshadow.errors import StoreError
from medshadow.retrieval.rows import checked_embeddings
from medshadow.retrieval.schema import cases


def problems(connection: Connection, model_digest: str, dim: int) -> list[str]:
    """One sentence for each thing wrong: structure, model, dimension, value or length of vectors.

    Args:
        connection: an open transaction on the store.
        model_digest: the model whose vectors the store holds.
        dim: D, the dimension of those vectors.
    """
    found = _structure(connection)
    query = select(cases.c.case_id, cases.c.model_digest, cases.c.label, cases.c.labels)
    for row in connection.execute(query):
        if row.model_digest != model_digest:
            found.append(f"case {row.case_id!r}: vector of another model ({row.model_digest[:12]})")
        if row.label not in row.labels:
            found.append(f"case {row.case_id!r}: label {row.label!r} is not among {row.labels}")
    for case_id, embedding in connection.execute(select(cases.c.case_id, cases.c.embedding)):
        if len(embedding) != 4 * dim:
            found.append(f"case {case_id!r}: vector of {len(embedding)} bytes, expected {4 * dim}")
            continue
        try:
            checked_embeddings(np.frombuffer(embedding, dtype="<f4")[None], [case_id], dim)
        except StoreError as error:
            found.append(str(error))
    return found


def _structure(connection: Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    found = [
        f"database structure: {message}"
        for (message,) in connection.exec_driver_sql("PRAGMA integrity_check")
        if message != "ok"
    ]
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return found + [f"table {row[0]!r}: row {row[1]} belongs to no case" for row in broken]
