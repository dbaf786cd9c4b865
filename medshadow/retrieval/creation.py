"""Making the tables of an empty case store."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import insert, inspect, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DatabaseError

from medshadow.errors import StoreError
from medshadow.retrieval import schema
from medshadow.retrieval.append_only import make_append_only
from medshadow.retrieval.database import store_engine

SALT_BYTES = 32


def make_store(url: URL, **archive: Any) -> None:
    """Make an empty store in a new SQLite file or an empty PostgreSQL database.

    Args:
        url: of the database; folders of a SQLite file are made.
        archive: the columns of the archive's row that say what it is.

    Raises:
        StoreError: the database already holds a store or other tables, or cannot be opened.
    """
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its log and its file of vectors take after it: readable by their owner alone.
        path.touch(mode=0o600)
    engine = store_engine(url)
    try:
        with engine.execution_options(medshadow_writes=True).begin() as connection:
            found = inspect(connection).get_table_names()
            if found:
                what = "a case store" if "archive" in found else f"other tables: {found[:5]}"
                raise StoreError(
                    f"{url.render_as_string(hide_password=True)}: holds {what}; open it with "
                    "CaseStore(...) or name a new database"
                )
            schema.tables.create_all(connection)
            for table in schema.APPEND_ONLY:
                make_append_only(connection, table)
            keep_no_statistics(connection)
            _write_archive(connection, archive)
    except DatabaseError as error:
        where = url.render_as_string(hide_password=True)
        raise StoreError(f"{where}: cannot be opened: {error.orig}") from error
    finally:
        engine.dispose()


def keep_no_statistics(connection: Connection) -> None:
    """Keep PostgreSQL from copying values into its statistics, where a withdrawn one would stay."""
    if connection.dialect.name != "postgresql":
        return
    for table in ("cases", "thumbnails"):
        for column in inspect(connection).get_columns(table):
            change = f'ALTER TABLE {table} ALTER COLUMN "{column["name"]}" SET STATISTICS 0'
            connection.execute(text(change))


def _write_archive(connection: Connection, archive: dict[str, Any]) -> None:
    counters = {"version": 0, "changes_from": 0, "last_key": 0, "trail_entries": 0}
    first = {"id": 1, "schema_version": schema.SCHEMA_VERSION, **counters}
    salt = secrets.token_bytes(SALT_BYTES)
    connection.execute(insert(schema.archive).values(**first, **archive, salt=salt))
    stamp = insert(schema.alembic_version).values(version_num=str(schema.SCHEMA_VERSION))
    connection.execute(stamp)
