"""A monitor finds again what it had recorded, told and taken for normal.

* Windows know their span, so that old ones can be put together; distributions stand apart.
* What was recorded since the last flush, baselines, and deliveries that wait have tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_REFUSAL = "the history is append-only"


def upgrade() -> None:
    """Change the tables; what is in them stays."""
    op.add_column(
        "monitor_window",
        sa.Column("span", sa.String(10), nullable=False, server_default="window"),
    )
    op.add_column("monitor_window", sa.Column("sketches", sa.JSON))
    op.create_index("monitor_window_by_time", "monitor_window", ["model_name", "ended_at"])
    _add_chunks()
    _add_baseline_events()
    op.create_table(
        "alert_delivery",
        sa.Column("delivery_id", sa.String(200), primary_key=True),
        sa.Column("model_name", sa.String(120), nullable=False),
        sa.Column("sink", sa.String(120), nullable=False),
        sa.Column("event", sa.JSON, nullable=False),
    )
    op.create_index("alert_delivery_by_model", "alert_delivery", ["model_name"])


def _seq() -> sa.Column[int]:
    return sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    )


def _add_chunks() -> None:
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
    op.create_index("monitor_chunk_by_model", "monitor_chunk", ["model_name", "seq"])
    op.create_table(
        "monitor_counter",
        sa.Column("model_name", sa.String(120), primary_key=True),
        sa.Column("n_dropped", sa.BigInteger, nullable=False),
    )


def _add_baseline_events() -> None:
    op.create_table(
        "baseline_event",
        _seq(),
        sa.Column("model_name", sa.String(120), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("baseline_event_by_model", "baseline_event", ["model_name", "seq"])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER baseline_event_no_{verb.lower()} BEFORE {verb} ON "
                f"baseline_event BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            )
        return
    op.execute(
        "CREATE TRIGGER baseline_event_append_only BEFORE UPDATE OR DELETE ON baseline_event "
        "FOR EACH ROW EXECUTE FUNCTION modelyard_append_only()"
    )
