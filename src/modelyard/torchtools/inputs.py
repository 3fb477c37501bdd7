"""Inputs of a model: how an example is found, given another batch size, and imitated.

An input is what the model's `forward` takes: one tensor, a tuple (positional) or a dict (by
argument name) of tensors. The first dimension of every tensor is the batch. Where nesting is
allowed, an argument may itself be a tuple, list or dict, None, or a plain constant.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard._core.errors import ExampleInputRequiredError, InputError
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.parity import map_tensors

Inputs = torch.Tensor | tuple[Any, ...] | dict[str, Any]

_SEQUENCE_LENGTHS = (16, 64)
_IMAGE_SIZES = (32, 28, 64)


def as_inputs(value: Any) -> Inputs:
    """`value` as an input: arrays become tensors, lists of arrays tuples, lists of numbers arrays.

    Raises:
        InputError: It holds something that is neither tensor nor array.
    """
    if isinstance(value, Mapping):
        return {str(name): _as_tensor(item) for name, item in value.items()}
    if isinstance(value, tuple | list) and value and all(map(_is_array, value)):
        return tuple(_as_tensor(item) for item in value)
    return _as_tensor(value)


def as_nested_inputs(value: Any) -> Inputs:
    """`value` as an input whose arguments may be nested, None or constants.

    Raises:
        InputError: It holds no tensor, or something that is none of these.
    """
    if isinstance(value, Mapping):
        inputs: Inputs = {str(name): _as_argument(item, str(name)) for name, item in value.items()}
    elif isinstance(value, tuple) or (isinstance(value, list) and not _is_numbers(value)):
        inputs = tuple(_as_argument(item, f"argument {i}") for i, item in enumerate(value))
    else:
        inputs = _as_tensor(value)
    if not tensors_of(inputs):
        raise InputError(f"An input needs at least one tensor or array, got {value!r}.")
    return inputs


def _as_argument(value: Any, name: str) -> Any:
    if _is_array(value):
        return _as_tensor(value)
    if isinstance(value, Mapping):
        return {key: _as_argument(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(_as_argument(item, f"{name}") for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_as_argument(item, f"{name}[{i}]") for i, item in enumerate(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(
        f"{name} is a {type(value).__name__}: pass tensors, arrays, numbers, texts or None, or "
        "tuples, lists and dicts of them."
    )


def _is_numbers(value: Sequence[Any]) -> bool:
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, bool | int | float)


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """The model's answer, without gradients, as fast as it can be had.

    What the model keeps of the call (a cached mask) cannot be trained with afterwards; where the
    model goes back to its owner use `answer_of`.
    """
    with torch.inference_mode():
        return _called(model, inputs)


def answer_of(model: Callable[..., Any], inputs: Inputs) -> Any:
    """The model's answer, without gradients; whatever it keeps of it stays an ordinary tensor."""
    with torch.no_grad():
        return _called(model, inputs)


def _called(model: Callable[..., Any], inputs: Inputs) -> Any:
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)


def tensors_of(inputs: Any) -> list[torch.Tensor]:
    """The tensors of an input, however nested, in order."""
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    if isinstance(inputs, dict):
        return [tensor for item in inputs.values() for tensor in tensors_of(item)]
    if isinstance(inputs, tuple | list):
        return [tensor for item in inputs for tensor in tensors_of(item)]
    return []


