"""Alembic's steps from each schema version of a case store to the next."""
