"""The shapes of what the exporter tells."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from modelyard.torchtools.conversion import Verification
from modelyard.torchtools.timing import LatencySummary


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written and proved.

    Attributes:
        path: The file; for OpenVINO the `.xml`, with the `.bin` beside it.
        target: "onnx", "torch_export", "torchscript" or "openvino".
        opset: Of the ONNX graph; None for formats not made from one.
        precision: "fp32", "fp16", "bf16" or "int8".
        route: How the module was turned into it: "torch_export", "torchscript", "traced",
            "scripted" or "onnx_module".
        size_bytes: Of all its files.
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.
        verification: What was compared with the module, and the largest difference; None with
            `verify=False`, and for the graph of an `OnnxModule`, which is the module.
        details: What the target tells besides: `optimization` with the times measured; for int8
            `recipe, max_error, validated_on, layers_kept_float, portable`.
    """

    path: Path
    target: str
    opset: int | None
    precision: str
    route: str
    size_bytes: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    verification: Verification | None
    details: dict[str, Any] = field(default_factory=dict)


class TensorInfo(TypedDict):
    """An input or output: sizes that vary are names, the others numbers."""

    name: str
    shape: list[int | str]
    dtype: str


class ModelInfo(TypedDict):
    """What an ONNX file holds.

    Attributes:
        file_size_mb: Size of the file, 10^6 bytes.
        total_size_mb: The same with the files of weights it points to.
        opset_version: Of the standard operators.
        inputs, outputs: Names, shapes, dtypes.
        node_count: Number of operators.
        operators: How often each is used, those inside branches and loops too.
        parameter_count: Numbers held in initial values.
        producer: Who wrote the file.
        metadata: What was stored under which key, as it was given.
    """

    file_size_mb: float
    total_size_mb: float
    opset_version: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    node_count: int
    operators: dict[str, int]
    parameter_count: int
    producer: str
    metadata: dict[str, Any]


class OutputComparison(TypedDict):
    """How far the file's answers are from the module's.

    Attributes:
        max_abs_diff, max_rel_diff, mean_abs_diff: Worst over the outputs.
        is_close: Whether no element is off by more than `atol + rtol * (size of the output)`.
        rtol, atol: The bounds.
        outputs: The same for each output by name.
    """

    max_abs_diff: float
    max_rel_diff: float
    mean_abs_diff: float
    is_close: bool
    rtol: float
    atol: float
    outputs: dict[str, dict[str, Any]]


class OnnxBenchmark(LatencySummary):
    """Latency of single calls, with the conditions they were measured under.

    Attributes:
        memory_mb: Growth of the process while the session was made and run, 10^6 bytes.
        n_threads: Threads within an operator, of ONNX Runtime and of PyTorch.
        input_shape: Of each call: of the one input, or of each by name.
        num_iterations: Calls measured.
        pytorch: The module's latencies, where one was given: called in turns with the file.
        speedup: Median of the module over median of the file.
    """

    memory_mb: float
    n_threads: int
    input_shape: list[int] | dict[str, list[int]]
    num_iterations: int
    pytorch: NotRequired[LatencySummary]
    speedup: NotRequired[float]
