"""Older databases become the present form and keep what they hold; newer ones are refused."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import BigInteger, MetaData, create_engine, inspect, text

from modelyard._core.errors import StorageError
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.rows import MonitorRows
from modelyard.monitor.recording.health import health_of
from modelyard.storage import Database, open_store
from modelyard.storage import schema as storage_schema
from modelyard.storage import tables as t
from modelyard.version_manager import ModelVersionManager, rebuild_registry

FIRST = Path(__file__).parent.parent / "version_manager" / "registry_of_schema_1"
MIGRATIONS = Path(storage_schema.__file__).parent / "migrations"


@pytest.fixture
def old_registry(tmp_path):
    """A registry as the first schema wrote it, with its database and its files."""
    folder = tmp_path / "models"
    shutil.copytree(FIRST, folder)
    connection = sqlite3.connect(folder / "registry.db")
    connection.executescript((folder / "registry.sql").read_text())
    connection.close()
    return folder


def form_of(engine):
    """Tables, columns, keys and indexes, without the names that databases give by themselves."""
    found = inspect(engine)
    return {
        table: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in found.get_columns(table)),
            found.get_pk_constraint(table)["constrained_columns"],
            sorted((i["name"], *i["column_names"]) for i in found.get_indexes(table)),
            sorted(
                (*f["constrained_columns"], f["referred_table"])
                for f in found.get_foreign_keys(table)
            ),
        )
        for table in found.get_table_names()
    }


def triggers_of(engine):
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if engine.dialect.name == "sqlite"
        else "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    )
    with engine.connect() as connection:
        return sorted(connection.execute(text(query)).scalars())


def test_last_migration_is_the_one_new_databases_are_marked_with():
    assert ScriptDirectory(str(MIGRATIONS)).get_heads() == [t.HEAD]


def test_migrated_tables_have_the_form_of_new_ones(old_registry, tmp_path):
    migrated = Database(f"sqlite:///{old_registry}/registry.db")
    new = Database(f"sqlite:///{tmp_path}/new.db")
    assert form_of(migrated.engine) == form_of(new.engine)
    assert triggers_of(migrated.engine) == triggers_of(new.engine) != []
    with migrated.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    migrated.close()
    new.close()


def test_migration_in_postgresql_has_the_form_of_a_new_database_too(old_registry, postgres_url):
    first = create_engine(f"sqlite:///{old_registry}/registry.db")
    old_tables = MetaData()
    old_tables.reflect(first)
    urls = [_new_database(postgres_url, name) for name in ("migrated", "fresh")]
    for table in old_tables.tables.values():
        if "seq" in table.columns:  # what SQLite calls INTEGER was declared as larger
            table.columns["seq"].type = BigInteger()
    engine = create_engine(urls[0])
    old_tables.create_all(engine)
    with first.connect() as source, engine.begin() as target:
        for table in old_tables.sorted_tables:
            if rows := [dict(row) for row in source.execute(table.select()).mappings()]:
                target.execute(table.insert(), rows)
    engine.dispose()
    first.dispose()
    migrated, fresh = Database(urls[0]), Database(urls[1])
    assert form_of(migrated.engine) == form_of(fresh.engine)
    assert triggers_of(migrated.engine) == triggers_of(fresh.engine) != []
    with migrated.reading() as connection:
        assert connection.execute(t.metric.select()).first().model_name == "ppo"
    migrated.close()
    fresh.close()


def _new_database(url, name):
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return engine.url.set(database=name).render_as_string(hide_password=False)


def test_old_registry_keeps_everything_it_held(old_registry):
    manager = ModelVersionManager(old_registry)
    assert [v["version_id"] for v in manager.list_versions("ppo", sort_by="sharpe")] == [
        "ppo_v20231120_120130",
        "ppo_v20231120_120030",
        "ppo_v20231120_120130_2",
    ]
    first = manager.get_version("ppo_v20231120_120030")
    assert first["metrics"] == {"sharpe": 1.0, "bad": None}
    assert first["environment"]["python"] == "3.11.7"
    assert first["path"] == str(old_registry / "ppo" / "ppo_v20231120_120030")
    assert first["tags"] == ["milestone"]
    production = manager.get_by_alias("ppo")
    assert production["version_id"] == "ppo_v20231120_120130"
    assert production["parents"] == [first["version_id"]]
    assert manager.read_attachment(production["version_id"], "baseline") == {"mean": 0.5}
    assert manager.read_artifact(first["version_id"], "scaler") == {"mean": [1, 2, 3]}
    moves = manager.get_history("ppo", alias="production")
    assert [move["version_id"] for move in moves] == [
        "ppo_v20231120_120030",
        "ppo_v20231120_120130",
    ]
    for version in manager.list_versions():
        assert manager.load_model(version["version_id"], load_full=True) is not None
    assert manager.restore_version("ppo_v20231120_120000")["metrics"] == {"sharpe": 0.1}
    assert manager.verify()["problems"] == []
    manager.store.close()


def test_windows_and_alerts_of_a_monitor_stay_when_the_tables_change(old_registry):
    health = health_of(np.array([0.01, 0.02]), np.array([0.0, 1.0]), {})
    window = {
        "ended_at": "2024-01-01T00:00:00+00:00",
        "health": health.to_plain(),
        "predictions": [[0.1, None]],
        "features": [],
    }
    alert = {
        "alert_id": "alert-1",
        "name": "error_rate",
        "severity": "warning",
        "message": "high",
        "value": 0.5,
        "threshold": 0.05,
        "first_seen": "2024-01-01T00:00:00+00:00",
        "last_seen": "2024-01-01T00:00:00+00:00",
        "count": 1,
        "is_active": True,
        "resolved_at": None,
    }
    connection = sqlite3.connect(old_registry / "registry.db")
    with connection:
        connection.execute(
            "INSERT INTO monitor_window (model_name, ended_at, summary) VALUES ('ppo', ?, ?)",
            (window["ended_at"], json.dumps(window)),
        )
        connection.execute(
            "INSERT INTO alert VALUES ('ppo', 'alert-1', 'warning', '', '', 1, ?)",
            (json.dumps(alert),),
        )
    connection.close()
    store = open_store(old_registry)
    rows = MonitorRows(store, "ppo")
    (summary,) = rows.windows(20)
    assert (summary.span, summary.health.n_errors) == ("window", 1)
    assert summary.predictions.tolist()[0][0] == 0.1
    assert [a.breach.name for a in rows.alerts()] == ["error_rate"]
    journal = Journal(rows)
    journal.add_window(summary)
    journal.write(at=datetime(2024, 3, 1, tzinfo=UTC))
    assert [w.n_windows for w in rows.windows_between(None, None)] == [2]
    assert journal.query("latency.mean_ms", None, None)[0]["value"] == pytest.approx(15.0)
    store.close()


def test_old_registry_can_be_rebuilt_once_it_was_opened(old_registry):
    manager = ModelVersionManager(old_registry)
    before = manager.list_versions(), manager.get_history()
    manager.store.close()
    for file in old_registry.glob("registry.db*"):
        file.unlink()
    assert rebuild_registry(old_registry)["problems"] == []
    manager = ModelVersionManager(old_registry)
    assert (manager.list_versions(), manager.get_history()) == before
    manager.store.close()


@pytest.mark.parametrize("place", ["sqlite", "postgres"])
def test_history_can_be_added_to_but_not_changed(place, tmp_path, request):
    url = f"sqlite:///{tmp_path}/registry.db"
    if place == "postgres":
        url = _new_database(request.getfixturevalue("postgres_url"), "history")
    database = Database(url)
    event = {"at": "", "model_name": "a", "action": "save", "actor": "me", "detail": {}}
    with database.writing() as connection:
        connection.execute(t.audit.insert(), event)

    def change(statement):
        with database.writing() as connection:
            connection.execute(statement)

    with pytest.raises(StorageError, match="append-only"):
        change(t.audit.update().values(actor="nobody"))
    with pytest.raises(StorageError, match="append-only"):
        change(t.audit.delete())
    with database.reading() as connection:
        assert connection.execute(t.audit.select()).one().actor == "me"
    database.close()
