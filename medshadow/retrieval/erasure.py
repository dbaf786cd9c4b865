"""Withdrawing a case: row, vector, picture and bytes go; a tombstone that names nobody stays."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import Engine, delete, insert, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, OperationalError

from medshadow.errors import StoreError, StoreUnavailableError
from medshadow.retrieval import database
from medshadow.retrieval.changes import delete_cases, parts, required_numbers, retire_keys
from medshadow.retrieval.database import Turn, reading, writing
from medshadow.retrieval.schema import erasures, removals, tombstones
from medshadow.retrieval.trail import keyed_digest

_log = logging.getLogger(__name__)
# How long readers and writers may be kept waiting at a time, and then are let pass.
_A_TRY = 0.1
_LOCK_NOT_AVAILABLE = "55P03"


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


def finish_erasure(
    engine: Engine, vectors_path: Path | None, patience: float | None = None
) -> bool:
    """Erase the bytes of withdrawn cases, also of those whose withdrawal was cut short.

    Args:
        engine: of the store.
        vectors_path: the file of vectors beside it, if there may be one.
        patience: seconds to wait for those who read what was there before; as long as writers wait
            for each other when None.

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
        done = erase_leftovers(engine, patience)
        if done:
            with writing(engine, by="") as turn:
                for part in parts(keys):
                    turn.connection.execute(delete(erasures).where(erasures.c.key.in_(part)))
    except (sqlite3.Error, DatabaseError, StoreUnavailableError) as error:
        raise StoreError(
            "cases are withdrawn, but their bytes stay in the database until it is opened again: "
            f"{getattr(error, 'orig', error)}"
        ) from error
    if not done:
        _log.warning(
            "cases are withdrawn, but their bytes stay in the database's log or tables until the "
            "processes that are reading them have finished"
        )
    return done


def erase_leftovers(engine: Engine, patience: float | None = None) -> bool:
    """Rewrite the tables of a store without what was deleted from them.

    SQLite's write-ahead log is emptied too. PostgreSQL's log and what was archived of it keep their
    content until the server recycles them: that is its administrator's to set.

    Args:
        engine: of the store.
        patience: as for :func:`finish_erasure`.

    Returns:
        False where somebody still reads what was deleted.
    """
    seconds = database.BUSY_MILLISECONDS / 1000 if patience is None else patience
    give_up = time.monotonic() + seconds
    if engine.dialect.name == "postgresql":
        return _rewrite_postgresql(engine, give_up)
    # VACUUM is refused inside a transaction, which SQLAlchemy's connections always begin.
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("VACUUM")
        # Emptying the log keeps writers out for as long as it waits for readers.
        cursor.execute(f"PRAGMA busy_timeout = {round(1000 * _A_TRY)}")
        while busy := cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > give_up:
                break
            time.sleep(_A_TRY)
        cursor.execute(f"PRAGMA busy_timeout = {database.BUSY_MILLISECONDS}")
        cursor.close()
    finally:
        connection.close()
    return not busy


def _rewrite_postgresql(engine: Engine, give_up: float) -> bool:
    with engine.begin() as connection:
        # Whatever was deleted is deleted to those who began after this number was given out.
        now = connection.execute(text("SELECT pg_current_xact_id()::text")).scalar_one()
    older = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid() "
        "AND age(backend_xmin) > age(CAST(:now AS xid8)::xid)"
    )
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        # Readers that come later wait behind a rewriting that waits for earlier ones.
        connection.execute(text(f"SET lock_timeout = {round(1000 * _A_TRY)}"))
        try:
            while connection.execute(older, {"now": now}).scalar_one() or not _rewritten(
                connection
            ):
                if time.monotonic() > give_up:
                    return False
                time.sleep(_A_TRY)
        finally:
            connection.execute(text("RESET lock_timeout"))
    return True


def _rewritten(connection: Connection) -> bool:
    try:
        connection.execute(text("VACUUM FULL cases, thumbnails"))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True
