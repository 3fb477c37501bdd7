"""Alembic migrations: each takes the tables from one release's form to the next's."""
