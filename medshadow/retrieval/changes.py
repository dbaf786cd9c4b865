"""The statements that change a case store, each inside a transaction that its caller opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import Engine, delete, insert, select, update
from sqlalchemy.engine import Connection

from medshadow.retrieval.schema import archive, cases, thumbnails

# SQLite takes a bounded number of parameters in one statement.
_IDS_A_STATEMENT = 500


@contextmanager
def changing(engine: Engine) -> Iterator[Connection]:
    """A transaction that takes the writer's turn at once and moves the store's version on."""
    with engine.execution_options(medshadow_writes=True).begin() as connection:
        yield connection
        connection.execute(update(archive).values(version=archive.c.version + 1))


def known_ids(connection: Connection, case_ids: list[str]) -> list[str]:
    """Those of some case ids that are in the store, in alphabetical order."""
    found: list[str] = []
    for part in _parts(case_ids):
        found += connection.scalars(select(cases.c.case_id).where(cases.c.case_id.in_(part)))
    return sorted(found)


def insert_cases(
    connection: Connection,
    rows: list[dict[str, Any]],
    vectors: np.ndarray,
    jpegs: list[bytes | None],
    model_digest: str,
) -> None:
    """Add rows (see ``plain_rows``) with their vectors, and the thumbnails there are."""
    same = {"consent": "given", "added": datetime.now(UTC), "model_digest": model_digest}
    values = [
        {**row, **same, "embedding": vector.tobytes()}
        for row, vector in zip(rows, vectors, strict=True)
    ]
    connection.execute(insert(cases), values)
    jpeg_of = {
        row["case_id"]: jpeg for row, jpeg in zip(rows, jpegs, strict=True) if jpeg is not None
    }
    for part in _parts(list(jpeg_of)):
        query = select(cases.c.id, cases.c.case_id).where(cases.c.case_id.in_(part))
        keys = connection.execute(query).all()
        connection.execute(
            insert(thumbnails), [{"case": key.id, "jpeg": jpeg_of[key.case_id]} for key in keys]
        )


def delete_cases(connection: Connection, case_ids: list[str]) -> None:
    """Delete cases with their vectors and thumbnails; an unknown id is passed by."""
    for part in _parts(case_ids):
        connection.execute(delete(cases).where(cases.c.case_id.in_(part)))


def write_consent(connection: Connection, case_ids: list[str], consent: str) -> None:
    """Set the consent state of cases; an unknown id is passed by."""
    for part in _parts(case_ids):
        connection.execute(update(cases).where(cases.c.case_id.in_(part)).values(consent=consent))


def _parts(case_ids: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(case_ids), _IDS_A_STATEMENT):
        yield case_ids[first : first + _IDS_A_STATEMENT]
