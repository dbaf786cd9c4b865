"""Schema version 2: a case that triage must not miss is called by the archive's own word."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add the word; eyes were told by the name of the data set."""
    op.add_column(
        "archive",
        sa.Column("malignant_word", sa.String, nullable=False, server_default="malignant"),
    )
    op.execute(
        "UPDATE archive SET schema_version = 2, malignant_word = "
        "CASE name WHEN 'odir5k' THEN 'sight-threatening' ELSE 'malignant' END"
    )
