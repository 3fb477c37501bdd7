"""Hypothesis profiles, and the small models that many tests share."""

import logging
import os

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported, here and in the processes tests start: small models gain nothing from
# a second thread, and lose much where the machine is shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: the machines tests run on are shared. Derandomised in CI, where a red run must mean
# the change and not the dice.
settings.register_profile(
    "modelyard",
    deadline=None,
    max_examples=40,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", parent=settings.get_profile("modelyard"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "modelyard"))


@pytest.fixture(autouse=True)
def logger_as_it_was():
    """Undo what a command line run in the test's process does to modelyard's logger."""
    logger = logging.getLogger("modelyard")
    level, propagates, handlers = logger.level, logger.propagate, [*logger.handlers]
    yield
    logger.setLevel(level)
    logger.propagate = propagates
    logger.handlers[:] = handlers


@pytest.fixture
def new_mlp():
    """A function that makes a seeded multilayer perceptron in eval mode."""
    import torch
    from torch import nn

    def make(n_in=8, n_hidden=16, n_out=4, *, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out)
        return nn.Sequential(*layers).eval()

    return make


@pytest.fixture
def mlp(new_mlp):
    """A multilayer perceptron from 8 to 4."""
    return new_mlp()
