"""Bringing a case store of an older schema version to the present one."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, inspect, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError

from medshadow.errors import StoreError
from medshadow.retrieval.backup import backup_store
from medshadow.retrieval.database import store_engine, store_url, told_plainly
from medshadow.retrieval.erasure import erase_leftovers
from medshadow.retrieval.schema import SCHEMA_VERSION, archive

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade_store(url_or_path: str | Path) -> Path | None:
    """Bring a store to the schema version that this MedShadow reads, whole or not at all.

    A SQLite file is copied first, to ``<file>.version-<old version>``. The copy holds every case:
    remove it once the store is seen to be well, or a case that is withdrawn later stays in it. A
    store in PostgreSQL is to be backed up with ``pg_dump`` before.

    Args:
        url_or_path: the store, as for ``CaseStore``.

    Returns:
        The copy; None where none was made: on PostgreSQL, or because nothing was to do.

    Raises:
        FileNotFoundError: no such SQLite file.
        StoreError: the database is no case store or one of a newer MedShadow, or the copy's file
            exists.
        StoreUnavailableError: the disk is full, or the like; the store is as it was.
    """
    url = store_url(url_or_path)
    where = url.render_as_string(hide_password=True)
    path = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"no case store at {path}")
    engine = store_engine(url, foreign_keys=False)
    try:
        version = _schema_version(engine, where)
        if version == SCHEMA_VERSION:
            return None
        if path is None:
            _migrate(engine, version)
            return None
        copy = path.with_name(f"{path.name}.version-{version}")
        backup_store(engine, where, copy)
        try:
            _migrate(engine, version)
        except BaseException:
            # The store is as it was; another try must be free to copy it again.
            copy.unlink()
            raise
        erase_leftovers(engine)
        return copy
    finally:
        engine.dispose()


def _schema_version(engine: Engine, where: str) -> int:
    try:
        with engine.begin() as connection:
            if not inspect(connection).has_table("archive"):
                raise StoreError(f"{where}: not a case store: it has no table 'archive'")
            version = connection.scalar(select(archive.c.schema_version))
    except DatabaseError as error:
        raise StoreError(f"{where}: not a case store: {error.orig}") from error
    if version is None or not 1 <= version <= SCHEMA_VERSION:
        raise StoreError(
            f"{where}: schema version {version}; this MedShadow knows 1 to {SCHEMA_VERSION}"
        )
    return int(version)


def run_migrations(connection: Connection, there: str, target: str) -> None:
    """Run alembic's steps inside an open transaction.

    Args:
        connection: of an engine without foreign keys.
        there: the schema version that the database has, or "base" for an empty one.
        target: the schema version it is to have.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign would be taken for an interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.stamp(config, there)
    command.upgrade(config, target)


def _migrate(engine: Engine, version: int) -> None:
    writer = engine.execution_options(medshadow_writes=True)
    with told_plainly(), writer.begin() as connection:
        run_migrations(connection, str(version), str(SCHEMA_VERSION))
