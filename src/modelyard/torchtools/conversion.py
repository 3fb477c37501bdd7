"""A module as an ONNX graph that gives the same answers. The only place that converts.

Two routes of torch: "torch_export" (`torch.onnx.export(dynamo=True)`; writes opset 18 or newer)
and "torchscript" (`dynamo=False`; every opset up to 23). Below opset 18 only the second can. What
comes out is run at several batch sizes on several kinds of input before it is returned: the
exporters freeze a batch, drop a branch or write another opset without a word.
"""

import ast
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.torchtools.inputs import (
    Inputs,
    batch_size,
    call,
    mapped,
    synthetic_like,
    tensors_of,
    with_batch,
)
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.onnx_module import OnnxModule, make_session, run_session
from modelyard.torchtools.parity import Difference, difference, flat_outputs

DEFAULT_OPSET = 14
OLDEST_OPSET = 9
_FIRST_TORCH_EXPORT_OPSET = 18
_LAST_TORCHSCRIPT_OPSET = 23
# Right conversions stay below 1.3e-6 absolute on outputs of size 1; frozen branches and batches
# are off by the size of the output.
RTOL = 1e-4
ATOL = 1e-5
_SCOPES = "pkg.torch.onnx.name_scopes"
_BATCHES = (1, 2, 3, 8)

DynamicAxes = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A verified conversion.

    Attributes:
        data: The serialised ONNX model.
        route: "torch_export", "torchscript" or "onnx_module".
        max_abs_diff: Largest difference from eager seen in the verification.
    """

    data: bytes
    route: str
    max_abs_diff: float


def to_onnx(
    model: nn.Module,
    example: Inputs,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic_axes: DynamicAxes | None = None,
    verify: bool = True,
) -> Graph:
    """Convert `model`, in eval mode, and prove the result.

    Args:
        model: Any module; mode, gradients and random state are left as they were.
        example: An input it runs on. With a dynamic batch, of 2 samples or more where possible.
        opset: Opset the file has to have.
        dynamic_axes: Sizes that may vary, by input or output name and axis. None: the batch
            (axis 0) of everything. Empty: nothing varies.
        verify: Whether outputs are compared; the structure is always checked.

    Raises:
        ConversionError: The model is random, no route gives the opset, or the answers differ.
    """
    if isinstance(model, OnnxModule):
        return _own_graph(model, opset)
    with _preserved(model):
        names = io_names(model, example)
        _check_deterministic(model, example)
        axes = _all_batches(*names) if dynamic_axes is None else dynamic_axes
        _check_axes(axes, [*names[0], *names[1]])
        is_batch_dynamic = any(0 in by_axis for by_axis in axes.values())
        if is_batch_dynamic and batch_size(example) < 2:  # noqa: PLR2004 - torch.export freezes a batch of 1
            example = with_batch(example, 2)
        problems = []
        for route in _routes(opset):
            try:
                data = _converted(model, example, route, opset=opset, names=names, axes=axes)
                worst = 0.0
                if verify:
                    worst = _verified(model, data, example, is_batch_dynamic=is_batch_dynamic)
                return Graph(data=data, route=route, max_abs_diff=worst)
            except Exception as error:  # noqa: BLE001 - the exporters raise anything; the next route may do
                problems.append(f"{route}: {_first_lines(error)}")
    raise ConversionError(
        f"{type(model).__name__} could not be converted at opset {opset}. "
        + " | ".join(problems)
        + _remedy(opset)
    )


def to_runnable(model: nn.Module, example: Inputs) -> Graph:
    """A graph to run here: at the default opset, or at the one where torch has a second route.

    Raises:
        ConversionError: Neither works; tells of both.
    """
    try:
        return to_onnx(model, example)
    except ConversionError as first:
        try:
            return to_onnx(model, example, opset=_FIRST_TORCH_EXPORT_OPSET)
        except ConversionError as second:
            raise ConversionError(f"{first} Then: {second}") from second


def io_names(model: nn.Module, example: Inputs) -> tuple[list[str], list[str]]:
    """Names of inputs and outputs: `input` and `output` for one, else forward's own names."""
    n_inputs = len(tensors_of(example))
    n_outputs = len(flat_outputs(call(model, example)))
    if isinstance(example, dict):
        inputs = list(example)
    elif n_inputs == 1:
        inputs = ["input"]
    else:
        inputs = list(inspect.signature(model.forward).parameters)[:n_inputs]
        if len(inputs) < n_inputs or inputs[0] == "args":
            inputs = [f"input_{i}" for i in range(n_inputs)]
    outputs = ["output"] if n_outputs == 1 else [f"output_{i}" for i in range(n_outputs)]
    return inputs, outputs


