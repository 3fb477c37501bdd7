"""Where the time of a graph goes, by ONNX Runtime's profile."""

import json
import tempfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from modelyard._core.errors import InputError
from modelyard.export.benchmark import made_up
from modelyard.torchtools.onnx_module import dtype_named, run_session

_N_RUNS = 20
# A size that varies: a batch of 2 shows broadcasting, other sizes are unknown.
_VARYING = 2


def operator_times(path: Path) -> dict[str, float]:
    """Microseconds of each operator by node name, a run, on one thread.

    The graph runs as it is written, without the runtime's own fusions, so that its operators can
    be told apart. Inputs are made up: floats normal, whole numbers 0, sizes that vary 2.

    Raises:
        InputError: It does not run on such inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            tensors = _feed(session)
            for _ in range(_N_RUNS):
                run_session(session, tensors)
        except Exception as error:
            raise InputError(
                f"{str(path)!r} does not run on made-up inputs, so there are no times: {error}. "
                "Draw it with profile=False."
            ) from error
        profile = Path(session.end_profiling()).read_text(encoding="utf-8")
    return median_times(_events(profile))


def _events(profile: str) -> list[dict[str, Any]]:
    """The events of a profile, one a line; not those with names that spoil the line.

    ONNX Runtime before 1.32 writes a quote in a node's name as it is.
    """
    events = []
    for line in profile.splitlines():
        with suppress(json.JSONDecodeError):
            event = json.loads(line.strip().removesuffix(","))
            events += [event] if isinstance(event, dict) else []
    return events


def median_times(events: list[dict[str, Any]]) -> dict[str, float]:
    """Median microseconds a run of each node, from the events of a profile."""
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            found[name.removesuffix("_kernel_time")].append(float(event["dur"]))
    return {name: float(np.median(durations)) for name, durations in found.items()}


def _feed(session: Any) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        made_up(
            [size if isinstance(size, int) else _VARYING for size in value.shape],
            dtype_named(value.type),
            generator,
        )
        for value in session.get_inputs()
    ]
