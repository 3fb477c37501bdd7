"""The first schema, as registries had it before there were migrations.

Frozen: it does not follow `tables.py`. It is not run on a new database, which gets the present
tables at once; registries of that time are marked with it and go on from there.
"""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing: the tables are there."""
