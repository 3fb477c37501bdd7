"""Files made to harm: no code runs, nothing is written, memory and time stay small.

A process of its own reads every file (`python test_hostile_files.py FOLDER`) and says how each
reading ended, how long it took and how far its memory grew. `test_module_format.py` has attacks
that go through Python's own pickling; here are those that a pickler would never write.
"""

import functools
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import hostile_archives
import hostile_payloads
import hostile_pickles
import pytest
import torch
from torch import nn

from modelyard._core.errors import InputError, IntegrityError, UntrustedClassError
from modelyard.version_manager.module_format import load_module_file, rebuild
from modelyard.version_manager.payloads import decoded
from modelyard.version_manager.tensor_files import read_tensors, write_tensors

pytestmark = pytest.mark.slow

LONGEST_S = 5.0
MOST_MB = 200
MOST_ASKED_MB = 600  # an allocator asks in steps of up to 128 MB, and files are mapped besides


def modules():
    programs = {
        **hostile_pickles.calls_of_known_functions(),
        **hostile_pickles.calls_of_others(),
        **hostile_pickles.sizes_that_lie(),
        **hostile_pickles.never_ending(),
    }
    return {
        **{
            key: hostile_archives.with_program(hostile_pickles.pickled(program))
            for key, program in programs.items()
        },
        **hostile_archives.endless_modules(),
        **hostile_archives.archives(),
    }


@functools.cache
def all_files():
    """Every file by the way it is read and what it is."""
    weights = hostile_payloads.weights()
    kinds = {
        "module": modules(),
        "weights": weights,
        "npy": hostile_payloads.arrays(),
        "json": hostile_payloads.jsons(),
        "tree": {**hostile_payloads.trees(), **weights},
        "safetensors": {**hostile_payloads.tensor_payloads(), **weights},
    }
    return {(kind, key): data for kind, files in kinds.items() for key, data in files.items()}


def read_all(folder):
    """Read every file in `folder`; one line of JSON about each."""
    empty = folder / "no_weights"
    with empty.open("wb") as file:
        write_tensors({})(file)
    ways = {
        "module": lambda path: rebuild(path, lambda: empty),
        "file": load_module_file,
        "weights": read_tensors,
        **{
            kind: lambda path, k=kind: decoded(k, path)
            for kind in ("npy", "json", "tree", "safetensors")
        },
    }
    for path in sorted(folder.glob("*.hostile")):
        kind = path.name.partition(".")[0]
        for way in ("module", "file") if kind == "module" else (kind,):
            ended = {"file": path.name, "way": way, **reading(ways[way], path)}
            sys.stdout.write(json.dumps(ended) + "\n")


def reading(read, path):
    """How it ended, in how long, with how much memory touched at most.

    Memory that is asked for and never touched costs nothing on this machine; so more than the
    limit is not given at all, and the error says so.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    before, start = memory_mb("VmHWM"), time.perf_counter()
    given = int((memory_mb("VmSize") + MOST_ASKED_MB) * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (given, resource.RLIM_INFINITY))
    try:
        read(path)
        error = None
    except Exception as caught:  # noqa: BLE001 - what comes is the question
        error = caught
    seconds = time.perf_counter() - start
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    causes = []
    while error is not None:
        causes.append([type(error).__name__, str(error)[:300]])
        error = error.__cause__
    return {"causes": causes, "seconds": seconds, "mb": memory_mb("VmHWM") - before}


def memory_mb(which):
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{which}:")[2].split()[0]) / 1_000


KINDS = {
    "module": (IntegrityError, UntrustedClassError),
    "file": (InputError, UntrustedClassError),
    **dict.fromkeys(("weights", "npy", "json", "tree", "safetensors"), (IntegrityError,)),
}
# Odd, but nothing to refuse.
HARMLESS = {
    "header of 30 MB of spaces",
    "dtype of half bytes",
    "long exponent",
    "entry as a key",
}


@pytest.fixture(scope="module")
def readings(tmp_path_factory):
    """How the reading of each file ended, by the way it was read and what it is."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {f"{kind}.{i}.hostile": (kind, key) for i, (kind, key) in enumerate(all_files())}
    for file, what in files.items():
        (folder / file).write_bytes(all_files()[what])
    before = set(folder.parent.iterdir())
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-1_000:], done.stderr[-3_000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert set(folder.iterdir()) - {folder / file for file in files} == {folder / "no_weights"}
    assert set(folder.parent.iterdir()) == before
    return {(item["way"], files[item["file"]][1]): item for item in found}


@pytest.mark.parametrize("way", KINDS)
def test_every_hostile_file_ends_in_an_error_that_says_so(way, readings):
    allowed = [error.__name__ for error in KINDS[way]]
    odd = {
        key: item["causes"]
        for (how, key), item in readings.items()
        if how == way and not (item["causes"] and item["causes"][0][0] in allowed)
        if key not in HARMLESS
    }
    assert odd == {}


class Cleans(nn.Module):
    """Removes its file when it goes; a hostile file would say which."""

    def __del__(self):
        Path(self.path).unlink()


@pytest.mark.parametrize(
    "cls", [Cleans, torch.fx.GraphModule, torch.nn.parallel.DistributedDataParallel]
)
def test_classes_that_act_on_their_attributes_unasked_need_a_voucher(cls, tmp_path):
    kept = tmp_path / "kept"
    kept.touch()
    made = hostile_pickles.module(
        *hostile_pickles.tables(),
        (hostile_pickles.text("path"), hostile_pickles.text(str(kept))),
        of=f"{cls.__module__}.{cls.__qualname__}",
    )
    path = tmp_path / "module.pt"
    path.write_bytes(hostile_archives.with_program(hostile_pickles.pickled(made)))
    with pytest.raises(UntrustedClassError, match=cls.__qualname__):
        load_module_file(path)
    assert kept.exists()


@pytest.mark.parametrize("way", KINDS)
def test_no_hostile_file_takes_long_or_much_memory(way, readings):
    odd = {
        key: (item["seconds"], item["mb"], item["causes"])
        for (how, key), item in readings.items()
        if how == way
        if item["seconds"] > LONGEST_S or item["mb"] > MOST_MB
    }
    assert odd == {}


def test_no_hostile_file_is_refused_only_because_memory_ran_out(readings):
    """Less would have been asked for: on a larger machine it would have been had."""
    odd = {
        key: item["causes"]
        for key, item in readings.items()
        if any("Memory" in cause or "alloc" in text for cause, text in item["causes"])
    }
    assert odd == {}


if __name__ == "__main__":
    read_all(Path(sys.argv[1]))
