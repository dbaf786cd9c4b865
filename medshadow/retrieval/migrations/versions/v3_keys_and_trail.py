"""Schema version 3: keys and what changed, audit trail, tombstones, calibration, source, salt."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

from medshadow.retrieval.append_only import make_append_only
from medshadow.retrieval.creation import SALT_BYTES, keep_no_statistics

revision = "3"
down_revision = "2"

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)
# SQLite cannot add a column that must be filled: the three old tables are made anew and copied.
_ARCHIVE = (
    "id, version, name, model_digest, preprocess, embedding_dim, malignant, malignant_word, "
    "diagnosis_names"
)
_CASES = 'id, case_id, "group", label, labels, metadata, consent, added, model_digest, embedding'


def upgrade() -> None:
    """Make the tables anew beside the old ones, copy, and put them into their place."""
    connection = op.get_bind()
    last_key = _last_number(connection)
    _make_archive()
    _make_cases()
    archive = sa.text(
        f"INSERT INTO new_archive ({_ARCHIVE}, schema_version, changes_from, last_key, "
        f"trail_entries, salt, source) "
        f"SELECT {_ARCHIVE}, 3, version, :last_key, 0, :salt, '' FROM archive"
    )
    salt = secrets.token_bytes(SALT_BYTES)
    connection.execute(archive, {"last_key": last_key, "salt": salt})
    op.execute(
        f"INSERT INTO new_cases ({_CASES}, key, changed) "
        f"SELECT {_CASES}, id, (SELECT version FROM archive) FROM cases"
    )
    op.execute('INSERT INTO new_thumbnails SELECT "case", jpeg FROM thumbnails')
    for table in ("thumbnails", "cases", "archive"):
        op.drop_table(table)
    for table in ("archive", "cases", "thumbnails"):
        op.rename_table(f"new_{table}", table)
    op.create_index("ix_cases_case_id", "cases", ["case_id"], unique=True)
    op.create_index("ix_cases_key", "cases", ["key"], unique=True)
    op.create_index("ix_cases_changed", "cases", ["changed"])
    op.create_index("ix_cases_group", "cases", ["group"])
    _make_what_is_new()
    for table in ("trail", "tombstones"):
        make_append_only(connection, table)
    keep_no_statistics(connection)


def _last_number(connection: sa.Connection) -> int:
    """The highest number that any case ever had, also one that was withdrawn."""
    where = (
        "sqlite_sequence WHERE name = 'cases'"
        if connection.dialect.name == "sqlite"
        else "pg_sequences WHERE sequencename = 'cases_id_seq'"
    )
    column = "seq" if connection.dialect.name == "sqlite" else "last_value"
    given = connection.scalar(sa.text(f"SELECT max({column}) FROM {where}"))
    there = connection.scalar(sa.text("SELECT max(id) FROM cases"))
    return max(given or 0, there or 0)


def _make_archive() -> None:
    op.create_table(
        "new_archive",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("version", _NUMBER, nullable=False),
        sa.Column("changes_from", _NUMBER, nullable=False),
        sa.Column("last_key", _NUMBER, nullable=False),
        sa.Column("trail_entries", _NUMBER, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("preprocess", sa.JSON, nullable=False),
        sa.Column("embedding_dim", sa.Integer, nullable=False),
        sa.Column("malignant", sa.JSON, nullable=False),
        sa.Column("malignant_word", sa.String, nullable=False),
        sa.Column("diagnosis_names", sa.JSON, nullable=False),
    )


def _make_cases() -> None:
    op.create_table(
        "new_cases",
        sa.Column("id", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("key", _NUMBER, nullable=False),
        sa.Column("changed", _NUMBER, nullable=False),
        sa.Column("case_id", sa.String, nullable=False),
        sa.Column("group", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column(
            "consent",
            sa.String,
            sa.CheckConstraint("consent IN ('given', 'suspended')"),
            nullable=False,
        ),
        sa.Column("added", _MOMENT, nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "new_thumbnails",
        sa.Column(
            "case",
            _NUMBER,
            sa.ForeignKey("new_cases.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
    )


def _make_what_is_new() -> None:
    op.create_table(
        "calibration",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )
    op.create_table(
        "removals",
        sa.Column("key", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("case", _NUMBER, nullable=False, index=True),
        sa.Column("made", _NUMBER, nullable=False),
        sa.Column("version", _NUMBER, nullable=False, index=True),
    )
    reasons = "reason IN ('consent', 'error', 'duplicate', 'other')"
    op.create_table(
        "tombstones",
        sa.Column("case", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("withdrawn", _MOMENT, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("reason", sa.String, sa.CheckConstraint(reasons), nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, index=True),
    )
    op.create_table("erasures", sa.Column("key", _NUMBER, primary_key=True, autoincrement=False))
    actions = (
        "action IN ('lookup', 'add', 'replace', 'update', 'withdraw', 'consent given', "
        "'consent suspended')"
    )
    op.create_table(
        "trail",
        sa.Column("id", _NUMBER, primary_key=True, autoincrement=False),
        sa.Column("when", _MOMENT, nullable=False),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("action", sa.String, sa.CheckConstraint(actions), nullable=False),
        sa.Column("query_digest", sa.String, nullable=False),
        sa.Column("cases", sa.JSON, nullable=False),
    )
