"""Outcomes tell when their unit was first given the variant, for the check of the split."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column; of what is there already it is not known."""
    op.add_column("experiment_result", sa.Column("first_epoch", sa.Integer))