def mapped(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The same structure with `change` applied to each tensor."""
    changed: Inputs = map_tensors(inputs, change)
    return changed


def batch_size(inputs: Inputs) -> int:
    """Size of the first dimension.

    Raises:
        InputError: A tensor without dimensions, or tensors that disagree.
    """
    sizes = {int(tensor.shape[0]) if tensor.ndim else -1 for tensor in tensors_of(inputs)}
    if len(sizes) != 1 or -1 in sizes:
        raise InputError(
            f"The first dimension of every input must be the batch; got shapes "
            f"{[tuple(tensor.shape) for tensor in tensors_of(inputs)]}."
        )
    return sizes.pop()


def with_batch(inputs: Inputs, n: int) -> Inputs:
    """The input cut or repeated to a batch of `n`."""
    return mapped(inputs, lambda tensor: tensor[torch.arange(n) % tensor.shape[0]])


def synthetic_like(inputs: Inputs, n: int, *, seed: int = 0, scale: float = 1.0) -> Inputs:
    """A batch of `n` made-up samples with the shapes and dtypes of `inputs`.

    Floats are standard normal times `scale`; integers are drawn from those of the example, so
    that they stay valid indices; booleans are fair coins.
    """
    generator = torch.Generator().manual_seed(seed)

    def imitate(tensor: torch.Tensor) -> torch.Tensor:
        shape = (n, *tensor.shape[1:])
        if tensor.dtype == torch.bool:
            return torch.randint(0, 2, shape, generator=generator, dtype=torch.bool)
        if not tensor.is_floating_point():
            values = tensor.reshape(-1)
            return values[torch.randint(0, values.numel(), shape, generator=generator)]
        normal = torch.randn(shape, generator=generator) * scale
        return normal.to(tensor.dtype)

    return mapped(inputs, imitate)


def resolve_example(
    model: nn.Module, given: Any = None, *, shape: Any = None, is_nested_allowed: bool = False
) -> Inputs:
    """An input the model is known to run on.

    Args:
        model: The module.
        given: What the caller passed, if anything.
        shape: Instead of it, the shape of one tensor, batch first: of the model's own
            floating-point type, or of whole numbers if it runs on those only.
        is_nested_allowed: Whether `given` may hold nested arguments, None and constants.

    Returns:
        `given`, or normal values (zeros and ones of whole numbers) of `shape`, or an input
        inferred from the first Linear, Conv, recurrent or Embedding layer, or from what a graph
        declares, and proved by a forward pass.

    Raises:
        ExampleInputRequiredError: Nothing was given and nothing inferred runs.
        InputError: What was given does not run; the message holds the model's own error.
    """
    if given is not None or shape is not None:
        convert = as_nested_inputs if is_nested_allowed else as_inputs
        inputs = convert(given) if given is not None else _of_shape(model, tuple(shape))
        problem = _problem(model, inputs)
        if problem is not None:
            hint = _hint(model, inputs, problem)
            raise InputError(
                f"{type(model).__name__} does not run on an input of shape "
                f"{[tuple(tensor.shape) for tensor in tensors_of(inputs)]}: {problem}{hint}"
            )
        return inputs
    for candidate in _candidates(model):
        if _problem(model, candidate) is None:
            return candidate
    raise ExampleInputRequiredError(
        f"No input could be inferred for {type(model).__name__}: pass example_input=, "
        "a tensor (or tuple or dict of tensors) with the batch first."
    )


def _hint(model: nn.Module, inputs: Inputs, problem: str) -> str:
    """What is likely wrong with an input that does not run; empty where nothing is known."""
    if isinstance(inputs, dict) and "keyword argument" in problem:
        return " A dict holds arguments by name; one argument that is a dict is ({...},)."
    weights = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    given = {tensor.dtype for tensor in tensors_of(inputs) if tensor.is_floating_point()}
    if len(weights) == 1 and given and not given <= weights and "type" in problem:
        return f" The input is {given.pop()}, the model {weights.pop()}."
    return ""


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _as_tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(
            "An input is a masked array, and a tensor has no mask: say what the masked values "
            "are, as x.filled(0.0) does, or give the mask as an argument of its own."
        )
    try:
        if isinstance(value, list | tuple | float):  # in torch's own default type
            return torch.as_tensor(value)
        return torch.from_numpy(owned_array(np.asarray(value)))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"An input must be a tensor or array, got {type(value).__name__}: {error}"
        ) from error


def owned_array(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as torch can hold it: in the machine's byte order, writable, no step back."""
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    is_plain = array.flags.writeable and min(array.strides, default=0) >= 0
    return array if is_plain else array.copy()


def takes_whole(model: nn.Module, data: Any) -> bool:
    """Whether a tuple of arrays is the model's arguments in order, and not inputs and targets."""
    if not isinstance(data, tuple) or len(data) < 2 or not all(map(_is_array, data)):  # noqa: PLR2004 - a pair
        return False
    return _problem(model, mapped(as_inputs(data), lambda tensor: tensor[:2])) is None


def answer_to(model: nn.Module, inputs: Inputs) -> Any:
    """The model's answer in eval mode, or None where it does not run on `inputs`.

    Leaves mode and random state alone.
    """
    answer, _ = _tried(model, inputs)
    return answer


def _problem(model: nn.Module, inputs: Inputs) -> str | None:
    """Why the model does not run on `inputs`, or None. Leaves mode and random state alone."""
    _, problem = _tried(model, inputs)
    return problem


def _tried(model: nn.Module, inputs: Inputs) -> tuple[Any, str | None]:
    state = torch.get_rng_state()
    try:
        with evaluating(model):
            return answer_of(model, copied_for(model, inputs)), None
    except Exception as error:  # noqa: BLE001 - a user's forward can raise anything
        return None, f"{type(error).__name__}: {error}"
    finally:
        torch.set_rng_state(state)


def copied_for(model: nn.Module, inputs: Inputs) -> Inputs:
    """A copy on the model's device: a forward may write into its input."""
    device = device_of(model)
    return mapped(inputs, lambda tensor: tensor.clone().to(device))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _normal(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _of_shape(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Values of this shape in the type that the model runs on; normal floats if on none."""
    own = (t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
    normal = _normal(shape)
    dtypes = dict.fromkeys([next(own, torch.float32), torch.float32, torch.float64])
    tried = [*(normal.to(dtype) for dtype in dtypes), (normal > 0).long(), (normal > 0).int()]
    return next((one for one in tried if _problem(model, one) is None), tried[0])


def _declared(model: nn.Module) -> list[Inputs]:
    """Inputs as a graph declares them; a size that it leaves open is 2."""
    declared = getattr(model, "declared_inputs", None)
    if not declared:
        return []
    made = []
    for dtype, sizes in declared:
        normal = _normal(tuple(size or 2 for size in sizes))
        is_float = dtype.is_floating_point
        made.append(normal.to(dtype) if is_float else (normal > 0).to(dtype))
    return [made[0] if len(made) == 1 else tuple(made)]


def _candidates(model: nn.Module) -> list[Inputs]:
    """Inputs worth trying, likeliest first. A batch of 2: a batch of 1 hides mistakes."""
    if declared := _declared(model):
        return declared
    layers = list(model.modules())
    is_sequential = any(
        isinstance(layer, nn.RNNBase | nn.MultiheadAttention | nn.Transformer) for layer in layers
    )
    for layer in layers:
        if isinstance(layer, nn.Embedding):
            ids = torch.arange(2 * 16).reshape(2, 16) % layer.num_embeddings
            return [ids, ids[:, 0]]
        shapes = _shapes_for(layer, is_sequential=is_sequential)
        if shapes:
            dtype = next((p.dtype for p in layer.parameters() if p.is_floating_point()), None)
            return [_normal(shape).to(dtype or torch.float32) for shape in shapes]
    return []


def _shapes_for(layer: nn.Module, *, is_sequential: bool) -> list[tuple[int, ...]]:
    if isinstance(layer, nn.RNNBase):
        return [(2, length, layer.input_size) for length in _SEQUENCE_LENGTHS]
    if isinstance(layer, nn.Conv1d):
        lengths = (64, 256, 16)
        first = [(2, layer.in_channels, length) for length in lengths]
        return [*first, *((2, length, layer.in_channels) for length in lengths)]
    if isinstance(layer, nn.Conv2d):
        return [(2, layer.in_channels, size, size) for size in _IMAGE_SIZES]
    if isinstance(layer, nn.Conv3d):
        return [(2, layer.in_channels, 16, 16, 16)]
    if isinstance(layer, nn.Linear):
        flat: list[tuple[int, ...]] = [(2, layer.in_features)]
        sequences = [(2, length, layer.in_features) for length in _SEQUENCE_LENGTHS]
        return [*sequences, *flat] if is_sequential else [*flat, *sequences]
    return []
