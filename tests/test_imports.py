"""What an import costs, the two import paths, and what the wheel holds."""

import ast
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import modelyard

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "pandas", "plotly", "matplotlib")

ALIASES = {
    "version_manager": ["ModelVersionManager"],
    "compression": ["ModelCompressor"],
    "inference_optimizer": ["InferenceOptimizer"],
    "export": ["ModelExporter"],
    "monitor": ["ModelMonitor"],
    "ab_testing": ["ABTest", "ModelVariant", "MultiArmedBandit"],
    "update_strategy": ["UpdateStrategy", "UpdateTrigger"],
}


def run_python(code, *options, cwd=None):
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_public_names_are_these_and_each_loads():
    assert modelyard.__all__ == [
        "ABTest",
        "Deployment",
        "InferenceOptimizer",
        "ManualClock",
        "Metric",
        "ModelCompressor",
        "ModelExporter",
        "ModelMonitor",
        "ModelVariant",
        "ModelVersionManager",
        "ModelyardError",
        "MultiArmedBandit",
        "SystemClock",
        "UpdateStrategy",
        "UpdateTrigger",
        "__version__",
        "register_class",
    ]
    for name in modelyard.__all__:
        assert getattr(modelyard, name) is not None
    assert dir(modelyard) == sorted(modelyard.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = modelyard.Nothing


def test_importing_is_quick_and_loads_nothing_heavy():
    code = """
import json, sys, time
start = time.perf_counter()
import modelyard
elapsed_s = time.perf_counter() - start
print(json.dumps([elapsed_s, sorted(sys.modules)]))
"""
    runs = [run_python(code) for _ in range(3)]
    loaded = {name.partition(".")[0] for _, modules in runs for name in modules}
    assert loaded.isdisjoint(HEAVY)
    # The least of several: the machine may be busy.
    assert min(elapsed_s for elapsed_s, _ in runs) < 0.15


@pytest.mark.parametrize("module", ALIASES)
def test_both_import_paths_give_the_same_objects(module):
    alias = importlib.import_module(f"src.models.{module}")
    home = importlib.import_module(f"modelyard.{module}")
    assert alias.__all__ == ALIASES[module]
    for name in alias.__all__:
        assert getattr(alias, name) is getattr(home, name)


@pytest.mark.slow
def test_documents_imports_work_in_a_checkout_that_was_never_installed(tmp_path):
    """No site packages of an editable install: only the dependencies are on the path."""
    site = next(path for path in sys.path if path.endswith("site-packages"))
    (tmp_path / "dependencies").symlink_to(site)
    code = f"""
import json, sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p and p != {str(ROOT / "src")!r}]
sys.path.append({str(tmp_path / "dependencies")!r})
import importlib.util
was_installed = importlib.util.find_spec("modelyard") is not None
from src.models.monitor import ModelMonitor
import modelyard
print(json.dumps([was_installed, ModelMonitor is modelyard.ModelMonitor, modelyard.__file__]))
"""
    # -S: nothing that .pth files of the environment would add.
    was_installed, is_same, path = run_python(code, "-S", cwd=ROOT)
    assert not was_installed
    assert is_same
    assert Path(path) == ROOT / "src" / "modelyard" / "__init__.py"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_what_a_benchmark_takes_from_the_library_is_there(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modelyard"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                is_there = hasattr(module, alias.name) or importlib.util.find_spec(submodule)
                assert is_there, f"{node.module} has no {alias.name}"


def test_wheel_holds_the_package_alone_and_its_templates(tmp_path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"modelyard", f"modelyard-{modelyard.__version__}.dist-info"}
    templates = ROOT / "src" / "modelyard" / "reporting" / "templates"
    assert {f"modelyard/reporting/templates/{path.name}" for path in templates.iterdir()} <= {
        *names
    }
    assert "modelyard/py.typed" in names
    sources = {
        str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "modelyard").rglob("*.py")
    }
    assert sources <= {*names}
