"""The settings and the model as a conversion needs them, and as they were afterwards."""

import logging
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn import functional
from torch.nn.modules import transformer

from modelyard.torchtools.conversion.attention import masked_attention
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.silence import NotFrom, settings

_NOISY_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes")


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Eval mode, no fast path, no messages; everything as it was afterwards.

    One thread at a time: these are settings of the process.
    """
    with settings.lock, ExitStack() as stack:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no ONNX form
        for name in _NOISY_LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        stack.callback(Contents(model).put_back)
        stack.enter_context(_quiet())
        stack.enter_context(evaluating(model))
        stack.enter_context(_as_written())
        stack.enter_context(torch.no_grad())
        yield


_TABLES = ("_parameters", "_buffers", "_modules")


class Contents:
    """What a model holds, to be put back after its forward has run.

    Attributes of every part, what is in their lists, dicts, sets and deques, and the values of
    buffers. Not what is written into weights, or kept outside the model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = [part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)]
        self._attributes = [
            (part, {key: value for key, value in vars(part).items() if key not in _TABLES})
            for part in parts
        ]
        self._tables = [
            (vars(part)[name], dict(vars(part)[name])) for part in parts for name in _TABLES
        ]
        self._containers: dict[int, tuple[Any, Any]] = {}
        for _, attributes in self._attributes:
            for value in attributes.values():
                self._keep(value)
        self._values = [
            (buffer, buffer._version, buffer.detach().clone())  # noqa: SLF001 - writes are counted nowhere else
            for buffer in model.buffers()
            if not buffer.is_inference()
        ]

    def put_back(self) -> None:
        """Undo what forward did: cached masks, counters, records, running statistics."""
        for part, attributes in self._attributes:
            held = vars(part)
            for key in [key for key in held if key not in attributes and key not in _TABLES]:
                del held[key]
            held.update(attributes)
        for table, before in self._tables:
            if not _are_same(table, before):
                table.clear()
                table.update(before)
        for container, before in self._containers.values():
            if _hold_the_same(container, before):
                continue
            if isinstance(container, list):
                container[:] = before
            else:
                container.clear()
                (container.extend if isinstance(container, deque) else container.update)(before)
        with torch.no_grad():
            for buffer, n_writes, value in self._values:
                if not _is_as_before(buffer, n_writes, value):
                    buffer.copy_(value)

    def _keep(self, value: Any) -> None:
        if id(value) in self._containers or not isinstance(value, list | dict | set | deque):
            return
        # Plain copies: a class of the user's may be made in another way.
        before: Any = dict(value) if isinstance(value, dict) else list(value)
        self._containers[id(value)] = value, before
        for item in before.values() if isinstance(before, dict) else before:
            self._keep(item)


def _is_as_before(buffer: torch.Tensor, n_writes: int, value: torch.Tensor) -> bool:
    try:
        # Not by PyTorch's count of writes: what scripted modules write is not in it.
        return torch.equal(buffer, value)
    except (NotImplementedError, RuntimeError):  # there is none for sparse tensors
        return buffer._version == n_writes  # noqa: SLF001 - as above


def _are_same(table: dict[str, Any], before: dict[str, Any]) -> bool:
    return list(table) == list(before) and all(table[key] is before[key] for key in before)


def _hold_the_same(container: Any, before: Any) -> bool:
    if isinstance(container, dict):
        return _are_same(container, before)
    return [id(item) for item in container] == [id(item) for item in before]


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
    me = threading.get_ident()
    with warnings.catch_warnings(), redirect_stdout(NotFrom(sys.stdout, me)):
        warnings.simplefilter("ignore")
        with redirect_stderr(NotFrom(sys.stderr, me)), _no_graph_dump():
            yield


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
