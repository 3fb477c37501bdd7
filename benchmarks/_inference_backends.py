"""What the backends of `optimize_for_inference` take, beside the engines used by hand."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import onnxruntime as ort
import torch
from torch import nn

from modelyard._core.extras import require
from modelyard.inference_optimizer.backends import Backend, label_of, written
from modelyard.inference_optimizer.tuning import chosen
from modelyard.torchtools.inputs import call, with_batch
from modelyard.torchtools.parity import differences, worst
from modelyard.torchtools.threads import torch_threads
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

_CPU = torch.device("cpu")
_BLOCK = 5

Call = Callable[[torch.Tensor], Callable[[], Any]]


def backend_rows(
    model: nn.Module,
    example: torch.Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 32),
    thread_counts: Sequence[int] = (1, 2),
    budget_s: float = 10.0,
    use_amp: bool = False,
) -> list[dict[str, Any]]:
    """One row a way to run the model, batch size and number of threads, timed in turns.

    Args:
        model: In eval mode, on the CPU, with one tensor in and one out.
        example: An input, batch first.
        batch_sizes: Samples a call.
        thread_counts: Threads of PyTorch and of the engines.
        budget_s: Seconds of timing for each batch size and number of threads.
        use_amp: Whether reduced precision is tried.

    Returns:
        Rows with `threads`, `batch`, `how`, `is_chosen`, `takes` ("tensor" or "array"),
        `latency_ms`, `speedup` over eager in the same turns, and `max_abs_diff` from eager.
    """
    rows = []
    graph = written(model, example).data
    for threads in thread_counts:
        with torch_threads(threads):
            rows += _rows_at(
                model,
                graph,
                example,
                batch_sizes,
                threads=threads,
                budget_s=budget_s,
                use_amp=use_amp,
            )
    return rows


def by_hand(graph: bytes, *, threads: int) -> dict[str, Call]:
    """ONNX Runtime and OpenVINO as one would write it: nothing set but the threads.

    Args:
        graph: The serialised model.
        threads: Of each engine.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    openvino: Any = require("openvino", extra="openvino")
    core = openvino.Core()

    def compiled(**settings: Any) -> Any:
        return core.compile_model(
            core.read_model(io.BytesIO(graph)),
            "CPU",
            {"INFERENCE_NUM_THREADS": threads} | settings,
        )

    def openvino_call(ready: Any) -> Call:
        return _on_array(lambda array: ready(array)[0])

    return {
        "ONNX Runtime by hand": _on_array(lambda array: session.run(None, {name: array})[0]),
        "OpenVINO by hand": openvino_call(compiled()),
        "OpenVINO by hand, f32": openvino_call(compiled(INFERENCE_PRECISION_HINT="f32")),
    }


def _rows_at(
    model: nn.Module,
    graph: bytes,
    example: torch.Tensor,
    batch_sizes: Sequence[int],
    *,
    threads: int,
    budget_s: float,
    use_amp: bool,
) -> list[dict[str, Any]]:
    choice = chosen(
        model, example, _CPU, use_amp=use_amp, batch_sizes=batch_sizes, budget_s=budget_s
    )
    backends = {label_of(one.name, one.settings): one for one in choice.made}
    ways = {label: _call_of(one) for label, one in backends.items()}
    ways |= by_hand(graph, threads=threads)
    rows = []
    for n in batch_sizes:
        inputs = with_batch(example, n)
        calls = {label: way(inputs) for label, way in ways.items()}
        times = interleaved_medians(calls, budget_s=budget_s, block=_BLOCK)
        winner = choice.by_batch.get(n)
        chosen_label = winner and label_of(winner.name, winner.settings)
        for label, seconds in times.items():
            backend = backends.get(label)
            rows.append(
                {
                    "threads": threads,
                    "batch": n,
                    "how": label,
                    "is_chosen": backend is not None and label == chosen_label,
                    "takes": "tensor" if backend and backend.run_array is None else "array",
                    "latency_ms": seconds * MS_PER_S,
                    "speedup": times["eager"] / seconds,
                    "max_abs_diff": _gap(call(model, inputs), calls[label]()),
                }
            )
    return rows


def _call_of(backend: Backend) -> Call:
    if backend.run_array is not None:
        return _on_array(backend.run_array)
    return lambda x: lambda: backend.run(x)


def _on_array(run: Callable[[Any], Any]) -> Call:
    """Calls on an array that is made of the tensor once."""

    def prepared(x: torch.Tensor) -> Callable[[], Any]:
        array = x.numpy()
        return lambda: run(array)

    return prepared


def _gap(want: torch.Tensor, got: Any) -> float:
    return worst(differences(want, torch.as_tensor(got))).max_abs
