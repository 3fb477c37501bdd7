"""The two exporters of torch, called alike and kept from printing, changing or hiding anything."""

import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn import functional

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion.attention import multi_head_attention
from modelyard.torchtools.conversion.graphs import WRAPPER
from modelyard.torchtools.conversion.interface import Interface
from modelyard.torchtools.inputs import mapped
from modelyard.torchtools.parity import outputs_by_path

OLDEST_OPSET = 9
FIRST_TORCH_EXPORT_OPSET = 18
LAST_TORCHSCRIPT_OPSET = 23
# Asked for more, torch 2.13 writes operators of the new set under an old number.
NEWEST_OPSET = 25

_PLACE = re.compile(
    r'raised this error:\s+File "(?P<file>.+)", line (?P<line>\d+), .*\n(?P<code>.*)'
)

# Running a module at a larger size than this to see whether it goes on is asking too much.
_LARGEST_SIZE_TRIED = 20_000


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Sizes that torch.export found the code to take one way for.

    Attributes:
        name: The size's name.
        lower: The smallest of them.
        upper: The largest; None for no end.
    """

    name: str
    lower: int
    upper: int | None

    def beyond(self) -> list[int]:
        """The sizes next to them. A size of 1 is left to the comparison."""
        found = []
        if self.upper is not None and self.upper < _LARGEST_SIZE_TRIED:
            found.append(self.upper + 1)
        if self.lower > 2:  # noqa: PLR2004 - torch.export's own lower end
            found.append(self.lower - 1)
        return found


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph as an exporter wrote it.

    Attributes:
        graph: The graph.
        bounds: Sizes it holds for, where the exporter knows.
        is_size_frozen: Whether it tells of tensors, which sizes are in a trace, that became
            Python values.
    """

    graph: onnx.ModelProto
    bounds: tuple[Bound, ...] = ()
    is_size_frozen: bool = False


class Flat(nn.Module):
    """A module with its tensors in a row: inputs nested again, the answer's tensors as a tuple.

    Arguments with defaults are so left to the module; the exporters would trace them as tensors.

    Args:
        module: What is called.
        interface: How inputs are nested.
        is_bare: Whether a single tensor is answered as it is.
    """

    def __init__(self, module: nn.Module, interface: Interface, *, is_bare: bool = False) -> None:
        super().__init__()
        setattr(self, WRAPPER, module)
        self.training = False
        self._interface = interface
        self._is_bare = is_bare and interface.is_single

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The answer's tensors."""
        inputs = self._interface.nested(tensors)
        module: Callable[..., Any] = getattr(self, WRAPPER)
        if isinstance(inputs, dict):
            answer = module(**inputs)
        else:
            answer = module(*inputs) if isinstance(inputs, tuple) else module(inputs)
        if self._is_bare:
            return answer
        found = outputs_by_path(answer)
        return tuple(found[path] for path in self._interface.paths)


def routes(opset: int) -> list[str]:
    """Names of the exporters that can write an opset, the better one first.

    Raises:
        ConversionError: None can.
    """
    if opset < OLDEST_OPSET:
        raise ConversionError(f"Opset {opset} is too old: {OLDEST_OPSET} is the oldest written.")
    if opset > NEWEST_OPSET:
        raise ConversionError(f"Opset {opset} is not known here: the newest is {NEWEST_OPSET}.")
    found = []
    if opset >= FIRST_TORCH_EXPORT_OPSET:
        found.append("torch_export")
    if opset <= LAST_TORCHSCRIPT_OPSET:
        found.append("torchscript")
    return found


def traced(model: nn.Module, interface: Interface, route: str, *, opset: int) -> Traced:
    """The graph as an exporter writes it: ends in order, under names of no meaning."""
    trace = _by_torch_export if route == "torch_export" else _by_torchscript
    return trace(model, interface, opset=opset)


