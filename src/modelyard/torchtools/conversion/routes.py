"""The two exporters of torch, called alike and kept from printing, changing or hiding anything."""

import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn import functional
from torch.nn.modules import transformer

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion.attention import masked_attention, multi_head_attention
from modelyard.torchtools.conversion.graphs import WRAPPER
from modelyard.torchtools.conversion.interface import Interface
from modelyard.torchtools.inputs import mapped
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.parity import flat_outputs

OLDEST_OPSET = 9
FIRST_TORCH_EXPORT_OPSET = 18
LAST_TORCHSCRIPT_OPSET = 23
# Asked for more, torch 2.13 writes operators of the new set under an old number.
NEWEST_OPSET = 25

_PLACE = re.compile(
    r'raised this error:\s+File "(?P<file>.+)", line (?P<line>\d+), .*\n(?P<code>.*)'
)
_NOISY_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes")

# Settings of the whole process are changed while a model is traced.
_lock = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A place where a trace turned a tensor into a Python value.

    Attributes:
        place: `file:line`.
        is_truth_value: Whether it became one, which is what branches are made on.
    """

    place: str
    is_truth_value: bool


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A graph as an exporter wrote it.

    Attributes:
        graph: The graph.
        frozen: Where the trace turned a tensor into a Python value, which the graph cannot
            compute again. Empty for a route that refuses such code.
    """

    graph: onnx.ModelProto
    frozen: tuple[Frozen, ...] = ()


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
        return answer if self._is_bare else tuple(flat_outputs(answer))


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


def script_trace(model: nn.Module, interface: Interface) -> tuple[Any, tuple[Frozen, ...]]:
    """The module through torch.jit.trace, and where the trace froze a value."""
    module = Flat(model, interface, is_bare=True)
    tensors = tuple(_tensors(interface))
    with _traceable(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        script = torch.jit.trace(module, tensors, check_trace=False)
    return script, _frozen(caught)


def branches_on_data(model: nn.Module, interface: Interface) -> str | None:
    """Where, by torch.export, a branch or a value depends on the data; None if it nowhere does.

    Raises:
        Exception: torch.export fails for another reason, so that nothing is known.
    """
    flat, dims = Flat(model, interface), (_dynamic_dims(interface),)
    try:
        exported_program(flat, tuple(_tensors(interface)), {}, dims)
    except Exception as error:  # noqa: BLE001 - torch.export raises anything
        if (place := branch_in(error)) is not None:
            return place
    else:
        return None
    # It may have stumbled over a size that varies; with fixed sizes only the data are unknown.
    # The tensors are new ones: torch.export marks those it was given.
    try:
        exported_program(flat, tuple(_tensors(interface)), {}, None)
    except Exception as error:
        if (place := branch_in(error)) is not None:
            return place
        raise
    return None


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
def preserved(model: nn.Module) -> Iterator[None]:
    """Eval mode, no fast path, no messages; everything as it was afterwards.

    One thread at a time: these are settings of the process.
    """
    with _lock:
        states = torch.get_rng_state(), _cuda_states()
        fast_path = torch.backends.mha.get_fastpath_enabled()
        loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
        levels = [logger.level for logger in loggers]
        buffers = [(b, b._version, b.detach().clone()) for b in model.buffers()]  # noqa: SLF001 - the public way to see a change is to compare
        torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            with ExitStack() as stack:
                stack.enter_context(_quiet())
                stack.enter_context(evaluating(model))
                stack.enter_context(_as_written())
                stack.enter_context(torch.no_grad())
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            torch.backends.mha.set_fastpath_enabled(fast_path)
            _put_back(buffers)
            torch.set_rng_state(states[0])
            for device, state in enumerate(states[1]):
                torch.cuda.set_rng_state(state, device)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _put_back(buffers: Sequence[tuple[torch.Tensor, int, torch.Tensor]]) -> None:
    """Undo what forward did to the model's buffers: counters, running statistics."""
    with torch.no_grad():
        for buffer, version, value in buffers:
            if buffer._version != version:  # noqa: SLF001 - as above
                buffer.copy_(value)


@contextmanager
def _as_written() -> Iterator[None]:
    """Operations in the form that graphs can hold.

    Compiled functions run as they were written. Distributions do not check their arguments: those
    checks are branches on the data. Attention with a mask is spelt out, and nobody looks at a mask
    to find out whether it is causal: that only chooses between two ways to the same answer.
    """
    validates = Distribution._validate_args  # noqa: SLF001 - there is a public way to set it only
    attention = functional.scaled_dot_product_attention
    detects = transformer._detect_is_causal_mask  # noqa: SLF001 - it has no switch
    Distribution.set_default_validate_args(False)
    functional.scaled_dot_product_attention = masked_attention
    transformer._detect_is_causal_mask = _as_told  # noqa: SLF001 - as above
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        functional.scaled_dot_product_attention = attention
        transformer._detect_is_causal_mask = detects  # noqa: SLF001 - as above
        Distribution.set_default_validate_args(validates)


def _as_told(
    mask: torch.Tensor | None,  # noqa: ARG001 - the signature of what it stands for
    is_causal: bool | None = None,  # noqa: FBT001 - as above
    size: int | None = None,  # noqa: ARG001 - as above
) -> bool:
    return bool(is_causal)


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporters announce progress and their own deprecation; what matters is verified.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with redirect_stderr(io.StringIO()), _no_graph_dump():
            yield


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
    return Traced(graph=graph, frozen=_frozen(caught))


def _frozen(caught: Sequence[warnings.WarningMessage]) -> tuple[Frozen, ...]:
    return tuple(
        Frozen(
            place=f"{message.filename}:{message.lineno}",
            is_truth_value="Python boolean" in str(message.message),
        )
        for message in caught
        if message.category.__name__ == "TracerWarning"
    )


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
    return Traced(graph=program.model_proto)


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
