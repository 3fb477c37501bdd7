"""The way back stays open: what was production is kept, and only whole versions become it."""

from datetime import UTC, datetime

import pytest
from torch import nn

from modelyard import ManualClock, ModelVersionManager
from modelyard._core.errors import ConfigError, IntegrityError

_DAY_S = 24 * 3600


def test_cleanup_keeps_the_versions_a_rollback_may_go_to(tmp_path):
    clock = ManualClock(datetime(2024, 1, 1, tzinfo=UTC))
    manager = ModelVersionManager(tmp_path, clock=clock)
    ids = []
    for _ in range(7):
        ids.append(manager.save_model(nn.Linear(2, 2), "ppo"))
        clock.advance(1)
    for version_id in ids[:5]:
        manager.set_alias("ppo", "production", version_id)
    clock.advance(3 * _DAY_S)
    removed = manager.cleanup_old_versions("ppo", keep_best_n=1)
    assert set(removed) == {ids[0], ids[5]}


def test_a_damaged_version_cannot_become_production(tmp_path):
    manager = ModelVersionManager(tmp_path)
    version_id = manager.save_model(nn.Linear(2, 2), "ppo")
    weights = next(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert weights.exists()
    with pytest.raises(IntegrityError):
        manager.verify_version(version_id)
    with pytest.raises(IntegrityError):
        manager.set_alias("ppo", "production", version_id)
    assert manager.get_version(version_id)["aliases"] == []


def test_cleanup_against_a_metrics_own_direction_is_warned_about(tmp_path, caplog):
    manager = ModelVersionManager(tmp_path)
    manager.save_model(nn.Linear(2, 2), "ppo", metrics={"val_loss": 1.0})
    manager.cleanup_old_versions("ppo", 1, "val_loss", dry_run=True)
    assert "Pass maximize=False" in caplog.text
    caplog.clear()
    manager.cleanup_old_versions("ppo", 1, "val_loss", maximize=False, dry_run=True)
    assert not caplog.text


def test_one_metric_may_be_compared_by_its_name(tmp_path):
    manager = ModelVersionManager(tmp_path)
    ids = [manager.save_model(nn.Linear(2, 2), "ppo", metrics={"sharpe": v}) for v in (1.0, 2.0)]
    assert list(manager.compare_versions(*ids, metrics="sharpe")["metrics"]) == ["sharpe"]


def test_an_id_that_is_no_text_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ConfigError, match="version id is text"):
        ModelVersionManager(tmp_path).load_model(None)
