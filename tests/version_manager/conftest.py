"""Registries in every place that can hold one, and a clock that only moves when told."""

from datetime import UTC, datetime

import pytest

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
