"""What a graph takes and gives: names, sizes that may vary, and inputs of other sizes."""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.torchtools.conversion.axes import DynamicAxes
from modelyard.torchtools.inputs import Inputs, answer_of, mapped, tensors_of
from modelyard.torchtools.parity import (
    Path,
    flat_outputs,
    map_tensors,
    outputs_by_path,
    restructured,
)

BATCH = "batch_size"

Axes = Mapping[str, Mapping[int, str]]
Sizes = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Inputs and outputs of a model as a graph has them: tensors in a row, by name.

    Attributes:
        example: An input the model runs on; every size that may vary is 2 or more, since
            torch.export takes a 1 for fixed.
        inputs: A name for each tensor of the example, in order.
        outputs: A name for each tensor of the answer, in order.
        axes: Names of the sizes that may vary, by input or output and axis. Equal names vary
            together.
        sizes: What they are in the example, by name.
        is_single: Whether the answer is one bare tensor.
        paths: Where in the answer the tensors are. In a trace, sizes are tensors too.
    """

    example: Inputs
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Axes
    sizes: Sizes
    is_single: bool
    paths: tuple[Path, ...]

    @property
    def batch(self) -> str | None:
        """Name of the size that is the batch: it varies on the first axis of an input."""
        return next((by_axis[0] for by_axis in self.axes_of_inputs() if 0 in by_axis), None)

    def resized(self, sizes: Sizes) -> Inputs:
        """The example with each named size cut, or repeated from the start, to `sizes`."""
        return _resized(self.example, self.inputs, self.axes, sizes)

    def nested(self, tensors: Sequence[torch.Tensor]) -> Inputs:
        """Tensors in a row as the input the model takes."""
        inputs: Inputs = restructured(self.example, list(tensors))
        return inputs

    def dynamic_dims(self) -> Any:
        """For torch.export: what varies, in the nesting of the example."""
        remaining = iter(self.axes_of_inputs())

        def dims(_: torch.Tensor) -> _Dims:
            # DYNAMIC lets torch.export find sizes that must agree; a name would forbid that.
            return _Dims(dict.fromkeys(next(remaining), torch.export.Dim.DYNAMIC))

        return _without_constants(map_tensors(self.example, dims))

    def axes_of_inputs(self) -> list[dict[int, str]]:
        """Names of the varying sizes of each input, in order."""
        return [dict(self.axes.get(name, {})) for name in self.inputs]


@dataclass(frozen=True)
class _Dims:
    """What varies of one tensor."""

    by_axis: dict[int, Any]


def _without_constants(specs: Any) -> Any:
    if isinstance(specs, _Dims):
        return specs.by_axis or None
    if isinstance(specs, dict):
        return {key: _without_constants(item) for key, item in specs.items()}
    if isinstance(specs, tuple | list):
        return type(specs)(_without_constants(item) for item in specs)
    return None


def interface_of(
    model: nn.Module,
    example: Inputs,
    *,
    dynamic_axes: DynamicAxes | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Interface:
    """Names and varying sizes, found by running the model in the mode it is in.

    Args:
        model: The module.
        example: An input it runs on.
        dynamic_axes: Sizes that may vary, by input or output name and axis. None: the batch
            (axis 0) of every tensor that has dimensions. Empty: nothing varies. Sizes of outputs
            that are seen to vary with them are added.
        input_names: Names instead of those of `forward`, one a tensor.
        output_names: Names instead of `output`, one a tensor.

    Raises:
        ConfigError: Unknown names or axes, or a size that the model does not let vary.
    """
    inputs = _chosen(input_names, _input_names(model, example), what="input_names")
    answer = answer_of(model, _copied(example))
    outputs = _chosen(output_names, _output_names(answer, inputs), what="output_names")
    if clash := sorted(set(inputs) & set(outputs)):
        raise ConfigError(
            f"{', '.join(clash)} names an input and an output: give them other names."
        )
    given = _named_axes(dynamic_axes, [*inputs, *outputs])
    axes = _batch_axes(example, inputs) if given is None else given
    sizes = _sizes(example, inputs, axes)
    grown = {name: max(size, 2) for name, size in sizes.items()}
    if grown != sizes:
        example = _resized(example, inputs, axes, grown)
        answer = _grown_answer(model, example, grown)
    seen = _seen_to_vary(model, example, answer, inputs=inputs, axes=axes, sizes=grown)
    by_output = {
        name: {**found, **axes.get(name, {})} for name, found in zip(outputs, seen, strict=True)
    }
    _check_axes(axes, flat_outputs(answer), outputs)
    return Interface(
        example=example,
        inputs=inputs,
        outputs=outputs,
        axes={**{name: axes[name] for name in inputs if name in axes}, **by_output},
        sizes=grown,
        is_single=isinstance(answer, torch.Tensor),
        paths=tuple(outputs_by_path(answer)),
    )


def _copied(inputs: Inputs) -> Inputs:
    """A copy: a forward may write into its input."""
    return mapped(inputs, torch.Tensor.clone)


def besides_the_batch(model: nn.Module, example: Inputs, given: DynamicAxes) -> Axes:
    """Sizes that may vary, the batch (axis 0 of every input) always among them.

    Args:
        model: The module.
        example: An input it runs on.
        given: The others, and perhaps a name for the batch.
    """
    axes = _with_names(given)
    names = _input_names(model, example)
    batch = next((axes[name][0] for name in names if 0 in axes.get(name, {})), BATCH)
    with_dimensions = [n for n, t in zip(names, tensors_of(example), strict=True) if t.ndim]
    return {**axes, **{name: {0: batch, **axes.get(name, {})} for name in with_dimensions}}


def _chosen(given: Sequence[str] | None, names: tuple[str, ...], *, what: str) -> tuple[str, ...]:
    if given is None:
        return names
    if isinstance(given, str) or len(given) != len(names) or len(set(given)) != len(given):
        raise ConfigError(
            f"{what} must be {len(names)} different names, one a tensor ({', '.join(names)} by "
            f"default); got {given!r}."
        )
    return tuple(str(name) for name in given)


def _input_names(model: nn.Module, example: Inputs) -> tuple[str, ...]:
    if isinstance(example, torch.Tensor):
        return ("input",)
    if isinstance(example, dict):
        arguments = list(example.items())
    elif len(tensors_of(example)) == 1:
        return ("input",)
    else:
        arguments = list(zip(_argument_names(model, len(example)), example, strict=True))
    return _unique(name for key, value in arguments for name in _names_within(str(key), value))


def _argument_names(model: nn.Module, n: int) -> list[str]:
    kinds = inspect.Parameter
    named = [
        parameter.name
        for parameter in _parameters(model)
        if parameter.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
    ]
    return named[:n] + [f"input_{i}" for i in range(len(named), n)]


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # a scripted module has none that can be read
        return []


def _names_within(name: str, value: Any) -> Iterator[str]:
    """A name for each tensor: `state`, `state_mask`, `state_0`."""
    if isinstance(value, torch.Tensor):
        yield name
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _names_within(f"{name}_{key}", item)
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from _names_within(f"{name}_{i}", item)


def _output_names(answer: Any, taken: Sequence[str]) -> tuple[str, ...]:
    n = len(flat_outputs(answer))
    if n == 1:
        return _unique(["output"], taken)
    pairs: list[tuple[Any, Any]] = []
    if isinstance(answer, Mapping):
        pairs = list(answer.items())
    elif hasattr(answer, "_fields"):  # a named tuple
        pairs = list(zip(answer._fields, answer, strict=True))
    elif dataclasses.is_dataclass(answer):
        pairs = [(field.name, getattr(answer, field.name)) for field in dataclasses.fields(answer)]
    named = [str(key) for key, item in pairs if isinstance(item, torch.Tensor)]
    if len(named) == n:
        return _unique(named, taken)
    return _unique((f"output_{i}" for i in range(n)), taken)


def _unique(names: Iterator[str] | Sequence[str], taken: Sequence[str] = ()) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        candidate, n = name, 1
        while candidate in found or candidate in taken:
            candidate, n = f"{name}_{n}", n + 1
        found.append(candidate)
    return tuple(found)


def _named_axes(given: DynamicAxes | None, names: Sequence[str]) -> Axes | None:
    if given is None:
        return None
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ConfigError(
            f"dynamic_axes names {', '.join(unknown)}; this model has {', '.join(names)}."
        )
    return _with_names(given)


def _with_names(given: DynamicAxes) -> Axes:
    """The same with a name for each size that was given by its axis alone."""
    return {
        name: {int(k): str(v) for k, v in by_axis.items()}
        if isinstance(by_axis, Mapping)
        else {int(k): BATCH if k == 0 else f"{name}_axis_{k}" for k in by_axis}
        for name, by_axis in given.items()
    }


def _batch_axes(example: Inputs, names: Sequence[str]) -> Axes:
    with_dimensions = [
        (name, tensor)
        for name, tensor in zip(names, tensors_of(example), strict=True)
        if tensor.ndim
    ]
    if len({tensor.shape[0] for _, tensor in with_dimensions}) > 1:
        sizes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in with_dimensions)
        raise InputError(
            f"The first dimension of every input must be the batch, but they differ: {sizes}. "
            'Say which sizes vary with dynamic_axes={"' + names[0] + '": {0: "batch_size"}}, or '
            "dynamic_axes={} for none."
        )
    return {name: {0: BATCH} for name, _ in with_dimensions}


def _sizes(example: Inputs, names: Sequence[str], axes: Axes) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, tensor in zip(names, tensors_of(example), strict=True):
        _check_axes(axes, [tensor], [name])
        for axis, symbol in axes.get(name, {}).items():
            size = int(tensor.shape[axis])
            if size < 1:
                raise InputError(f"{name} is empty: axis {axis} has size 0.")
            if sizes.setdefault(symbol, size) != size:
                raise ConfigError(
                    f"{symbol!r} is {sizes[symbol]} in one input and {size} in {name} (axis "
                    f"{axis}): sizes with one name are equal. Use another name."
                )
    return sizes


def _check_axes(axes: Axes, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        for axis in axes.get(name, {}):
            if not 0 <= axis < tensor.ndim:
                raise ConfigError(
                    f"dynamic_axes gives {name} an axis {axis}; it has {tensor.ndim} dimensions."
                )


def _resized(inputs: Inputs, names: Sequence[str], axes: Axes, sizes: Sizes) -> Inputs:
    remaining = iter(names)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        for axis, symbol in axes.get(next(remaining), {}).items():
            old = tensor.shape[axis]
            if sizes.get(symbol, old) != old:
                index = torch.arange(sizes[symbol], device=tensor.device) % old
                tensor = tensor.index_select(axis, index)
        return tensor

    return mapped(inputs, change)


def _grown_answer(model: nn.Module, example: Inputs, sizes: Sizes) -> Any:
    try:
        return answer_of(model, _copied(example))
    except Exception as error:
        raise ConfigError(_refusal(model, sizes, error)) from error


def _seen_to_vary(
    model: nn.Module,
    example: Inputs,
    answer: Any,
    *,
    inputs: Sequence[str],
    axes: Axes,
    sizes: Sizes,
) -> list[dict[int, str]]:
    """Names of the sizes of each output that change with an input's."""
    before = flat_outputs(answer)
    seen: list[dict[int, str]] = [{} for _ in before]
    for symbol, size in sizes.items():
        other, after = _at_another_size(
            model, example, symbol, size=size, inputs=inputs, axes=axes
        )
        for index, (old, new) in enumerate(zip(before, after, strict=False)):
            for axis, (a, b) in enumerate(zip(old.shape, new.shape, strict=False)):
                if a != b and axis not in seen[index]:
                    is_same = a == size and b == other
                    seen[index][axis] = symbol if is_same else f"{symbol}_{index}_{axis}"
    return seen


