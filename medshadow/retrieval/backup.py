"""A consistent copy of a SQLite store while it is in use."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import cast

from sqlalchemy import Engine

from medshadow.errors import StoreError, StoreUnavailableError

# A copy goes on from a version far beyond its original's, so that no reader of the one can take
# the other for what it knows. Both fit into JSON's and SQLite's integers for ever.
_LEAP = 2**40


def backup_store(engine: Engine, where: str, path: Path) -> None:
    """Copy a store's database; see ``CaseStore.backup``.

    Args:
        engine: of the store.
        where: what the store is called in errors.
        path: the file to make.
    """
    if engine.dialect.name != "sqlite":
        raise StoreError(f"{where}: a store in PostgreSQL is backed up with pg_dump")
    if path.exists():
        raise StoreError(f"{path} exists; name a new file for the backup")
    part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(engine.raw_connection()) as source, closing(sqlite3.connect(part)) as copy:
            cast(sqlite3.Connection, source.driver_connection).backup(copy)
            _begin_anew(copy)
        part.replace(path)
    except sqlite3.Error as error:
        raise StoreUnavailableError(f"{path} cannot be written: {error}") from None
    finally:
        for name in (part.name, f"{part.name}-wal", f"{part.name}-shm"):
            part.with_name(name).unlink(missing_ok=True)


def _begin_anew(copy: sqlite3.Connection) -> None:
    columns = {row[1] for row in copy.execute("PRAGMA table_info(archive)")}
    if "changes_from" not in columns:
        return
    leap = _LEAP + secrets.randbelow(_LEAP)
    copy.execute("UPDATE archive SET version = version + ?, last_key = last_key + ?", (leap, leap))
    copy.execute("UPDATE archive SET changes_from = version")
    copy.commit()
