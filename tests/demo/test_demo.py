"""The one command on real data."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from modelyard import ModelVersionManager
from modelyard.demo import run_demo

pytestmark = pytest.mark.slow

_SECTIONS = ("The models", "Compression", "A/B test", "Monitoring", "Rollouts", "Registry")


def quick(out: Path, seed: int = 0) -> Path:
    return run_demo(out, quick=True, seed=seed, console=Console(quiet=True))


@pytest.fixture(scope="module")
def two_reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with the same seed in the same folder."""
    out = tmp_path_factory.mktemp("demo")
    return quick(out), quick(out)


def metrics_of(report: Path) -> list[dict[str, float | None]]:
    manager = ModelVersionManager(report.parent / "registry")
    return [version["metrics"] for version in manager.list_versions(ascending=True)]


def weights_of(report: Path) -> list[str]:
    """Digests of the weights that training gave; int8 graphs are in too."""
    manager = ModelVersionManager(report.parent / "registry")
    return [version["sha256"] for version in manager.list_versions(ascending=True)]


def test_report_has_every_stage(two_reports: tuple[Path, Path]) -> None:
    text = two_reports[0].read_text(encoding="utf-8")
    for title in _SECTIONS:
        assert title in text
    outside_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']https?:""", outside_scripts)


def test_faulty_version_never_becomes_production(two_reports: tuple[Path, Path]) -> None:
    manager = ModelVersionManager(two_reports[0].parent / "registry")
    faulty = manager.list_versions("policy", tags=["faulty"])[0]
    assert manager.get_by_alias("policy")["version_id"] != faulty["version_id"]


def test_same_seed_gives_same_weights_and_metrics(two_reports: tuple[Path, Path]) -> None:
    first, second = two_reports
    assert metrics_of(first) == metrics_of(second)
    assert weights_of(first) == weights_of(second)


def test_interrupted_run_leaves_a_registry_that_opens_and_a_second_run_works(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "modelyard", "demo", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "Save versions" in line:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    (folder,) = tmp_path.iterdir()
    manager = ModelVersionManager(folder / "registry")
    for version in manager.list_versions():
        if version["can_load_full"]:
            manager.load_model(version["version_id"], load_full=True)
    assert quick(tmp_path).is_file()