def exported_program(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> Any:
    """The module through torch.export, which refuses branches on data."""
    return torch.export.export(
        model, args, kwargs or None, dynamic_shapes=dynamic_shapes, strict=False
    )


def script_trace(model: nn.Module, interface: Interface) -> tuple[Any, bool]:
    """The module through torch.jit.trace, and whether sizes became Python values in it."""
    module = Flat(model, interface, is_bare=True)
    tensors = tuple(_tensors(interface))
    with _traceable(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        script = torch.jit.trace(module, tensors, check_trace=False)
    return script, _is_size_frozen(caught)


def bounds_by_torch_export(model: nn.Module, interface: Interface) -> tuple[Bound, ...]:
    """Sizes for which the code goes one way; empty where torch.export cannot tell."""
    flat, dims = Flat(model, interface), (_dynamic_dims(interface),)
    try:
        program = exported_program(flat, tuple(_tensors(interface)), {}, dims)
    except Exception:  # noqa: BLE001 - torch.export raises anything
        return ()
    return bounds_of(program, interface)


def bounds_of(program: Any, interface: Interface) -> tuple[Bound, ...]:
    """Sizes that an exported program holds for, by name.

    Args:
        program: Of a module that takes the interface's tensors, in order.
        interface: Which sizes vary.
    """
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.name in names]
    found = {}
    for node, by_axis in zip(nodes, interface.axes_of_inputs(), strict=False):
        for axis, name in by_axis.items():
            size = node.meta["val"].shape[axis]
            symbol = getattr(getattr(size, "node", None), "expr", None)
            limits = program.range_constraints.get(symbol)
            if limits is not None:
                found[name] = Bound(
                    name=name, lower=_whole(limits.lower) or 0, upper=_whole(limits.upper)
                )
    return tuple(found.values())


def _whole(limit: Any) -> int | None:
    """A limit as a number; None for no end."""
    try:
        value = int(limit)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return value if value < sys.maxsize // 2 else None


def branch_in(error: Exception) -> str | None:
    """Where, by torch.export's error, the code depends on the data: `file:line: code`.

    None for an error about something else.
    """
    text = f"{type(error).__name__} {error}"
    if "DataDependent" not in text and "data-dependent" not in text:
        return None
    place = _PLACE.search(text)
    if place is None:
        return "a value taken from a tensor"
    return f"{place['file']}:{place['line']}: {place['code'].strip()}"


@contextmanager
def _traceable() -> Iterator[None]:
    """Attention in a form whose sequence length a trace keeps."""
    forward = functional.multi_head_attention_forward
    functional.multi_head_attention_forward = multi_head_attention
    try:
        yield
    finally:
        functional.multi_head_attention_forward = forward


def _by_torchscript(model: nn.Module, interface: Interface, *, opset: int) -> Traced:
    buffer: Any = io.BytesIO()  # taken by this route, whatever the annotation says
    inputs = [f"in_{i}" for i in range(len(interface.inputs))]
    outputs = [f"out_{i}" for i in range(len(interface.outputs))]
    varying = [
        *zip(inputs, interface.inputs, strict=True),
        *zip(outputs, interface.outputs, strict=True),
    ]
    with _traceable(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module: Any = Flat(model, interface)
        if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
            # The exporter's own trace refuses scripted parts; a finished trace it takes.
            module = torch.jit.trace(module, tuple(_tensors(interface)), check_trace=False)
        torch.onnx.export(
            module,
            tuple(_tensors(interface)),
            buffer,
            opset_version=opset,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={new: dict(interface.axes.get(name, {})) for new, name in varying},
            dynamo=False,
            keep_initializers_as_inputs=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    if len(graph.graph.input) != len(inputs):
        kept = {value.name for value in graph.graph.input}
        lost = [
            name for new, name in zip(inputs, interface.inputs, strict=True) if new not in kept
        ]
        raise ConversionError(
            f"the answer does not depend on {', '.join(lost)}, which the exporter leaves out; "
            "leave it out of the example input too"
        )
    return Traced(graph=graph, is_size_frozen=_is_size_frozen(caught))


def _is_size_frozen(caught: Sequence[warnings.WarningMessage]) -> bool:
    return any(message.category.__name__ == "TracerWarning" for message in caught)


def _by_torch_export(model: nn.Module, interface: Interface, *, opset: int) -> Traced:
    program = torch.onnx.export(
        Flat(model, interface),
        tuple(_tensors(interface)),
        opset_version=opset,
        dynamic_shapes=(_dynamic_dims(interface),),
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ConversionError("the exporter gave nothing")
    exported = program.exported_program
    bounds = bounds_of(exported, interface) if exported is not None else ()
    return Traced(graph=program.model_proto, bounds=bounds)


def _tensors(interface: Interface) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A copy: a forward may write into its input.
        found.append(tensor.clone())
        return tensor

    mapped(interface.example, keep)
    return found


def _dynamic_dims(interface: Interface) -> tuple[Any, ...]:
    # DYNAMIC lets torch.export find sizes that must agree; a name would forbid that they do.
    return tuple(
        dict.fromkeys(by_axis, torch.export.Dim.DYNAMIC) or None
        for by_axis in interface.axes_of_inputs()
    )
