"""Registries in every place that can hold one, and a clock that only moves when told."""

from datetime import UTC, datetime

import pytest
from torch import nn

from modelyard import ManualClock
from modelyard.version_manager import ModelVersionManager
from modelyard.version_manager.trust import forget_registered


@pytest.fixture
def clock():
    return ManualClock(datetime(2023, 11, 20, 12, tzinfo=UTC))


@pytest.fixture
def registry(tmp_path, clock):
    manager = ModelVersionManager(tmp_path / "models", clock=clock, actor="ada")
    yield manager
    manager.store.close()


@pytest.fixture(autouse=True)
def no_registered_classes():
    """Saving vouches for classes in the whole process; tests must not see each other's."""
    forget_registered()
    yield
    forget_registered()


@pytest.fixture
def save(registry, clock):
    """Save a distinct small model, one second after the last."""
    count = iter(range(1000))

    def save_one(model_name="ppo", **options):
        clock.advance(1)
        layer = nn.Linear(2, 1)
        nn.init.constant_(layer.weight, float(next(count)))
        return registry.save_model(layer, model_name, **options)

    return save_one
