"""The engine that opens a case store safely, and the transactions it is read and changed in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine, event, insert, select, update
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, ProgrammingError

from medshadow.errors import OptionalDependencyError, StoreUnavailableError
from medshadow.retrieval.schema import archive, trail

# How long a writer waits for another before it gives up.
BUSY_MILLISECONDS = 30_000


class Turn(NamedTuple):
    """A writer's turn: one transaction in which nobody else changes the store.

    Args:
        connection: the open transaction.
        version: the store's version once it is through.
        when: the moment it began, UTC.
        by: who does it.
        salt: the store's secret for keyed hashes.
    """

    connection: Connection
    version: int
    when: datetime
    by: str
    salt: bytes

    def record(self, action: str, cases: list[int], query_digest: str = "") -> None:
        """Write one entry of the audit trail.

        Args:
            action: one of ``schema.ACTIONS``.
            cases: internal numbers of the cases it was done to or that were shown.
            query_digest: of a lookup, the digest of its image.
        """
        entries = archive.c.trail_entries
        self.connection.execute(update(archive).values({entries: entries + 1}))
        self.connection.execute(
            insert(trail).values(
                id=select(entries).scalar_subquery(),
                when=self.when,
                by=self.by,
                action=action,
                query_digest=query_digest,
                cases=cases,
            )
        )


def store_url(url_or_path: str | Path) -> URL:
    """The SQLAlchemy URL of a store: a URL as it is, a path as a SQLite file.

    Example:
        >>> str(store_url("cases.db"))
        'sqlite:///cases.db'
        >>> store_url("postgresql://medshadow@localhost/cases").drivername
        'postgresql+psycopg'
    """
    if isinstance(url_or_path, str) and "://" in url_or_path:
        url = make_url(url_or_path)
        return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url
    return URL.create("sqlite", database=str(url_or_path))


def store_engine(url: URL, *, foreign_keys: bool = True) -> Engine:
    """An engine for a store; on SQLite with write-ahead log and secure delete.

    Args:
        url: of the database.
        foreign_keys: False while a migration moves tables, which would delete what refers to them.

    Raises:
        OptionalDependencyError: the driver for PostgreSQL is not installed.
    """
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, allow_nan=False),
        # The message of an error would quote them: case ids and metadata.
        "hide_parameters": True,
    }
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, **options)
        event.listen(engine, "connect", partial(_prepare_sqlite, foreign_keys=foreign_keys))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        # A connection that the server closed meanwhile is opened again, not handed out.
        return create_engine(url, pool_pre_ping=True, **options)
    except ModuleNotFoundError as error:
        raise OptionalDependencyError(
            f"a store in {url.get_backend_name()} needs {error.name}; "
            "pip install 'medshadow[postgres]'"
        ) from error


def _prepare_sqlite(connection: Any, _record: Any, *, foreign_keys: bool) -> None:
    # The driver's own transactions would leave CREATE TABLE and reads outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"foreign_keys = {'ON' if foreign_keys else 'OFF'}",
        "secure_delete = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader can lose its turn to another and fail at once.
    writes = connection.get_execution_options().get("medshadow_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees the store as of one moment, whatever others write meanwhile.

    Raises:
        StoreUnavailableError: the database cannot be read now.
    """
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with told_plainly(), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine, by: str) -> Iterator[Turn]:
    """A transaction that takes the writer's turn at once, and leaves the version as it is.

    Raises:
        StoreUnavailableError: the database cannot be written now; it is as it was before.
    """
    writer = engine.execution_options(medshadow_writes=True)
    with told_plainly(), writer.begin() as connection:
        # The lock makes writers take turns on PostgreSQL too, so that versions and keys become
        # visible in their order; SQLite needs and knows none.
        query = select(archive.c.version, archive.c.salt).with_for_update()
        row = connection.execute(query).one()
        yield Turn(connection, row.version, datetime.now(UTC), by, row.salt)


@contextmanager
def changing(engine: Engine, by: str) -> Iterator[Turn]:
    """A writer's turn that moves the store's version on."""
    with writing(engine, by) as turn:
        turn.connection.execute(update(archive).values(version=archive.c.version + 1))
        yield turn._replace(version=turn.version + 1)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Name what a database or its disk refuses, without the statement and what was in it.

    Raises:
        StoreUnavailableError: it is full, locked, read-only, damaged or gone.
    """
    try:
        yield
    except (DataError, IntegrityError, ProgrammingError):
        raise
    except DatabaseError as error:
        reason = str(error.orig).partition("\n")[0]
        raise StoreUnavailableError(
            f"the case store cannot be read or written now: {reason}"
        ) from None
