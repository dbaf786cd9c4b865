"""Every case of a store at one moment, read in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.engine import Connection

from medshadow.retrieval.schema import archive, cases


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Every case of a store at one moment.

    Args:
        version: the store's version at that moment.
        frame: N rows in the order added; see ``CaseStore.frame``.
        embeddings: float32 N x D unit vectors in the same order, or 0 x D where none were read.
    """

    version: int
    frame: pd.DataFrame
    embeddings: np.ndarray


def read_snapshot(connection: Connection, dim: int, *, with_embeddings: bool = True) -> Snapshot:
    """Read all cases.

    Args:
        connection: an open transaction on the store.
        dim: D, the dimension of the store's vectors.
        with_embeddings: whether to read the vectors.
    """
    columns = [c for c in cases.c if c.name not in ("embedding", "model_digest")]
    if with_embeddings:
        columns.append(cases.c.embedding)
    version = connection.execute(select(archive.c.version)).scalar_one()
    rows = connection.execute(select(*columns).order_by(cases.c.id)).all()
    vectors = np.empty((len(rows) if with_embeddings else 0, dim), np.float32)
    for i in range(len(vectors)):
        vectors[i] = np.frombuffer(rows[i].embedding, dtype="<f4")
    return Snapshot(version, _frame_of(rows), vectors)


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
