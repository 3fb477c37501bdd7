"""A monitor finds its window again after a crash, and keeps its past for years.

* Windows know when they began and what they span; their quantiles lie apart from their figures.
* Chunks hold what was recorded since the last flush.
* Events of alerts wait in the store until their sink has taken them.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the tables; what is in them stays."""
    _tell_windows_their_span()
    _make_chunks()
    _make_deliveries()
    op.create_index("alert_by_model", "alert", ["model_name", "first_seen"])


def _tell_windows_their_span() -> None:
    for column in (
        sa.Column("started_at", sa.String(40)),
        sa.Column("span", sa.String(10), nullable=False, server_default="window"),
        sa.Column("n_windows", sa.Integer, nullable=False, server_default="1"),
        sa.Column("sketches", sa.JSON),
    ):
        op.add_column("monitor_window", column)
    op.create_index("monitor_window_by_span", "monitor_window", ["model_name", "span", "seq"])
    op.create_index("monitor_window_by_end", "monitor_window", ["model_name", "ended_at"])


def _make_chunks() -> None:
    op.create_table(
        "monitor_chunk",
        _seq(),
        sa.Column("model_name", sa.String(120), nullable=False),
        sa.Column("recorder_id", sa.String(60), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("n_records", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("monitor_chunk_by_model", "monitor_chunk", ["model_name", "seq", "n_records"])


def _make_deliveries() -> None:
    op.create_table(
        "alert_delivery",
        _seq(),
        sa.Column("delivery_id", sa.Text, nullable=False, unique=True),
        sa.Column("model_name", sa.String(120), nullable=False),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("alert_delivery_by_model", "alert_delivery", ["model_name", "seq"])


def _seq() -> sa.Column[Any]:
    return sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    )
