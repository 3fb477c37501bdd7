"""TorchScript: legacy in PyTorch, still the fastest for some small modules."""

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelyard._core.errors import ConversionError
from modelyard.inference_optimizer.backends.base import Backend, on_device
from modelyard.torchtools.inputs import Inputs, answer_of, call, tensors_of

# What the tracer says of values that leave the tensors: whatever follows from them is frozen.
# Others, such as those about constants and the number of turns of a loop, tell of sizes.
_FREEZING = re.compile(
    r"Converting a tensor to a (Python \w+|NumPy array)|Using len to get tensor shape|"
    r"Iterating over a tensor"
)
_TORCH_NN = Path(nn.__file__).parent
_TOLD_CHARACTERS = 120
# The first is what most come down to; in inference mode PyTorch does not take them apart.
_READING = frozenset(
    {
        torch.ops.aten._local_scalar_dense.default,  # noqa: SLF001 - an operator, by its name
        torch.ops.aten.item.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.equal.default,
        torch.ops.aten.allclose.default,
    }
)


def make_torchscript(model: nn.Module, example: Inputs, device: torch.device) -> Backend:
    """The module traced and frozen.

    Raises:
        ConversionError: What the module does depends on values, as `if x.isnan().any()` does, and
            the trace would always do what it did for the example.
    """
    moved = on_device(example, device)
    frozen = _frozen(model, moved, reads=values_read(model, moved))

    def run(inputs: Inputs) -> Any:
        return call(frozen, on_device(inputs, device))

    return Backend(name="torchscript", run=run)


def values_read(model: nn.Module, inputs: Inputs) -> list[str]:
    """The operators by which a call takes values out of tensors; empty where none does.

    Sizes are not values. What is copied to NumPy or into a list is not seen.
    """
    with _Reads() as reads:
        answer_of(model, inputs)
    return sorted(reads.found)


class _Reads(TorchDispatchMode):
    """Notes the operators that answer with plain values."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as PyTorch has it
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        answer = func(*args, **(kwargs or {}))
        if func in _READING:
            self.found.add(func.name())
        return answer


def _frozen(model: nn.Module, example: Inputs, *, reads: Sequence[str]) -> Any:
    tensors = tuple(tensors_of(example))
    with warnings.catch_warnings(record=True) as caught, torch.inference_mode():
        warnings.simplefilter("always")  # most are its deprecation, which is known
        if isinstance(example, dict):
            kwargs = dict(zip(example, tensors, strict=True))
            traced = torch.jit.trace(model, example_kwarg_inputs=kwargs, check_trace=False)
        else:
            traced = torch.jit.trace(model, tensors, check_trace=False)
        if said := _freezing_warning(caught, is_value_read=bool(reads)):
            raise ConversionError(said)
        if reads:
            raise ConversionError(
                f"the module reads values of tensors ({', '.join(reads)}), and a trace would keep "
                "those of the example"
            )
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(_apart(traced)))
        for _ in range(2):
            # The first calls profile and compile; later ones only run.
            call(frozen, example)
    return frozen


def _apart(traced: Any) -> Any:
    """The same module in a unit of its own, which goes when it does.

    What is traced shares one with all others for ever, and freezing leaves the weights there.
    """
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer).eval()


def _freezing_warning(caught: Sequence[warnings.WarningMessage], *, is_value_read: bool) -> str:
    """The first warning of a value that is frozen, and where; empty where there is none.

    PyTorch's own layers compare sizes with what they were made for, and that warns too, in LSTM,
    GRU and attention. They raise where sizes differ, and read no values.
    """
    for one in caught:
        is_tracers = one.category.__name__ == "TracerWarning"
        if not is_tracers or not _FREEZING.match(str(one.message)):
            continue
        if is_value_read or not _is_of_sizes(one):
            place = f"{Path(one.filename).name}:{one.lineno}"
            return f"{str(one.message)[:_TOLD_CHARACTERS].rstrip()}... ({place})"
    return ""


def _is_of_sizes(warning: warnings.WarningMessage) -> bool:
    is_copied = "Python list" in str(warning.message) or "NumPy" in str(warning.message)
    return not is_copied and Path(warning.filename).is_relative_to(_TORCH_NN)
