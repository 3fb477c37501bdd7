"""The shapes of what the exporter tells."""

from typing import Any, TypedDict

from modelyard.torchtools.timing import LatencySummary


class TensorInfo(TypedDict):
    """An input or output: sizes that vary are names, the others numbers."""

    name: str
    shape: list[int | str]
    dtype: str


class ModelInfo(TypedDict):
    """What an ONNX file holds.

    Attributes:
        file_size_mb: Size of the file, 10^6 bytes.
        opset_version: Of the standard operators.
        inputs, outputs: Names, shapes, dtypes.
        node_count: Number of operators.
        operators: How often each is used.
        parameter_count: Numbers held in initial values.
        producer: Who wrote the file.
        metadata: Key-value pairs in the file.
    """

    file_size_mb: float
    opset_version: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    node_count: int
    operators: dict[str, int]
    parameter_count: int
    producer: str
    metadata: dict[str, str]


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
        n_threads: Threads within an operator.
        input_shape: Of each call.
        num_iterations: Calls measured.
    """

    memory_mb: float
    n_threads: int
    input_shape: list[int]
    num_iterations: int
