"""Versions are found by one step in an index; the history is guarded; files know their place.

* A version's environment is kept once for all that share it; its path follows from the store.
* Metrics know their model. Lineage may name a version that is not here.
* The audit knows the alias it tells of, and refuses changes. Leases can hold a version.
* The schema's number is Alembic's own from now on.
"""

import json

import sqlalchemy as sa
from alembic import op
from blake3 import blake3

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_REFUSAL = "the history is append-only"


def upgrade() -> None:
    """Change the tables and carry over what is in them."""
    _share_environments()
    _tell_metrics_their_model()
    _free_lineage()
    _tell_audit_its_alias()
    op.add_column("lease", sa.Column("version_id", sa.String(200)))
    _refuse_changes()
    op.drop_table("schema")


def _share_environments() -> None:
    op.create_table(
        "environment",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        # Alembic would make the whole table anew to add a column with a foreign key.
        op.execute(
            "ALTER TABLE version ADD COLUMN environment_digest VARCHAR(64) "
            "REFERENCES environment (digest)"
        )
    else:
        op.add_column(
            "version",
            sa.Column("environment_digest", sa.String(64), sa.ForeignKey("environment.digest")),
        )
    version = sa.table(
        "version",
        sa.column("seq"),
        sa.column("environment", sa.JSON),
        sa.column("environment_digest"),
    )
    environment = sa.table("environment", sa.column("digest"), sa.column("facts", sa.JSON))
    known: set[str] = set()
    for seq, facts in op.get_bind().execute(sa.select(version.c.seq, version.c.environment)).all():
        digest = blake3(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        if digest not in known:
            known.add(digest)
            op.execute(sa.insert(environment).values(digest=digest, facts=facts))
        op.execute(
            sa.update(version).where(version.c.seq == seq).values(environment_digest=digest)
        )
    op.drop_column("version", "environment")
    op.drop_column("version", "path")


def _tell_metrics_their_model() -> None:
    # Made anew: neither database can add a column that may not be null to rows that lack it.
    op.execute("CREATE TABLE metric_before AS SELECT * FROM metric")
    op.drop_table("metric")
    op.create_table(
        "metric",
        sa.Column("version_id", sa.String(200), sa.ForeignKey("version.version_id")),
        sa.Column("name", sa.String(120)),
        sa.Column("value", sa.Float),
        sa.Column("model_name", sa.String(120), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "name"),
    )
    op.execute(
        "INSERT INTO metric (version_id, name, value, model_name) "
        "SELECT m.version_id, m.name, m.value, v.model_name "
        "FROM metric_before m JOIN version v ON v.version_id = m.version_id"
    )
    op.drop_table("metric_before")
    op.create_index("metric_by_model", "metric", ["model_name", "name", "value"])
    op.create_index("metric_by_value", "metric", ["name", "value"])


def _free_lineage() -> None:
    op.execute("CREATE TABLE lineage_before AS SELECT * FROM lineage")
    op.drop_table("lineage")
    op.create_table(
        "lineage",
        sa.Column("version_id", sa.String(200), sa.ForeignKey("version.version_id")),
        sa.Column("parent_id", sa.String(200)),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.PrimaryKeyConstraint("version_id", "parent_id"),
    )
    op.execute(
        "INSERT INTO lineage (version_id, parent_id, kind) "
        "SELECT version_id, parent_id, kind FROM lineage_before"
    )
    op.drop_table("lineage_before")
    op.create_index("lineage_by_parent", "lineage", ["parent_id"])


def _tell_audit_its_alias() -> None:
    op.add_column("audit", sa.Column("alias", sa.String(120)))
    audit = sa.table(
        "audit", sa.column("seq"), sa.column("detail", sa.JSON), sa.column("alias", sa.String)
    )
    for seq, detail in op.get_bind().execute(sa.select(audit.c.seq, audit.c.detail)).all():
        if "alias" in detail:
            op.execute(
                sa.update(audit).where(audit.c.seq == seq).values(alias=str(detail["alias"]))
            )
    _tell_audit_what_was_attached(audit)
    op.create_index("audit_by_alias", "audit", ["model_name", "alias", "seq"])
    op.create_index("audit_by_version", "audit", ["version_id", "seq"])


def _tell_audit_what_was_attached(audit: sa.TableClause) -> None:
    """Complete events of attachments, as far as the blobs are still known."""
    query = sa.text(
        "SELECT u.seq, u.detail, a.name, a.encoding, b.digest, b.sha256, b.size_bytes "
        "FROM audit u "
        "JOIN artifact a ON a.version_id = u.version_id AND a.kind = 'attachment' "
        "JOIN blob b ON b.digest = a.digest WHERE u.action = 'attach'"
    ).columns(detail=sa.JSON)
    for row in op.get_bind().execute(query).all():
        if (row.name, row.sha256) != (row.detail["name"], row.detail["sha256"]):
            continue  # another attachment of the version, or one that has replaced it
        detail = {
            "kind": "attachment",
            "name": row.name,
            "encoding": row.encoding,
            "blake3": row.digest,
            "sha256": row.sha256,
            "size_bytes": row.size_bytes,
        }
        op.execute(sa.update(audit).where(audit.c.seq == row.seq).values(detail=detail))


def _refuse_changes() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:
        op.execute(
            "CREATE OR REPLACE FUNCTION modelyard_append_only() RETURNS trigger "
            f"LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
        )
    for table in ("audit", "rollout_event"):
        if not is_sqlite:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION modelyard_append_only()"
            )
            continue
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            )
