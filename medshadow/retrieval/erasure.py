"""Withdrawing a case: row, vector, picture and bytes go; a tombstone that names nobody stays."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import Engine, delete, insert, select, text
from sqlalchemy.exc import DatabaseError

from medshadow.errors import StoreError
from medshadow.retrieval import database
from medshadow.retrieval.changes import delete_cases, parts, required_numbers, retire_keys
from medshadow.retrieval.database import Turn, reading, writing
from medshadow.retrieval.schema import erasures, removals, tombstones
from medshadow.retrieval.trail import keyed_digest

_log = logging.getLogger(__name__)


def withdraw_cases(turn: Turn, case_ids: list[str], reason: str) -> None:
    """Delete cases, leave their tombstones, and note which keys have still to be erased.

    Raises:
        StoreError: a case id is not in the store.
    """
    connection = turn.connection
    numbers = required_numbers(connection, case_ids)
    retire_keys(turn, numbers)
    same = {"withdrawn": turn.when, "by": turn.by, "reason": reason}
    graves = [
        {**same, "case": number, "digest": keyed_digest(turn.salt, "case", case_id.encode())}
        for case_id, number in zip(case_ids, numbers, strict=True)
    ]
    if graves:
        connection.execute(insert(tombstones), graves)
    for part in parts(numbers):
        # A case that was changed had other keys before, with which its vector may still lie about.
        every_key = select(removals.c.key).where(removals.c.case.in_(part))
        connection.execute(insert(erasures).from_select(["key"], every_key))
    delete_cases(connection, numbers)
    turn.record("withdraw", numbers)


def read_withdrawn(engine: Engine) -> pd.DataFrame:
    """The tombstones, oldest first; see ``CaseStore.withdrawn``."""
    columns = [tombstones.c[name] for name in ("case", "withdrawn", "by", "reason")]
    with reading(engine) as connection:
        rows = connection.execute(select(*columns).order_by(columns[1], columns[0])).all()
    return pd.DataFrame(
        {
            "case": pd.Series([row.case for row in rows], dtype="int64"),
            "withdrawn": pd.to_datetime(pd.Series([row.withdrawn for row in rows]), utc=True),
            "by": pd.Series([row.by for row in rows], dtype=str),
            "reason": pd.Series([row.reason for row in rows], dtype=str),
        }
    )


def finish_erasure(engine: Engine, vectors_path: Path | None) -> bool:
    """Erase the bytes of withdrawn cases, also of those whose withdrawal was cut short.

    Returns:
        False where another process still reads what was there before; the next withdrawal or the
        next opening of the store tries again.

    Raises:
        StoreError: bytes of withdrawn cases stay where they are: the disk is full, or a file cannot
            be changed.
    """
    with reading(engine) as connection:
        keys = list(connection.scalars(select(erasures.c.key).order_by(erasures.c.key)))
    if not keys:
        return True
    if vectors_path is not None:
        from medshadow.retrieval.vectors import erase_vectors

        erase_vectors(vectors_path, np.array(keys, dtype=np.int64))
    try:
        done = erase_leftovers(engine)
    except (sqlite3.Error, DatabaseError) as error:
        raise StoreError(
            "cases are withdrawn, but their bytes stay in the database until it is opened again: "
            f"{getattr(error, 'orig', error)}"
        ) from error
    if not done:
        _log.warning(
            "cases are withdrawn, but their bytes stay in the database's log or tables until the "
            "processes that are reading them have finished"
        )
        return False
    with writing(engine, by="") as turn:
        for part in parts(keys):
            turn.connection.execute(delete(erasures).where(erasures.c.key.in_(part)))
    return True


def erase_leftovers(engine: Engine) -> bool:
    """Rewrite the tables of a store without what was deleted from them.

    SQLite's write-ahead log is emptied too. PostgreSQL's log and what was archived of it keep their
    content until the server recycles them: that is its administrator's to set.

    Returns:
        False where somebody still reads what was deleted.
    """
    if engine.dialect.name == "postgresql":
        return _rewrite_postgresql(engine)
    # VACUUM is refused inside a transaction, which SQLAlchemy's connections always begin.
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((busy, _, _),) = cursor.fetchall()
        cursor.close()
    finally:
        connection.close()
    return not busy


def _rewrite_postgresql(engine: Engine) -> bool:
    with engine.begin() as connection:
        # Whatever was deleted is deleted to those who began after this number was given out.
        now = connection.execute(text("SELECT pg_current_xact_id()::text")).scalar_one()
    older = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid() "
        "AND age(backend_xmin) > age(CAST(:now AS xid8)::xid)"
    )
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    give_up = time.monotonic() + database.BUSY_MILLISECONDS / 1000
    with autocommit.connect() as connection:
        while connection.execute(older, {"now": now}).scalar_one():
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        connection.execute(text("VACUUM FULL cases, thumbnails"))
    return True
