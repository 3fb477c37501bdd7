"""The process in which ONNX graphs are tried first: `python -m modelyard.torchtools.onnx_probe`.

A native crash or a hang ends this process and not the user's. It reads one request a line from
standard input and answers each with one line of JSON. It imports neither torch nor anything of
the user's, and ends at the end of its input or after `IDLE_S` without a request.

A request names an `engine` ("onnxruntime", "openvino"), its `settings`, the files of the `graph`
and of the `samples` (`.npz`, arrays `s<sample>_<input>`), the file for the `outputs`
(`o<sample>_<output>`), and `n_timed`, how many samples are timed. The answer holds `latency_s`,
the least seconds of a call by sample timed, and `refused`, the errors of others by position, or
the `error`.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from modelyard.torchtools.graph_sessions import onnxruntime_session, openvino_model

IDLE_S = 60.0
# A sample is run again, at most so often, while that takes no longer than this.
_REPEATS = 20
_REPEATING_S = 0.005

Arrays = list[np.ndarray[Any, Any]]


def main() -> None:
    """Answer requests until the input ends."""
    replies = _own_replies()
    _give_way()
    for line in _lines(sys.stdin):
        request = json.loads(line)
        replies.write(json.dumps({"id": request["id"], **_answered(request)}) + "\n")
        replies.flush()


def _lines(source: TextIO) -> Any:
    """The lines of `source`; the process ends where none comes for long."""
    while True:
        idle = threading.Timer(IDLE_S, os._exit, args=(0,))
        idle.daemon = True
        idle.start()
        line = source.readline()
        idle.cancel()
        if not line:
            return
        yield line


def _own_replies() -> TextIO:
    """Where answers go; whatever else writes to standard output goes to the errors from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _give_way() -> None:
    """Let the system end this process rather than the user's, and leave no image of a crash."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on every system

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answered(request: dict[str, Any]) -> dict[str, Any]:
    try:
        run = _runner(request["engine"], Path(request["graph"]), request["settings"])
        with np.load(request["samples"], allow_pickle=False) as file:
            samples = _samples(dict(file))
        outputs, answer = _run_all(run, samples, n_timed=request["n_timed"])
        np.savez(request["outputs"], **outputs)  # type: ignore[arg-type]  # its stubs take no **arrays
    except Exception as error:  # noqa: BLE001 - the engines raise anything; the parent tells the user
        return {"error": _told(error)}
    return answer


def _run_all(
    run: Callable[[Arrays], Arrays], samples: Sequence[Arrays], *, n_timed: int
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """The outputs by name, and what is to be said of the calls."""
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    latency_s, refused = [], {}
    for i, sample in enumerate(samples):
        if i < n_timed:
            answers, seconds = _timed(run, sample)
            latency_s.append(seconds)
        else:
            try:
                answers = run(sample)
            except Exception as error:  # noqa: BLE001 - it may refuse these; the parent judges
                refused[i] = _told(error)
                continue
        outputs |= {f"o{i}_{j}": answer for j, answer in enumerate(answers)}
    return outputs, {"latency_s": latency_s, "refused": refused}


def _told(error: Exception) -> str:
    return " ".join(f"{error}".split())[:500] or type(error).__name__


def _samples(arrays: dict[str, np.ndarray[Any, Any]]) -> list[Arrays]:
    found: dict[int, Arrays] = {}
    for key in sorted(arrays, key=_position):
        found.setdefault(_position(key)[0], []).append(arrays[key])
    return list(found.values())


def _position(key: str) -> tuple[int, int]:
    sample, part = key[1:].split("_")
    return int(sample), int(part)


def _timed(run: Callable[[Arrays], Arrays], sample: Arrays) -> tuple[Arrays, float]:
    started = time.perf_counter()
    answers = run(sample)
    fastest = time.perf_counter() - started
    until = time.perf_counter() + _REPEATING_S
    for _ in range(_REPEATS):
        started = time.perf_counter()
        if started > until:
            break
        run(sample)
        fastest = min(fastest, time.perf_counter() - started)
    return answers, fastest


def _runner(engine: str, graph: Path, settings: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    if engine == "openvino":
        request = openvino_model(graph, **settings).create_infer_request()

        def infer(sample: Arrays) -> Arrays:
            answers = request.infer(sample)
            # Copies: the engine uses its buffers again.
            return [np.array(answers[port]) for port in request.model_outputs]

        return infer
    session = onnxruntime_session(graph, **settings)
    names = [value.name for value in session.get_inputs()]

    def run(sample: Arrays) -> Arrays:
        answers: Arrays = session.run(None, dict(zip(names, sample, strict=True)))
        return answers

    return run


if __name__ == "__main__":
    main()
