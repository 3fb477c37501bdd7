"""Every table of the store, in SQLAlchemy Core.

Order is by `seq`, which the database hands out; times are ISO 8601 text in UTC and are for people.
Columns of type JSON hold plain values only (`_core.plain`).
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# Alembic's name of the last migration in `migrations/versions`, which leads to these tables.
HEAD = "0005"


def _seq() -> Column[Any]:
    # SQLite numbers rows by itself only for INTEGER keys; AUTOINCREMENT never hands one out twice.
    return Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    )


_NUMBERED: dict[str, Any] = {"sqlite_autoincrement": True}

# What versions were saved with; most share theirs with many others.
environment = Table(
    "environment",
    metadata,
    Column("digest", String(64), primary_key=True),  # blake3 of the facts as JSON
    Column("facts", JSON, nullable=False),
)

version = Table(
    "version",
    metadata,
    _seq(),
    Column("version_id", String(200), nullable=False, unique=True),
    Column("model_name", String(120), nullable=False),
    Column("timestamp", String(15), nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("config", JSON, nullable=False),
    Column("description", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("format", String(40), nullable=False),
    Column("can_load_full", Boolean, nullable=False),
    Column("cannot_load_full_reason", Text),
    Column("class_name", Text, nullable=False),
    Column("signature", JSON),
    Column("non_finite_metrics", JSON, nullable=False),
    Column("removed_at", String(40)),
    Column("environment_digest", ForeignKey("environment.digest")),
    Index("version_by_model", "model_name", "seq"),
    **_NUMBERED,
)

blob = Table(
    "blob",
    metadata,
    Column("digest", String(64), primary_key=True),  # blake3
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("condemned_at", String(40)),
)

artifact = Table(
    "artifact",
    metadata,
    Column("version_id", ForeignKey("version.version_id"), primary_key=True),
    # "model": what the module is made of; "artifact": given at save; "attachment": added later.
    Column("kind", String(20), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column(
        "encoding", String(20), nullable=False
    ),  # raw | json | npy | safetensors | tree | module
    Column("digest", ForeignKey("blob.digest"), nullable=False),
    Index("artifact_by_digest", "digest"),
)

metric = Table(
    "metric",
    metadata,
    Column("version_id", ForeignKey("version.version_id"), primary_key=True),
    Column("name", String(120), primary_key=True),
    Column("value", Float, nullable=True),  # null: NaN or infinite at save
    # The version's own, once more: the best version of a model is one step in an index.
    Column("model_name", String(120), nullable=False),
    Index("metric_by_model", "model_name", "name", "value"),
    Index("metric_by_value", "name", "value"),
)

tag = Table(
    "tag",
    metadata,
    Column("version_id", ForeignKey("version.version_id"), primary_key=True),
    Column("tag", String(120), primary_key=True),
)

alias = Table(
    "alias",
    metadata,
    Column("model_name", String(120), primary_key=True),
    Column("alias", String(120), primary_key=True),
    Column("version_id", ForeignKey("version.version_id"), nullable=False),
    Column("revision", Integer, nullable=False),
)

lineage = Table(
    "lineage",
    metadata,
    Column("version_id", ForeignKey("version.version_id"), primary_key=True),
    # Not a foreign key: a version may outlive what it was made from, or come without it.
    Column("parent_id", String(200), primary_key=True),
    Column("kind", String(20), nullable=False),
    Index("lineage_by_parent", "parent_id"),
)

# Append-only: who did what to which version, and when.
audit = Table(
    "audit",
    metadata,
    _seq(),
    Column("at", String(40), nullable=False),
    Column("model_name", String(120), nullable=False),
    Column("version_id", String(200)),
    Column("action", String(40), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("alias", String(120)),  # of what moves or drops one
    Index("audit_by_model", "model_name", "seq"),
    Index("audit_by_alias", "model_name", "alias", "seq"),
    Index("audit_by_version", "version_id", "seq"),
    **_NUMBERED,
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("expires_at_s", Float, nullable=False),  # Unix time
    Column("version_id", String(200)),  # of what may not be removed meanwhile
)

rollout = Table(
    "rollout",
    metadata,
    _seq(),
    Column("rollout_id", String(60), nullable=False, unique=True),
    Column("model_name", String(120), nullable=False),
    Column("old_version_id", String(200)),
    Column("new_version_id", String(200), nullable=False),
    Column("status", String(20), nullable=False),
    Column("state", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    Index("rollout_by_model", "model_name", "seq"),
    **_NUMBERED,
)

# The alias that means "in use".
PRODUCTION = "production"

# Statuses of a rollout that may still move; its versions are needed.
UNFINISHED_ROLLOUTS = (
    "pending",
    "shadow",
    "running",
    "waiting",
    "paused",
    "promoting",
    "baking",
    "rolling_back",
)

# Append-only: every step of every rollout with the numbers that decided it.
rollout_event = Table(
    "rollout_event",
    metadata,
    _seq(),
    Column("rollout_id", String(60), nullable=False),
    Column("model_name", String(120), nullable=False),
    Column("at", String(40), nullable=False),
    Column("action", String(40), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("detail", JSON, nullable=False),
    Index("rollout_event_by_model", "model_name", "seq"),
    **_NUMBERED,
)

# What a long-lived object must find again after a restart, one row each: an update strategy's
# baseline, a bandit's counts, a monitor's baseline.
snapshot = Table(
    "snapshot",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("state", JSON, nullable=False),
    Column("saved_at", String(40), nullable=False),
)

experiment = Table(
    "experiment",
    metadata,
    Column("test_name", String(120), primary_key=True),
    Column("status", String(20), nullable=False),
    Column("settings", JSON, nullable=False),
    Column("slots", JSON, nullable=False),
    Column("created_at", String(40), nullable=False),
)

experiment_result = Table(
    "experiment_result",
    metadata,
    _seq(),
    Column("test_name", ForeignKey("experiment.test_name"), nullable=False),
    Column("at", String(40), nullable=False),
    Column("variant", String(120), nullable=False),
    Column("weight_epoch", Integer, nullable=False),
    Column("unit", String(200)),
    Column("request_id", String(200)),
    Column("metrics", JSON, nullable=False),
    Column("first_epoch", Integer),
    # A late retry of the same outcome counts once. Null request ids are all distinct in SQL.
    UniqueConstraint("test_name", "request_id", "variant", name="result_once"),
    Index("result_by_test", "test_name", "seq"),
    **_NUMBERED,
)

# What happened in one process that runs a bandit between two flushes.
bandit_chunk = Table(
    "bandit_chunk",
    metadata,
    _seq(),
    Column("bandit_name", String(120), nullable=False),
    Column("recorder_id", String(60), nullable=False),
    Column("at", String(40), nullable=False),
    Column("n_choices", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Index("bandit_chunk_by_bandit", "bandit_name", "seq"),
    **_NUMBERED,
)

monitor_window = Table(
    "monitor_window",
    metadata,
    _seq(),
    Column("model_name", String(120), nullable=False),
    Column("ended_at", String(40), nullable=False),
    Column("summary", JSON, nullable=False),
    Column("started_at", String(40)),  # null: stored before it was known
    Column("span", String(10), nullable=False, server_default="window"),  # window | hour | day
    Column("n_windows", Integer, nullable=False, server_default="1"),
    # Quantiles of outputs and features: large, so they are kept of the newest windows only.
    Column("sketches", JSON(none_as_null=True)),
    Index("monitor_window_by_model", "model_name", "seq"),
    Index("monitor_window_by_span", "model_name", "span", "seq"),
    Index("monitor_window_by_end", "model_name", "ended_at"),
    **_NUMBERED,
)

# What was recorded since the last flush: a monitor's window is found again in the newest ones.
monitor_chunk = Table(
    "monitor_chunk",
    metadata,
    _seq(),
    Column("model_name", String(120), nullable=False),
    Column("recorder_id", String(60), nullable=False),
    Column("at", String(40), nullable=False),
    Column("n_records", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("monitor_chunk_by_model", "model_name", "seq", "n_records"),
    **_NUMBERED,
)

alert = Table(
    "alert",
    metadata,
    Column("model_name", String(120), primary_key=True),
    Column("alert_id", String(60), primary_key=True),
    Column("severity", String(20), nullable=False),
    Column("first_seen", String(40), nullable=False),
    Column("last_seen", String(40), nullable=False),
    Column("count", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Index("alert_by_model", "model_name", "first_seen"),
)

# Events of alerts that a sink has not taken yet.
alert_delivery = Table(
    "alert_delivery",
    metadata,
    _seq(),
    Column("delivery_id", Text, nullable=False, unique=True),
    Column("model_name", String(120), nullable=False),
    Column("sink", Text, nullable=False),
    Column("event", JSON, nullable=False),
    Column("created_at", String(40), nullable=False),
    Index("alert_delivery_by_model", "model_name", "seq"),
    **_NUMBERED,
)

# Tables whose rows are neither changed nor removed; the database itself refuses.
APPEND_ONLY = ("audit", "rollout_event")


def append_only_ddl(dialect: str) -> list[str]:
    """Statements that make the database refuse changes to the append-only tables."""
    refusal = "the history is append-only"
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ]
    if dialect == "postgresql":
        function = (
            "CREATE OR REPLACE FUNCTION modelyard_append_only() RETURNS trigger "
            f"LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
        )
        triggers = [
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION modelyard_append_only()"
            for table in APPEND_ONLY
        ]
        return [function, *triggers]
    return []
