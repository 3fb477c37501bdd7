"""A registry with four versions of ppo, on a clock that the test moves."""

import time
from dataclasses import dataclass

import pytest
import torch
from sqlalchemy import select
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard.deployment import Deployment
from modelyard.monitor import ModelMonitor
from modelyard.storage.tables import artifact
from modelyard.update_strategy import UpdateStrategy
from modelyard.version_manager import ModelVersionManager

X = torch.ones(1, 4)
# Steps of 30 s with 20 answers each, which prove little: a wide margin lets them.
STEP_S = 30.0
QUICK = {
    "transition_minutes": 1.5,
    "step_min_samples": 20,
    "bake_minutes": 0.0,
    "error_margin": 0.9,
}


class GoneWrong(nn.Module):
    """Answers well while it is made ready, and then badly.

    Args:
        how: "fails", "nan", "inf" or "slow".
    """

    def __init__(self, how):
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.how = how
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += len(x) == 1  # the example has two rows, requests have one
        if self.n_calls and self.how == "fails":
            raise RuntimeError("out of order")
        if self.n_calls and self.how == "slow":
            time.sleep(0.002)
        answer = self.inner(x)
        if self.n_calls and self.how in {"nan", "inf"}:
            return torch.full_like(answer, float(self.how))
        return answer


@dataclass
class Yard:
    """One process: its registry, its monitor and what it makes of them."""

    folder: str
    clock: ManualClock

    def __post_init__(self):
        self.registry = ModelVersionManager(self.folder, clock=self.clock, actor="tester")
        self.monitor = ModelMonitor("ppo", clock=self.clock)

    def save(self, n, model_name="ppo"):
        """Ids of `n` new versions that answer differently."""
        ids = []
        for i in range(n):
            model = nn.Linear(4, 2)
            nn.init.constant_(model.weight, float(i))
            ids.append(
                self.registry.save_model(
                    model, model_name, {"sharpe": 1.0 + i}, example_input=torch.ones(2, 4)
                )
            )
        return ids

    def deploy(self, **options):
        return Deployment(self.registry, "ppo", clock=self.clock, seed=0, **options)

    def strategy(self, deployment=None, **config):
        return UpdateStrategy(
            self.registry,
            self.monitor,
            {**QUICK, **config},
            deployment=deployment,
            clock=self.clock,
        )

    def damage(self, version_id):
        """Put other bytes where the weights of a version are."""
        query = select(artifact.c.digest).where(
            artifact.c.version_id == version_id, artifact.c.name == "weights.safetensors"
        )
        with self.registry.store.database.reading() as connection:
            path = self.registry.store.blobs.path_of(connection.execute(query).scalar())
        path.chmod(0o644)
        path.write_bytes(b"damaged")

    def production(self):
        return self.registry.get_by_alias("ppo")["version_id"]

    def again(self, *, after_s=3600.0):
        """Another process on the same store, later than any lease lasts."""
        self.clock.advance(after_s)
        return Yard(self.folder, self.clock)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def yard(tmp_path, clock):
    return Yard(str(tmp_path / "models"), clock)


@pytest.fixture
def yard_in():
    """What makes a `Yard` of a folder and a clock."""
    return Yard


@pytest.fixture
def ids(yard):
    """Versions of ppo; the first is production."""
    saved = yard.save(4)
    yard.registry.rollback_to_version(saved[0])
    return saved


@pytest.fixture
def ask():
    """Send requests, one a second, each of another user; the answers."""

    def asked(deployment, n, *, seconds=1.0, until=None, first_user=0):
        answers = []
        for i in range(n):
            deployment._clock.advance(seconds)
            answers.append(deployment.predict(X, user_id=f"user-{first_user + i}"))
            if until is not None and until():
                break
        return answers

    return asked


@pytest.fixture
def gone_wrong():
    """A module that answers well once and then `fails`, gives `nan` or `inf`, or is `slow`."""
    return GoneWrong


@pytest.fixture
def x():
    return X
