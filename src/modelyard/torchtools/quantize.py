"""Quantization recipes on ONNX graphs, each accepted only with its measured error.

A recipe turns the bytes of a float graph into those of an int8 graph, leaving named nodes in
float. `quantized_within` runs one, measures the error against the float model, and, where it is
over the limit, puts the layers that cause it back to float until it holds, or refuses.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as ort_quantization
import torch
from onnxruntime.quantization.shape_inference import quant_pre_process

from modelyard._core.errors import ConfigError, QuantizationError
from modelyard.torchtools.inputs import Inputs, tensors_of
from modelyard.torchtools.onnx_module import as_array, make_session, run_session
from modelyard.torchtools.parity import difference

# A twentieth of this is usual for int8; recipes that destroy a model are at .35 and more.
DEFAULT_MAX_ERROR = 0.1

_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "LSTM", "EmbedLayerNormalization")
_STATIC_OPERATORS = ("MatMul", "Gemm", "Conv")
_WEIGHT_TYPES = {
    torch.qint8: ort_quantization.QuantType.QInt8,
    torch.int8: ort_quantization.QuantType.QInt8,
    torch.quint8: ort_quantization.QuantType.QUInt8,
    torch.uint8: ort_quantization.QuantType.QUInt8,
}

Recipe = Callable[[bytes, frozenset[str]], bytes]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs and what the float model answers to them.

    Attributes:
        inputs: Batches.
        outputs: For each batch, the float model's outputs.
    """

    inputs: Sequence[Inputs]
    outputs: Sequence[Sequence[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A graph that kept its error under the limit.

    Attributes:
        data: The serialised graph.
        error: Largest relative error of an output: norm of the difference over norm.
        layers_kept_float: Layers that stayed in float, by module name.
        is_portable: Whether only standard ONNX operators are used.
    """

    data: bytes
    error: float
    layers_kept_float: list[str]
    is_portable: bool


def weight_type(dtype: Any) -> Any:
    """ONNX Runtime's name for a weight dtype.

    Raises:
        ConfigError: Neither `torch.qint8` nor `torch.quint8`.
    """
    if dtype not in _WEIGHT_TYPES:
        raise ConfigError(f"dtype must be torch.qint8 or torch.quint8, got {dtype}.")
    return _WEIGHT_TYPES[dtype]


def has_convolution(graph: bytes) -> bool:
    """Whether the graph convolves: dynamic int8 makes that several times slower than float."""
    return any("Conv" in node.op_type for node in onnx.load_from_string(graph).graph.node)


def dynamic_int8(dtype: Any) -> Recipe:
    """Weights in 8 bits, activations quantized as they come. For Linear, attention and LSTM."""
    kind = weight_type(dtype)

    def quantize(graph: bytes, keep_float: frozenset[str]) -> bytes:
        def write(source: Path, target: Path) -> None:
            ort_quantization.quantize_dynamic(
                source,
                target,
                op_types_to_quantize=list(_DYNAMIC_OPERATORS),
                per_channel=True,
                weight_type=kind,
                nodes_to_exclude=_names_now(source, keep_float),
            )

        return _through_files(graph, write)

    return quantize


def static_int8(dtype: Any, calibration: Sequence[Inputs]) -> Recipe:
    """Weights and activations in 8 bits, ranges taken from calibration data. For any model.

    Args:
        dtype: `torch.qint8` or `torch.quint8`, of the weights. Activations are unsigned: signed
            ones cost a convolution two thirds of its speed.
        calibration: Batches like those the model will see.
    """
    kind = weight_type(dtype)

    def quantize(graph: bytes, keep_float: frozenset[str]) -> bytes:
        def write(source: Path, target: Path) -> None:
            ort_quantization.quantize_static(
                source,
                target,
                _Batches(graph, calibration),
                quant_format=ort_quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_STATIC_OPERATORS),
                per_channel=True,
                activation_type=ort_quantization.QuantType.QUInt8,
                weight_type=kind,
                nodes_to_exclude=_names_now(source, keep_float),
            )

        return _through_files(graph, write)

    return quantize


def quantized_within(
    graph: bytes,
    recipe: Recipe,
    reference: Reference,
    *,
    max_error: float,
    keep_float: Sequence[str] = (),
) -> Quantized:
    """Run a recipe; where its error is too large, leave the layers that cause it in float.

    Args:
        graph: The float graph.
        recipe: How to quantize it.
        reference: Inputs and float outputs that the error is measured on.
        max_error: Largest relative error allowed (see `Quantized.error`).
        keep_float: Modules that stay in float in any case, by name or beginning of it.

    Raises:
        QuantizationError: Not even with half of the layers in float, saying what came closest; or
            there is nothing the recipe acts on.
        ConfigError: A name in `keep_float` that no layer has.
    """
    nodes = quantizable_nodes(graph)
    named = _named_nodes(nodes, keep_float)
    data, error = _tried(graph, recipe, reference, named)
    if not named and not _has_int8(data):
        raise QuantizationError(
            "Nothing could be quantized: the model has no float32 Linear, attention or "
            "convolution that this recipe acts on. Nothing was changed."
        )
    if error <= max_error:
        return _result(data, error, nodes, named)
    closest = error
    ranked = _by_harm(graph, recipe, reference, [node for node in nodes if node not in named])
    n_kept = 1
    while n_kept <= max(1, len(ranked) // 2):
        kept = named | frozenset(ranked[:n_kept])
        data, error = _tried(graph, recipe, reference, kept)
        if error <= max_error:
            return _result(data, error, nodes, kept)
        closest = min(closest, error)
        n_kept *= 2
    raise QuantizationError(
        f"int8 changes the outputs by {closest:.1%} at the least (relative error); the limit is "
        f"{max_error:.1%}. Nothing was changed. Pass data the model is used on (validation_data, "
        "calibration_data), keep more layers in float, or raise max_error."
    )


def _has_int8(graph: bytes) -> bool:
    """Whether any operator of the graph computes on, or is fed from, quantized values."""
    nodes = onnx.load_from_string(graph).graph.node
    return any("Quantize" in node.op_type or "Integer" in node.op_type for node in nodes)


def error_of(graph: bytes, reference: Reference) -> float:
    """Largest relative error of an output: norm of the difference over norm of the float one.

    Of outputs that are no numbers but labels, such as actions: the share that differs.
    """
    session = make_session(graph)
    answers = [run_session(session, tensors_of(inputs)) for inputs in reference.inputs]
    pairs = zip(zip(*reference.outputs, strict=True), zip(*answers, strict=True), strict=True)
    return max(_error(torch.cat(list(want)), torch.cat(list(got))) for want, got in pairs)


def _error(want: torch.Tensor, got: torch.Tensor) -> float:
    if want.is_floating_point() or want.shape != got.shape:
        return difference(want, got).relative_rms
    return float((want.cpu() != got).double().mean())


def quantizable_nodes(graph: bytes) -> dict[str, str]:
    """Nodes with weights that recipes act on: node name to the module it came from."""
    model = onnx.load_from_string(graph)
    operators = {*_DYNAMIC_OPERATORS, *_STATIC_OPERATORS}
    return {
        node.name: module_of(node.name) for node in model.graph.node if node.op_type in operators
    }


def module_of(node_name: str) -> str:
    """Module name from a node's name: `/net/net.0/Gemm` gives `net.0`."""
    parts: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def is_portable(graph: bytes) -> bool:
    """Whether only operators of the standard domain are used."""
    nodes = onnx.load_from_string(graph).graph.node
    return all(node.domain in {"", "ai.onnx"} for node in nodes)


class _Batches(ort_quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped library
    """Feeds calibration batches by input name."""

    def __init__(self, graph: bytes, batches: Sequence[Inputs]) -> None:
        model = onnx.load_from_string(graph)
        self._names = [value.name for value in model.graph.input]
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next batch, or None at the end, as ONNX Runtime asks for it."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        arrays = map(as_array, tensors_of(batch))
        return dict(zip(self._names, arrays, strict=True))


def _tried(
    graph: bytes, recipe: Recipe, reference: Reference, keep_float: frozenset[str]
) -> tuple[bytes, float]:
    data = recipe(graph, keep_float)
    return data, error_of(data, reference)


def _by_harm(
    graph: bytes, recipe: Recipe, reference: Reference, nodes: Sequence[str]
) -> list[str]:
    """Nodes by the error each causes when it alone is quantized, worst first."""
    every = frozenset(quantizable_nodes(graph))
    harm = {node: _tried(graph, recipe, reference, every - {node})[1] for node in nodes}
    return sorted(nodes, key=lambda node: harm[node], reverse=True)


def _named_nodes(nodes: dict[str, str], names: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        under = {n for n, module in nodes.items() if f"{module}.".startswith(f"{name}.")}
        if not under:
            known = ", ".join(sorted(set(nodes.values()))) or "none"
            raise ConfigError(f"No layer {name!r} to keep in float. Layers there are: {known}.")
        found |= under
    return frozenset(found)


def _result(data: bytes, error: float, nodes: dict[str, str], kept: frozenset[str]) -> Quantized:
    return Quantized(
        data=data,
        error=error,
        layers_kept_float=sorted({nodes[node] or node for node in kept}),
        is_portable=is_portable(data),
    )


def _names_now(prepared: Path, names: frozenset[str]) -> list[str]:
    """Names that nodes of the float graph have when the quantizer looks at them.

    Preparing fuses `/x/MatMul` and its bias into `/x/MatMul/MatMulAddFusion`; the dynamic
    quantizer then splits every Gemm into a MatMul with `_MatMul` behind its name and an Add.
    """
    present = [node.name for node in onnx.load(prepared).graph.node]
    now = [
        name
        for name in present
        if name in names or any(name.startswith(f"{kept}/") for kept in names)
    ]
    return [*now, *(f"{name}_MatMul" for name in now)]


def _through_files(graph: bytes, write: Callable[[Path, Path], None]) -> bytes:
    """Run a quantizer that reads and writes files."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, target = (Path(folder) / f"{name}.onnx" for name in "abc")
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        write(prepared, target)
        model = onnx.load(target)
    _drop_unused_domains(model)
    kept = [entry for entry in model.metadata_props if not entry.key.startswith("onnx.")]
    del model.metadata_props[:]  # the quantizer's own notes
    model.metadata_props.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    used = {node.domain or "" for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if (entry.domain or "") in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about its own tools from the user."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