def _at_another_size(
    model: nn.Module,
    example: Inputs,
    symbol: str,
    *,
    size: int,
    inputs: Sequence[str],
    axes: Axes,
) -> tuple[int, list[torch.Tensor]]:
    problem: Exception | None = None
    # Of a batch any size must do. Another size may have an upper limit, or be even.
    candidates = (size + 1,) if symbol == BATCH else (size + 1, size - 1, 2 * size, size // 2)
    for other in candidates:
        if other < 1 or other == size:
            continue
        try:
            resized = _resized(example, inputs, axes, {symbol: other})
            return other, flat_outputs(answer_of(model, _copied(resized)))
        except Exception as error:  # noqa: BLE001 - a user's forward can raise anything
            problem = error
    raise ConfigError(_refusal(model, {symbol: candidates[0]}, problem))


def _refusal(model: nn.Module, sizes: Sizes, error: Exception | None) -> str:
    told = ", ".join(f"{name} {size}" for name, size in sizes.items())
    first = str(error).strip().splitlines()[:1]
    return (
        f"{type(model).__name__} itself does not run at {told} ({type(error).__name__}: "
        f"{''.join(first)}), so this size cannot vary. Say which sizes do, as "
        'dynamic_axes={"x": {0: "batch_size"}, "state_0": {1: "batch_size"}}; {} fixes every size.'
    )
