"""Schema version 1: the archive, its cases and their thumbnails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "archive",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("schema_version", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("preprocess", sa.JSON, nullable=False),
        sa.Column("embedding_dim", sa.Integer, nullable=False),
        sa.Column("malignant", sa.JSON, nullable=False),
        sa.Column("diagnosis_names", sa.JSON, nullable=False),
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("case_id", sa.String, nullable=False, unique=True),
        sa.Column("group", sa.String, nullable=False, index=True),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column(
            "consent",
            sa.String,
            sa.CheckConstraint("consent IN ('given', 'suspended')"),
            nullable=False,
        ),
        sa.Column("added", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_digest", sa.String, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "thumbnails",
        sa.Column(
            "case", sa.Integer, sa.ForeignKey("cases.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
    )
