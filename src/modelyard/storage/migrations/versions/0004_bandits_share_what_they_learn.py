"""Several processes run one bandit: each appends what happened there."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table; what is in the others stays."""
    op.create_table(
        "bandit_chunk",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("bandit_name", sa.String(120), nullable=False),
        sa.Column("recorder_id", sa.String(60), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("n_choices", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("bandit_chunk_by_bandit", "bandit_chunk", ["bandit_name", "seq"])
