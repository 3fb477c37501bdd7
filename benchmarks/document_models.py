"""The design document's three models at its sizes: what int8 and pruning give on this machine.

Writes the table between the markers in `docs/benchmarks.md`. Every latency of a model is taken in
one run, on one thread, at a batch of one, in blocks of calls that take turns; what counts is the
ratio to eager PyTorch. `share of limit` is the least time the machine could take, over the time
taken: the weights' bytes over the bandwidth with which this machine reads as many, or the
operations over its peak (that of the engine whose product of large matrices is the fastest),
whichever is longer, both measured in the same run.

    python benchmarks/document_models.py            # all three
    python benchmarks/document_models.py policy     # one
"""

import copy
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import torch
from _tables import machine, table, write
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modelyard.compression import ModelCompressor
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import make_onnxruntime, make_torchscript
from modelyard.torchtools.graph_sessions import openvino_model
from modelyard.torchtools.inputs import answer_of, call, synthetic_like
from modelyard.torchtools.layers import MB, size_mb
from modelyard.torchtools.onnx_module import make_session
from modelyard.torchtools.parity import differences, worst
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians
from modelyard.trading import build_models, presets

_SHAPES = {"policy": (2, 263), "transformer": (2, 64, 155), "ts2vec": (2, 256, 4)}
_PRUNED = 0.52
_BUDGET_S = 20.0
_BLOCK = 10
_PEAK_SIZE = 1024
_COLUMNS = [
    "model",
    "how",
    "#size (MB)",
    "#latency (ms)",
    "#speed-up",
    "#share of limit",
    "#relative error",
]


@dataclass(frozen=True)
class Way:
    """One way to run a model.

    Attributes:
        run: Answers an input.
        size_mb: Of the weights.
        is_int8: Whether it computes in 8 bits.
        operations: Of one sample, two a multiplication with its addition.
        reference: The float model its error is measured against.
    """

    run: Callable[[torch.Tensor], Any]
    size_mb: float
    is_int8: bool
    operations: float
    reference: nn.Module


def main(names: list[str]) -> None:
    """Measure the models named and write the page."""
    torch.set_num_threads(1)
    models = build_models(presets.document(), seed=0)
    rows = []
    for name in names:
        rows += measure(name, getattr(models, name))
        print(table(_COLUMNS, [*map(as_line, rows)]), flush=True)
    text = f"Measured on {machine()}, one thread.\n\n{table(_COLUMNS, [*map(as_line, rows)])}"
    if len(names) == len(_SHAPES):
        write("document_models", text)


def measure(name: str, model: nn.Module) -> list[dict[str, Any]]:
    """Eager, TorchScript, ONNX Runtime, int8, and int8 of half the parameters of one model."""
    example = torch.randn(_SHAPES[name], generator=torch.Generator().manual_seed(0))
    ways = ways_of(model.eval(), example)
    one = example[:1]
    times = interleaved_medians(
        {how: (lambda way=way: way.run(one)) for how, way in ways.items()},
        budget_s=_BUDGET_S,
        block=_BLOCK,
    )
    inputs = synthetic_like(example, 16, seed=9)
    peaks = {True: peak_int8(), False: peak_float32()}
    return [
        {
            "model": name,
            "how": how,
            "size_mb": way.size_mb,
            "latency_ms": times[how] * MS_PER_S,
            "speedup": times["eager PyTorch"] / times[how],
            "share": limit_s(way, peaks[way.is_int8]) / times[how],
            "error": worst(
                differences(answer_of(way.reference, inputs), way.run(inputs))
            ).relative_rms,
        }
        for how, way in ways.items()
    ]


def ways_of(model: nn.Module, example: torch.Tensor) -> dict[str, Way]:
    """Every way to run a model, by name."""
    device = torch.device("cpu")
    operations, size = operations_of(model, example[:1]), size_mb(model)

    def whole(run: Callable[[torch.Tensor], Any]) -> Way:
        return Way(run, size, is_int8=False, operations=operations, reference=model)

    ways = {
        "eager PyTorch": whole(lambda x: call(model, x)),
        "TorchScript": whole(make_torchscript(model, example, device).run),
        "ONNX Runtime": whole(make_onnxruntime(model, example, device).run),
    }
    ways |= _int8(model, example)
    compressor = ModelCompressor(model, example_input=example)
    compressor.prune_model(_PRUNED, "structured")
    pruned = compressor.model
    removed = 1 - size_mb(pruned) / size
    return ways | {f"{removed:.0%} pruned, {how}": w for how, w in _int8(pruned, example).items()}


