"""What a model takes and gives: names, shapes and dtypes, and whether an input fits them.

A signature is a plain dict: `{"inputs": [{"name", "shape", "dtype"}, ...], "outputs": [...]}`. A
size of None stands for any: the batch, and whatever the model was seen to take in another size.
"""

import copy
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard._core.plain import to_plain
from modelyard.torchtools.inputs import Inputs, answer_to, as_inputs, mapped, with_batch

Signature = Mapping[str, Any]

_logger = logging.getLogger("modelyard")
_lock = threading.Lock()  # guards _noted
_noted: weakref.WeakKeyDictionary[nn.Module, Signature] = weakref.WeakKeyDictionary()


def note_signature(model: nn.Module, signature: Signature | None) -> None:
    """Remember what `model` takes, for whoever is handed it next."""
    if signature is not None:
        with _lock:
            _noted[model] = signature


def noted_signature(model: nn.Module) -> Signature | None:
    """The signature `model` was loaded with, or None."""
    with _lock:
        return _noted.get(model)


def signature_of(
    model: nn.Module, given: Mapping[str, Any] | None, example_input: Any
) -> dict[str, Any] | None:
    """The signature to store with a model.

    Args:
        model: The module; a copy of it is run on the example and on other sizes, to see what it
            gives and takes.
        given: What the caller says; taken as it is.
        example_input: An input the model runs on, batch first, or None.

    Returns:
        `given`, or what the example shows, or what the model was loaded with, or None; None with
        a warning where the model does not run on the example.

    Raises:
        ConfigError: `given` has another form.
    """
    if given is not None:
        return checked_signature(given)
    if example_input is None:
        noted = noted_signature(model)
        return None if noted is None else dict(noted)
    inputs = as_inputs(example_input)
    model = _probe_of(model)
    answer = answer_to(model, inputs)
    if answer is None:
        _logger.warning(
            "%s does not run on the example input, so the version gets no signature. Look at "
            "example_input before somebody relies on it.",
            type(model).__name__,
        )
        return None
    signature = {
        "inputs": [
            {**_described(name, tensor), "shape": _sizes(model, inputs, index)}
            for index, (name, tensor) in enumerate(_named(inputs, "input") or ())
        ]
    }
    outputs = _named(answer, "output")
    if outputs is not None:
        signature["outputs"] = [
            {**_described(name, tensor), "shape": [None, *tensor.shape[1:]]}
            for name, tensor in outputs
        ]
    return signature


def checked_signature(given: Any) -> dict[str, Any]:
    """`given` as a plain signature.

    Raises:
        ConfigError: It has another form.
    """
    plain = to_plain(dict(given), where="signature") if isinstance(given, Mapping) else {}
    lists = [plain.get("inputs"), plain.get("outputs", [])]
    if not all(
        isinstance(items, list) and all(_is_description(item) for item in items) for items in lists
    ):
        raise ConfigError(
            'signature must be {"inputs": [{"name": "x", "shape": [None, 4], "dtype": '
            f'"float32"}}], "outputs": [...]}}, with None for any size; got {given!r}.'
        )
    return plain


def check_input(signature: Signature, inputs: Inputs) -> None:
    """Refuse an input that does not fit.

    Raises:
        InputError: Another number of tensors, another name, size or kind of number; says what
            was expected and what came.
    """
    wanted = signature["inputs"]
    tensors = _ordered(wanted, inputs)
    if tensors is None or len(tensors) != len(wanted):
        raise InputError(f"{_expected(wanted)}, got {_told(inputs)}.")
    for want, tensor in zip(wanted, tensors, strict=True):
        shape = want["shape"]
        fits = len(shape) == tensor.ndim and all(
            size is None or size == found for size, found in zip(shape, tensor.shape, strict=True)
        )
        if not fits or _kind(want["dtype"]) != _kind(_dtype(tensor)):
            raise InputError(f"{_expected(wanted)}, got {_told(inputs)}.")


def _ordered(wanted: Sequence[Any], inputs: Inputs) -> list[torch.Tensor] | None:
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    if not isinstance(inputs, dict):
        return list(inputs)
    names = [want["name"] for want in wanted]
    return [inputs[name] for name in names] if inputs.keys() == set(names) else None


def _expected(wanted: Sequence[Any]) -> str:
    listed = ", ".join(
        f"{want['name']} {tuple('any' if s is None else s for s in want['shape'])} {want['dtype']}"
        for want in wanted
    )
    return f"The model's signature expects {listed}".replace("'any'", "any")


def _told(inputs: Inputs) -> str:
    named = _named(inputs, "input") or []
    return ", ".join(f"{name} {tuple(t.shape)} {_dtype(t)}" for name, t in named) or "nothing"


def _named(value: Any, name: str) -> list[tuple[str, torch.Tensor]] | None:
    """Tensors of an input or answer by name; None if it is nested deeper than that."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        pairs = [(f"{name}_{i}", item) for i, item in enumerate(value)]
    else:
        return None
    return pairs if all(isinstance(item, torch.Tensor) for _, item in pairs) else None


def _described(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    return {"name": name, "shape": list(tensor.shape), "dtype": _dtype(tensor)}


def _probe_of(model: nn.Module) -> nn.Module:
    """A copy to run: a forward may count its calls in a buffer, and a save changes nothing."""
    try:
        return copy.deepcopy(model)
    except Exception:  # noqa: BLE001 - whatever a class's own copying raises
        return model


def _sizes(model: nn.Module, inputs: Inputs, index: int) -> list[int | None]:
    """Sizes of the tensor at `index`: None for the batch, and where another size runs too."""
    tensor = _at(inputs, index)
    one = with_batch(inputs, 1) if tensor.ndim else inputs
    sizes: list[int | None] = [None] if tensor.ndim else []
    for axis in range(1, tensor.ndim):
        others = (tensor.shape[axis] + 1, tensor.shape[axis] - 1)
        runs = any(
            answer_to(model, _resized(one, index, axis, size)) is not None
            for size in others
            if size > 0
        )
        sizes.append(None if runs else int(tensor.shape[axis]))
    return sizes


def _at(inputs: Inputs, index: int) -> torch.Tensor:
    if isinstance(inputs, torch.Tensor):
        return inputs
    tensor: torch.Tensor = list(inputs.values() if isinstance(inputs, dict) else inputs)[index]
    return tensor


def _resized(inputs: Inputs, index: int, axis: int, size: int) -> Inputs:
    """The input with one axis of one tensor cut, or repeated from the start, to `size`."""
    target = _at(inputs, index)

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor is not target:
            return tensor
        return tensor.index_select(
            axis, torch.arange(size, device=tensor.device) % tensor.shape[axis]
        )

    return mapped(inputs, change)


def _is_description(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("dtype"), str)
        and isinstance(item.get("shape"), list)
        and all(size is None or isinstance(size, int) for size in item["shape"])
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(dtype: str) -> str:
    """float, int, bool or complex: precision is the model's to convert."""
    name = dtype.removeprefix("u").rstrip("0123456789")
    return name if name in {"int", "bool", "complex"} else "float"
