"""The tables of a case store, schema version 3."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

SCHEMA_VERSION = 3
CONSENT = ("given", "suspended")
REASONS = ("consent", "error", "duplicate", "other")
ACTIONS = (
    "lookup",
    "add",
    "replace",
    "update",
    "withdraw",
    "consent given",
    "consent suspended",
)
# Rows of these are written once: the database itself refuses to change or delete them.
APPEND_ONLY = ("trail", "tombstones")

# SQLite keeps a table in the order of its key only where the key is called INTEGER.
Number = BigInteger().with_variant(Integer, "sqlite")
Moment = DateTime(timezone=True)

tables = MetaData()

archive = Table(
    "archive",
    tables,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("version", Number, nullable=False),
    # The oldest version that a reader can catch up from.
    Column("changes_from", Number, nullable=False),
    Column("last_key", Number, nullable=False),
    Column("trail_entries", Number, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("name", String, nullable=False),
    Column("source", String, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("preprocess", JSON, nullable=False),
    Column("embedding_dim", Integer, nullable=False),
    Column("malignant", JSON, nullable=False),
    Column("malignant_word", String, nullable=False),
    Column("diagnosis_names", JSON, nullable=False),
)

# Apart from the archive's row, which every change and every lookup writes again.
calibration = Table(
    "calibration",
    tables,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("value", JSON, nullable=False),
)

cases = Table(
    "cases",
    tables,
    # The case's internal number, for as long as it is in the store.
    Column("id", Number, primary_key=True, autoincrement=False),
    # The number of what the case is now: a new one whenever it changes or comes back.
    Column("key", Number, nullable=False),
    # The store's version since which it has that key.
    Column("changed", Number, nullable=False),
    Column("case_id", String, nullable=False),
    Column("group", String, nullable=False),
    Column("label", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("consent", String, CheckConstraint(f"consent IN {CONSENT}"), nullable=False),
    Column("added", Moment, nullable=False),
    Column("model_digest", String, nullable=False),
    Column("embedding", LargeBinary, nullable=False),
    Index("ix_cases_case_id", "case_id", unique=True),
    Index("ix_cases_key", "key", unique=True),
    Index("ix_cases_changed", "changed"),
    Index("ix_cases_group", "group"),
)

# Apart from the cases, so that loading every vector does not read past every picture.
thumbnails = Table(
    "thumbnails",
    tables,
    Column(
        "case",
        Number,
        ForeignKey("cases.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("jpeg", LargeBinary, nullable=False),
)

# Keys that are no longer found: which case had it, from which version to which.
removals = Table(
    "removals",
    tables,
    Column("key", Number, primary_key=True, autoincrement=False),
    Column("case", Number, nullable=False),
    Column("made", Number, nullable=False),
    Column("version", Number, nullable=False),
    Index("ix_removals_case", "case"),
    Index("ix_removals_version", "version"),
)

# What is left of a withdrawn case: nothing that was said of it.
tombstones = Table(
    "tombstones",
    tables,
    Column("case", Number, primary_key=True, autoincrement=False),
    Column("withdrawn", Moment, nullable=False),
    Column("by", String, nullable=False),
    Column("reason", String, CheckConstraint(f"reason IN {REASONS}"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Index("ix_tombstones_digest", "digest"),
)

# Keys whose vectors and bytes have still to be erased; empty but for the time that takes.
erasures = Table(
    "erasures",
    tables,
    Column("key", Number, primary_key=True, autoincrement=False),
)

trail = Table(
    "trail",
    tables,
    # Numbered from 1 without a gap, so that a missing entry shows.
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("when", Moment, nullable=False),
    Column("by", String, nullable=False),
    Column("action", String, CheckConstraint(f"action IN {ACTIONS}"), nullable=False),
    Column("query_digest", String, nullable=False),
    # Internal numbers of cases.
    Column("cases", JSON, nullable=False),
)

# Alembic's own table: the last migration that was run.
alembic_version = Table(
    "alembic_version",
    tables,
    Column("version_num", String(32), primary_key=True),
)