def _int8(reference: nn.Module, example: torch.Tensor) -> dict[str, Way]:
    """A float model quantized in each way that suits it, by the recipe's name."""
    operations = operations_of(reference, example[:1])

    def way(quantized: Any, run: Callable[[torch.Tensor], Any]) -> Way:
        size = quantized.graph.numel() / MB
        return Way(run, size, is_int8=True, operations=operations, reference=reference)

    def compressor() -> ModelCompressor:
        return ModelCompressor(copy.deepcopy(reference), example_input=example)

    made = compressor()
    found = made.dynamic_quantization()["recipe"]  # static where there are convolutions
    quantized = made.model
    ways = {found.replace("_", " "): way(quantized, lambda x: call(quantized, x))}
    if found == "dynamic_int8":
        made = compressor()
        made.weight_only_quantization("int8_blocks")
        blocks = made.model
        ways["block int8"] = way(blocks, lambda x: call(blocks, x))
    made = compressor()
    made.quantize_model()
    made.calibrate_quantization([synthetic_like(example, 16, seed=i) for i in range(4)])
    static = made.model
    # Its whole numbers are rounded in another order there than in ONNX Runtime.
    optimizer = InferenceOptimizer(static, backend="openvino", tolerance=0.2, cache_size=0)
    optimizer.optimize_for_inference(example, batch_sizes=(1,))
    ways["static int8, OpenVINO"] = way(static, optimizer.predict)
    return ways


# ── what the machine can do ─────────────────────────────────────────────────────────────────────


def operations_of(model: nn.Module, one: torch.Tensor) -> float:
    """Operations of one sample, as torch counts them."""
    # Its quick path for attention is one operator that the counter does not know.
    was_quick = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            answer_of(model, one)
    finally:
        torch.backends.mha.set_fastpath_enabled(was_quick)
    return float(counter.get_total_flops())


def limit_s(way: Way, peak: float) -> float:
    """The least seconds a call could take on this machine."""
    return max(way.size_mb * MB / bandwidth(way.size_mb), way.operations / peak)


def bandwidth(size: float) -> float:
    """Bytes a second with which so many MB are read again and again: the best of three ways."""
    values = np.ones(int(size * MB / 4), np.float32)
    words = values[: values.size // 2 * 2].view(np.uint64)
    readers = (values.max, lambda: np.dot(values, values), lambda: np.bitwise_or.reduce(words))
    return values.nbytes / min(_median_s(reader) for reader in readers)


def peak_float32() -> float:
    """Operations a second of the faster of two float32 products of large matrices."""
    matrix = torch.ones(_PEAK_SIZE, _PEAK_SIZE)
    session = _product("MatMul", TensorProto.FLOAT, matrix.numpy())
    feed = {"a": matrix.numpy()}
    fastest = min(
        _median_s(lambda: torch.mm(matrix, matrix)), _median_s(lambda: session.run(None, feed))
    )
    return 2 * _PEAK_SIZE**3 / fastest


def peak_int8() -> float:
    """Operations a second of the faster of two int8 products of large matrices."""
    weights = np.ones((_PEAK_SIZE, _PEAK_SIZE), np.int8)
    session = _product("MatMulInteger", TensorProto.UINT8, weights)
    feed = {"a": weights.astype(np.uint8)}
    compiled = openvino_model(_quantized_product(weights), threads=1)
    request, floats = compiled.create_infer_request(), weights.astype(np.float32)
    fastest = min(
        _median_s(lambda: session.run(None, feed)),
        _median_s(lambda: request.infer([floats], share_inputs=True)),
    )
    return 2 * _PEAK_SIZE**3 / fastest


def _quantized_product(weights: np.ndarray[Any, Any]) -> bytes:
    """A graph that rounds its input to int8 and multiplies it by these weights."""
    constants = {
        "scale": np.array(1, np.float32),
        "zero": np.array(0, np.uint8),
        "none": np.array(0, np.int8),
        "b": weights,
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["b", "scale", "none"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["c"]),
    ]
    shape = [_PEAK_SIZE, _PEAK_SIZE]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def _product(operator: str, kind: int, weights: np.ndarray[Any, Any]) -> Any:
    shape = [_PEAK_SIZE, _PEAK_SIZE]
    answer = TensorProto.INT32 if operator == "MatMulInteger" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kind, shape)],
        [helper.make_tensor_value_info("c", answer, shape)],
        [numpy_helper.from_array(weights, "b")],
    )
    opset = [helper.make_opsetid("", 14)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return make_session(model.SerializeToString(), threads=1)


def _median_s(work: Callable[[], Any], n: int = 15) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def as_line(row: dict[str, Any]) -> list[str]:
    """One row of the table."""
    return [
        row["model"],
        row["how"],
        f"{row['size_mb']:.1f}",
        f"{row['latency_ms']:.2f}",
        f"{row['speedup']:.1f} x",
        f"{row['share']:.0%}",
        f"{row['error']:.1e}",
    ]


if __name__ == "__main__":
    main(sys.argv[1:] or list(_SHAPES))
