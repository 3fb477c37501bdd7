"""NaN and infinity in the inputs of int8 graphs, which have no step for them.

Quantizing an activation makes a plausible finite number of NaN, and under ranges that are taken as
activations come, one infinity makes NaN of the whole batch. So samples that hold such values are
computed as zeros, and NaN is put in their place in the answers. It costs something only where
there are any; to find out that there are none takes a microsecond.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from modelyard.torchtools.by_sample import noted_by_sample

Array = np.ndarray[Any, Any]

_INT8_RECIPES = ("dynamic_int8", "static_int8", "block_")
# What makes steps of a number. Products in blocks quantize what they take themselves.
_STEPS = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM", "MatMulNBits")
# What makes a finite number of infinity: masks of -inf, and features that are clipped.
_BOUNDING = ("Softmax", "LogSoftmax", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Exp", "Erf")
# Graphs that look for such values themselves know what to do about them.
_LOOKING = ("IsNaN", "IsInf")


def is_blind(recipe: str) -> bool:
    """Whether graphs made by a recipe may answer NaN with a plausible number."""
    return recipe.startswith(_INT8_RECIPES)


def are_finite(arrays: Iterable[Array]) -> bool:
    """Whether every number is finite."""
    return all(array.dtype.kind != "f" or _is_finite(array) for array in arrays)


def _is_finite(array: Array) -> bool:
    # Silent and fast, unlike `dot` and `isfinite`. That of large numbers overflows: look closer.
    sum_of_squares = np.vdot(array, array)
    return math.isfinite(sum_of_squares) or bool(np.isfinite(array).all())


@dataclass(frozen=True)
class Swallowed:
    """Inputs of a graph whose values reach a step of 8 bits as they are.

    Attributes:
        nan: Names of those that bring NaN there.
        infinity: Of those that bring infinity.
        by_sample: Names of the outputs that are about one sample each.
    """

    nan: frozenset[str]
    infinity: frozenset[str]
    by_sample: frozenset[str]

    @classmethod
    def by(cls, graph: bytes) -> "Swallowed":
        """What a serialised graph swallows; nothing where it looks for such values itself."""
        model = onnx.load_from_string(graph)
        if any(node.op_type in _LOOKING for node in model.graph.node):
            return cls(frozenset(), frozenset(), frozenset())
        return cls(
            nan=_reaching_steps(model, ()),
            infinity=_reaching_steps(model, _BOUNDING),
            by_sample=noted_by_sample(model),
        )


def _reaching_steps(model: onnx.ModelProto, stops: tuple[str, ...]) -> frozenset[str]:
    """The inputs from which a way to a step leads past no operator of these."""
    reaching: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in _STEPS or (
            node.op_type not in stops and not reaching.isdisjoint(node.output)
        ):
            reaching.update(node.input)
    return frozenset(reaching & {value.name for value in model.graph.input})


def without_swallowed(
    feed: Mapping[str, Array], swallowed: Swallowed
) -> tuple[dict[str, Array], Array]:
    """The feed with zeros for samples that hold what is swallowed, and which samples those are.

    Args:
        feed: Arrays by the names of inputs.
        swallowed: Of the graph.

    Returns:
        The feed, and a boolean per sample; of one element where the inputs do not agree on what
        the batch is: then it is about all.
    """
    sizes = {array.shape[0] if array.ndim else -1 for array in feed.values()}
    n = sizes.pop() if len(sizes) == 1 else -1
    is_spoiled = np.zeros(max(n, 1), dtype=bool)
    for name, array in feed.items():
        if array.dtype.kind == "f":
            is_bad = (np.isnan(array) & (name in swallowed.nan)) | (
                np.isinf(array) & (name in swallowed.infinity)
            )
            is_spoiled |= is_bad.reshape(n, -1).any(axis=1) if n > 0 else is_bad.any()
    if not bool(is_spoiled.any()):
        return dict(feed), is_spoiled
    places = is_spoiled if n > 0 else ...
    cleaned = {
        name: _zeroed(array, places) if array.dtype.kind == "f" else array
        for name, array in feed.items()
    }
    return cleaned, is_spoiled


def _zeroed(array: Array, places: Any) -> Array:
    copy = array.copy()
    copy[places] = 0.0
    return copy


def spoil_(outputs: Mapping[str, Array], is_spoiled: Array, by_sample: frozenset[str]) -> None:
    """Put NaN, in place, where answers belong to spoiled samples.

    An output that is not about one sample each is NaN throughout. Whole numbers cannot say it:
    labels stay what they are for zeros.

    Args:
        outputs: By name.
        is_spoiled: A boolean per sample.
        by_sample: Names of the outputs that are about one sample each.
    """
    if not bool(is_spoiled.any()):
        return
    for name, output in outputs.items():
        if output.dtype.kind == "f":
            is_one_each = name in by_sample and output.shape[:1] == is_spoiled.shape
            output[is_spoiled if is_one_each else ...] = math.nan
