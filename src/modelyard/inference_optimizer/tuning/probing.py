"""ONNX graphs tried in another process, where a crash or a hang harms nobody.

One process serves all probes of this one: starting it costs more than most probes. It is started
at the first need, again after it died, and ends with this process.
"""

import atexit
import json
import os
import queue
import signal
import site
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from modelyard.inference_optimizer.backends import Array, Settings
from modelyard.torchtools.probing import is_crash

MODULE = "modelyard.torchtools.onnx_probe"
# What the other process imports; any of it may lie outside its usual path.
_NEEDED = ("modelyard", "numpy", "onnxruntime", "openvino")
_TOLD_CHARACTERS = 300
_ENDING_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What another process found of one engine and its settings.

    Attributes:
        problem: Why it cannot be used, in words; empty where it ran.
        outputs: By sample, the graph's outputs in order; none for those refused.
        latency_s: By sample timed, roughly the least seconds of a call.
        refused: By the position of a sample that is not timed, the error it was refused with.
    """

    problem: str = ""
    outputs: Sequence[Sequence[Array]] = ()
    latency_s: Sequence[float] = ()
    refused: Mapping[int, str] = field(default_factory=dict)


class ProbeFiles:
    """A graph and samples in files that the other process reads, in a folder of their own.

    Args:
        graph: The serialised ONNX model.
        samples: By sample, the graph's inputs in order.
        n_timed: How many of them, the first, are timed and have to be answered; by default all.
            The others are run once, and may be refused.
    """

    def __init__(
        self, graph: bytes, samples: Sequence[Sequence[Array]], *, n_timed: int | None = None
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="modelyard_probe_")
        folder = Path(self._folder.name)
        self.n_samples = len(samples)
        self.n_timed = self.n_samples if n_timed is None else n_timed
        self.graph, self.samples = folder / "graph.onnx", folder / "samples.npz"
        self.outputs = folder / "outputs.npz"
        self.graph.write_bytes(graph)
        arrays = {f"s{i}_{j}": a for i, sample in enumerate(samples) for j, a in enumerate(sample)}
        np.savez(self.samples, **arrays)  # type: ignore[arg-type]  # its stubs take no **arrays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def read_outputs(self) -> list[list[Array]]:
        """What the last probe answered, by sample."""
        found: list[list[Array]] = [[] for _ in range(self.n_samples)]
        with np.load(self.outputs, allow_pickle=False) as file:
            for key in sorted(file.files, key=lambda name: [int(n) for n in name[1:].split("_")]):
                found[int(key[1:].split("_")[0])].append(file[key])
        return found


class Prober:
    """Asks the other process. One lock: a probe at a time, however many threads ask.

    Args:
        command: How the process is started; by default this interpreter on the probe's module.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._n_asked = 0

    def start(self) -> None:
        """Start the process without waiting for it, so that it is ready when it is needed."""
        with self._lock:
            if not _why_not(self._command):
                self._running()

    def probe(
        self, files: ProbeFiles, *, engine: str, settings: Settings, timeout_s: float
    ) -> Probe:
        """Run an engine on a graph.

        Args:
            files: Graph and samples.
            engine: "onnxruntime" or "openvino".
            settings: As `modelyard.torchtools.graph_sessions` takes them.
            timeout_s: Seconds after which the process is ended.
        """
        if reason := _why_not(self._command):
            return Probe(problem=f"cannot be probed here: {reason}")
        request = {
            "engine": engine,
            "settings": dict(settings),
            "graph": str(files.graph),
            "samples": str(files.samples),
            "outputs": str(files.outputs),
            "n_timed": files.n_timed,
        }
        with self._lock:
            answer, problem = self._asked(request, timeout_s=timeout_s)
            if answer is None:
                return Probe(problem=problem)
            if "error" in answer:
                return Probe(problem=f"could not run: {answer['error'][:_TOLD_CHARACTERS]}")
            return Probe(
                outputs=files.read_outputs(),
                latency_s=answer["latency_s"],
                refused={int(i): error for i, error in answer["refused"].items()},
            )

    def close(self) -> None:
        """End the process; the next probe starts another."""
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def _asked(self, request: Mapping[str, Any], *, timeout_s: float) -> tuple[Any, str]:
        """The answer, or None and why there is none. To be called with the lock."""
        for _ in range(2):
            self._n_asked += 1
            process = self._running()
            try:
                answer = process.ask({**request, "id": self._n_asked}, timeout_s=timeout_s)
            except queue.Empty:
                self._gone()
                return None, f"did not answer within {timeout_s:g} s"
            if answer is not None:
                return answer, ""
            returncode, told = process.returncode(), process.told()
            self._gone()
            if returncode:
                return None, _ended(returncode, told)
            # It ended by itself, having been idle, just when it was asked: once more.
        return None, "ended without an answer, twice"

    def _running(self) -> "_Process":
        if self._process is None or not self._process.is_alive():
            self._gone()
            self._process = _Process(self._command or _command(), env=_environment())
        return self._process

    def _gone(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """One process, its answers read by a thread so that waiting for one can end."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str]) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, on a module of ours
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=tempfile.gettempdir(),
            env=dict(env),
            # Ctrl-C in a terminal is for the user's process.
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        )
        self._reader.start()

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> Any:
        """The answer; None where the process ended.

        Raises:
            queue.Empty: None came in time.
        """
        assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe
        with suppress(BrokenPipeError):  # it has ended: the reader says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        while True:
            answer = self._answers.get(timeout=timeout_s)
            if answer is None or answer.get("id") == request["id"]:
                return answer

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def returncode(self) -> int:
        """How it ended; to be asked once its output has."""
        return self._process.wait()

    def told(self) -> str:
        """The last line it wrote to its errors."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip()[:_TOLD_CHARACTERS] if lines else ""

    def end(self) -> None:
        """Kill it if it runs, and let go of its pipes."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait(_ENDING_S)
        self._reader.join(_ENDING_S)
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # what was still to be written to it
                if pipe is not None:
                    pipe.close()


def _read(output: IO[bytes], answers: "queue.SimpleQueue[Any]") -> None:
    """Put every line that is an answer; then None. Anything else on the output is no answer."""
    for line in output:
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                answers.put(answer)
    answers.put(None)


# By process: after a fork the child has none, and leaves its parent's alone.
_PROBERS: dict[int, Prober] = {}


def prober() -> Prober:
    """This process's prober."""
    found = _PROBERS.get(os.getpid())
    if found is None:
        found = _PROBERS.setdefault(os.getpid(), Prober())
        atexit.register(_close, os.getpid())
    return found


def _close(pid: int) -> None:
    if pid == os.getpid() and pid in _PROBERS:
        _PROBERS[pid].close()


def _why_not(command: Sequence[str] | None) -> str:
    """Why no process can be started here; empty where one can."""
    if command is not None:
        return ""
    executable = sys.executable or ""
    is_python = Path(executable).stem.lower().startswith(("python", "pypy"))
    if not executable or not is_python or getattr(sys, "frozen", False):
        return f"sys.executable is {executable!r}, no Python that a second process could run"
    return ""


def _command() -> list[str]:
    # -P: a file of the user's in the current folder must not shadow a module.
    return [sys.executable, "-P", "-m", MODULE]


def _environment() -> dict[str, str]:
    """This process's, with a path on which the needed packages are found where this one did."""
    usual = {*site.getsitepackages(), site.getusersitepackages()}
    specs = [spec for name in _NEEDED if (spec := find_spec(name)) is not None]
    folders = [str(Path(spec.origin).parents[1]) for spec in specs if spec.origin]
    # Site-packages in front of the standard library would shadow parts of it.
    path = [folder for folder in dict.fromkeys(folders) if folder not in usual]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _ended(returncode: int, told: str) -> str:
    detail = f": {told}" if told else ""
    if not is_crash(returncode):
        return f"ended with status {returncode}{detail}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"status {returncode}"
    if name == "SIGKILL":
        detail = " (the system may have run out of memory)"
    return f"crashed with {name}{detail}"