def opset_of(graph: onnx.ModelProto) -> int:
    """Version of the standard operator set that the graph declares."""
    return max(
        (entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}),
        default=0,
    )


def _own_graph(model: OnnxModule, opset: int) -> Graph:
    found = opset_of(onnx.load_from_string(model.graph_bytes))
    if found != opset:
        raise ConversionError(
            f"This OnnxModule ({model.recipe}) was built at opset {found}, not {opset}. "
            f"Pass opset_version={found}, or build it again from its float model."
        )
    return Graph(data=model.graph_bytes, route="onnx_module", max_abs_diff=0.0)


def _all_batches(inputs: list[str], outputs: list[str]) -> DynamicAxes:
    return {name: {0: "batch_size"} for name in [*inputs, *outputs]}


def _routes(opset: int) -> list[str]:
    if opset < OLDEST_OPSET:
        raise ConversionError(f"Opset {opset} is too old: {OLDEST_OPSET} is the oldest written.")
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ConversionError(f"Opset {opset} is not known here: the newest is {newest}.")
    routes = []
    if opset >= _FIRST_TORCH_EXPORT_OPSET:
        routes.append("torch_export")
    if opset <= _LAST_TORCHSCRIPT_OPSET:
        routes.append("torchscript")
    return routes


def _converted(
    model: nn.Module,
    example: Inputs,
    route: str,
    *,
    opset: int,
    names: tuple[list[str], list[str]],
    axes: DynamicAxes,
) -> bytes:
    write = _by_torch_export if route == "torch_export" else _by_torchscript
    graph = write(model, example, opset=opset, names=names, axes=axes)
    _clean(graph)
    _name_axes(graph, axes)
    found = opset_of(graph)
    if found != opset:
        raise ConversionError(f"asked for opset {opset}, the exporter wrote {found}")
    onnx.checker.check_model(graph, full_check=True)
    data: bytes = graph.SerializeToString()
    return data


