"""The tables of a case store, and the engine that opens them safely."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    DateTime,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.engine import URL, Connection, make_url

SCHEMA_VERSION = 2
# How long a writer waits for another before it gives up.
BUSY_MILLISECONDS = 10_000
CONSENT = ("given", "suspended")

tables = MetaData()

archive = Table(
    "archive",
    tables,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("preprocess", JSON, nullable=False),
    Column("embedding_dim", Integer, nullable=False),
    Column("malignant", JSON, nullable=False),
    Column("malignant_word", String, nullable=False),
    Column("diagnosis_names", JSON, nullable=False),
)

cases = Table(
    "cases",
    tables,
    Column("id", Integer, primary_key=True),
    Column("case_id", String, nullable=False, unique=True),
    Column("group", String, nullable=False, index=True),
    Column("label", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("consent", String, CheckConstraint(f"consent IN {CONSENT}"), nullable=False),
    Column("added", DateTime(timezone=True), nullable=False),
    Column("model_digest", String, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

# Apart from the cases, so that loading every vector does not read past every picture.
thumbnails = Table(
    "thumbnails",
    tables,
    Column("case", Integer, ForeignKey("cases.id", ondelete="CASCADE"), primary_key=True),
    Column("jpeg", LargeBinary, nullable=False),
)


def store_url(url_or_path: str | Path) -> URL:
    """The SQLAlchemy URL of a store: a URL as it is, a path as a SQLite file."""
    if isinstance(url_or_path, str) and "://" in url_or_path:
        return make_url(url_or_path)
    return URL.create("sqlite", database=str(url_or_path))


def store_engine(url: URL) -> Engine:
    """An engine for a store; on SQLite with write-ahead log, foreign keys and secure delete."""
    engine = create_engine(url, json_serializer=partial(json.dumps, allow_nan=False))
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions would leave CREATE TABLE and reads outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_MILLISECONDS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer that begins as a reader can lose its turn to another and fail at once.
    writes = connection.get_execution_options().get("medshadow_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def erase_leftovers(engine: Engine) -> bool:
    """Rewrite a SQLite store without what was deleted from it, and empty its write-ahead log.

    Returns:
        False where another process reads the log, which then keeps the old content for now.
    """
    if engine.dialect.name != "sqlite":
        return True
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
