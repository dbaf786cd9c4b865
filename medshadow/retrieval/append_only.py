"""Triggers by which the database itself refuses to change or delete what was once written."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import Connection

_FUNCTION = """
CREATE OR REPLACE FUNCTION medshadow_append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME; END $$
"""


def make_append_only(connection: Connection, table: str) -> None:
    """Let rows of a table be added and nothing else.

    Args:
        connection: an open transaction on a SQLite or PostgreSQL database.
        table: a table of it.
    """
    if connection.dialect.name == "sqlite":
        for action in ("update", "delete"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, 'table {table} is append-only'); END"
            )
        return
    connection.execute(text(_FUNCTION))
    for action, rows in (("update", "ROW"), ("delete", "ROW"), ("truncate", "STATEMENT")):
        connection.execute(
            text(
                f"CREATE TRIGGER {table}_no_{action} BEFORE {action} ON {table} "
                f"FOR EACH {rows} EXECUTE FUNCTION medshadow_append_only()"
            )
        )


def is_append_only(connection: Connection, table: str) -> bool:
    """Whether a table's triggers are there and, on PostgreSQL, switched on."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table"
        expected = {f"{table}_no_{action}" for action in ("update", "delete")}
    else:
        query = (
            "SELECT tgname FROM pg_trigger "
            "WHERE tgrelid = to_regclass(:table) AND tgenabled IN ('O', 'A')"
        )
        expected = {f"{table}_no_{action}" for action in ("update", "delete", "truncate")}
    return expected <= set(connection.scalars(text(query), {"table": table}))