def _by_torchscript(
    model: nn.Module,
    example: Inputs,
    *,
    opset: int,
    names: tuple[list[str], list[str]],
    axes: DynamicAxes,
) -> onnx.ModelProto:
    buffer: Any = io.BytesIO()  # taken by this route, whatever the annotation says
    with _taking_only_the_example(model, example):
        torch.onnx.export(
            model,
            tuple(tensors_of(example)),
            buffer,
            opset_version=opset,
            input_names=names[0],
            output_names=names[1],
            dynamic_axes={name: dict(by_axis) for name, by_axis in axes.items()},
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _taking_only_the_example(model: nn.Module, example: Inputs) -> Iterator[None]:
    """Let `forward` take the example's tensors and no more.

    The exporter adds the defaults of further arguments and traces them as tensors, on which
    `is_causal=False` of attention fails and `temperature=1.0` becomes an input.
    """
    forward = model.forward
    is_own = "forward" in vars(model)

    def exact(*tensors: torch.Tensor) -> Any:
        if isinstance(example, dict):
            return forward(**dict(zip(example, tensors, strict=True)))
        return forward(*tensors)

    model.forward = exact
    try:
        yield
    finally:
        if is_own:
            model.forward = forward
        else:
            del model.forward


def _by_torch_export(
    model: nn.Module,
    example: Inputs,
    *,
    opset: int,
    names: tuple[list[str], list[str]],
    axes: DynamicAxes,
) -> onnx.ModelProto:
    args, kwargs = _arguments(example)
    program = torch.onnx.export(
        model,
        args,
        kwargs=kwargs,
        opset_version=opset,
        input_names=names[0],
        output_names=names[1],
        dynamic_shapes=_dynamic_shapes(example, names[0], axes),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ConversionError("the exporter gave nothing")
    graph = program.model_proto
    _name_by_module(graph)
    return graph


def _name_by_module(graph: onnx.ModelProto) -> None:
    """Name nodes as the other route does, `/module/Operator`: layers can then be asked for."""
    for index, node in enumerate(graph.graph.node):
        entries = {entry.key: entry.value for entry in node.metadata_props}
        # Names of the modules from the outermost in, then the operation's own.
        scopes = ast.literal_eval(entries.get(_SCOPES, "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"/{module}/{node.op_type}_{index}".replace("//", "/").replace(".", "/")


def _dynamic_shapes(example: Inputs, names: list[str], axes: DynamicAxes) -> Any:
    # AUTO lets torch.export find sizes that must agree; a name would forbid that they do.
    specs = [dict.fromkeys(axes.get(name, {}), torch.export.Dim.DYNAMIC) or None for name in names]
    if isinstance(example, dict):
        return dict(zip(example, specs, strict=True))
    return tuple(specs)


def _arguments(example: Inputs) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor] | None]:
    if isinstance(example, dict):
        return (), example
    return (example,) if isinstance(example, torch.Tensor) else example, None


def _clean(graph: onnx.ModelProto) -> None:
    """Take out stack traces and paths of this machine."""
    graph.doc_string = ""
    graph.producer_name = "modelyard"
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]


def _name_axes(graph: onnx.ModelProto, axes: DynamicAxes) -> None:
    """Give the varying sizes the caller's names; torch.export makes up its own."""
    for value in [*graph.graph.input, *graph.graph.output]:
        for axis, name in axes.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del graph.graph.value_info[:]  # sizes inside the graph, under the old names


def _check_axes(axes: DynamicAxes, names: list[str]) -> None:
    unknown = sorted(set(axes) - set(names))
    if unknown:
        raise ConfigError(
            f"dynamic_axes names {', '.join(unknown)}; this model has {', '.join(names)}."
        )


def _check_deterministic(model: nn.Module, example: Inputs) -> None:
    first, second = flat_outputs(call(model, example)), flat_outputs(call(model, example))
    if any(difference(a, b).max_abs > 0 for a, b in zip(first, second, strict=True)):
        raise ConversionError(
            f"{type(model).__name__} gives two answers to one input, so no graph can be equal to "
            "it. Take the sampling out of forward: wrap the part that computes the distribution."
        )


def _verified(model: nn.Module, data: bytes, example: Inputs, *, is_batch_dynamic: bool) -> float:
    """Largest difference seen over batch sizes and kinds of input.

    Raises:
        ConversionError: One of them is over the bounds; names the worst.
    """
    session = make_session(data, threads=1)
    batches = _BATCHES if is_batch_dynamic else (batch_size(example),)
    largest = 0.0
    for n in batches:
        for kind, inputs in _samples(example, n):
            expected = flat_outputs(call(model, inputs))
            try:
                actual = run_session(session, tensors_of(inputs))
            except Exception as error:
                raise ConversionError(
                    f"the graph fails at batch {n}: the exporter froze a size ({error})"
                ) from error
            for i, (want, got) in enumerate(zip(expected, actual, strict=True)):
                gap = difference(want, got)
                if not gap.is_within(rtol=RTOL, atol=ATOL):
                    raise ConversionError(_mismatch(kind, n, i, gap, want, got))
                largest = max(largest, gap.max_abs)
    return largest


def _samples(example: Inputs, n: int) -> Iterator[tuple[str, Inputs]]:
    yield "the example", with_batch(example, n)
    yield "normal", synthetic_like(example, n, seed=1)
    yield "large", synthetic_like(example, n, seed=2, scale=10.0)
    yield "negative", mapped(synthetic_like(example, n, seed=3), _negative)
    yield "zero", mapped(with_batch(example, n), _zero)


def _negative(tensor: torch.Tensor) -> torch.Tensor:
    return -tensor.abs() if tensor.is_floating_point() else tensor


def _zero(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(tensor)


def _mismatch(
    kind: str, n: int, i: int, gap: Difference, want: torch.Tensor, got: torch.Tensor
) -> str:
    if want.shape != got.shape:
        what = f"has shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    else:
        what = f"differs by up to {gap.max_abs:.3g} (size of the output: {gap.scale:.3g})"
    return (
        f"output {i} {what} on {kind} input at batch {n}: the exporter froze a size or a branch "
        "that depends on the data"
    )


@contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    """Eval mode, no fast path, no messages; everything as it was afterwards."""
    state = torch.get_rng_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    level = logging.getLogger("torch.onnx").level
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        # The exporters announce progress and their own deprecation; what matters is verified.
        with evaluating(model), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()), _no_graph_dump():
                yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.set_rng_state(state)


@contextmanager
def _no_graph_dump() -> Iterator[None]:
    """Keep the TorchScript exporter from printing the whole graph when it fails.

    It writes past Python's stdout and, in torch 2.13, whatever its switch says: the switch's
    state is asked for without calling the function that tells it.
    """
    dump = torch._C._jit_onnx_log  # noqa: SLF001 - there is no public way
    torch._C._jit_onnx_log = _ignore  # noqa: SLF001
    try:
        yield
    finally:
        torch._C._jit_onnx_log = dump  # noqa: SLF001


def _ignore(*_: Any) -> None:
    """Do nothing."""


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:400]


def _remedy(opset: int) -> str:
    if opset < _FIRST_TORCH_EXPORT_OPSET:
        return (
            f" Try opset_version={_FIRST_TORCH_EXPORT_OPSET} or newer, which has a second route, "
            "or replace the operation named above."
        )
    return " Replace the operation named above, or pass an example_input it can be traced on."
