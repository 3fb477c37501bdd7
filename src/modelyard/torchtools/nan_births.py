"""Whether a graph can make NaN of finite numbers, from its operators and the signs of its values.

A root of what may be negative can, a quotient by what may be zero can. A sum, a product and a ReLU
cannot, nor can the root in a layer normalisation: a mean of squares with something added.

Overflow is left out: sizes are compared otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Sign(IntEnum):
    """What is known of all values of a tensor; of two, the lesser holds for both."""

    ANY = 0
    NON_NEGATIVE = 1
    POSITIVE = 2


def can_make_nan(graph: bytes) -> bool:
    """Whether finite inputs may become NaN on the way; True also where that is not known.

    Args:
        graph: The serialised ONNX model.
    """
    model = onnx.load_from_string(graph)
    if model.functions:
        return True
    return not _Graph.of(model).is_proved()


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """A graph's nodes and constants, and what has been found out about its values.

    Attributes:
        nodes: In the order in which they run.
        constants: Those that stand in the graph, by name.
        signs: Of the values that depend on the inputs' values, by name. What is not here depends
            on shapes at most: it is the same in each call, so that comparing one call is enough.
    """

    nodes: Sequence[Any]
    constants: dict[str, np.ndarray[Any, Any]]
    signs: dict[str, Sign]

    @classmethod
    def of(cls, model: Any) -> "_Graph":
        initializers = model.graph.initializer
        constants = {one.name: numpy_helper.to_array(one) for one in initializers}
        return cls(
            nodes=model.graph.node,
            constants=constants,
            signs={one.name: Sign.ANY for one in model.graph.input if one.name not in constants},
        )

    def is_proved(self) -> bool:
        """Whether every node gives numbers for numbers."""
        if not all(map(_is_finite, self.constants.values())):
            return False
        return all(map(self._is_node_proved, self.nodes))

    def sign_of(self, name: str) -> Sign:
        """What is known of a value."""
        if name in self.signs:
            return self.signs[name]
        constant = self.constants.get(name)
        if constant is None or not constant.size or constant.dtype.kind not in "iuf":
            return Sign.ANY
        least = constant.min()
        return Sign.POSITIVE if least > 0 else Sign.NON_NEGATIVE if least >= 0 else Sign.ANY

    def varies(self, name: str) -> bool:
        """Whether a value depends on the inputs' values."""
        return name in self.signs

    def _is_node_proved(self, node: Any) -> bool:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        is_known = node.domain in _DOMAINS or (node.domain, node.op_type) in _OF_ONNX_RUNTIME
        if not is_known or node.op_type in _RANDOM:
            return False
        arrays = {name: _array_of(value) for name, value in attributes.items()}
        if not all(map(_is_finite, arrays.values())):
            return False
        if not any(map(self.varies, node.input)) or node.op_type in _OF_SHAPES:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = next(iter(arrays.values()))
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            return not any(isinstance(value, onnx.GraphProto) for value in attributes.values())
        found = _sign_of_outputs(self, node, attributes)
        if found is None:
            return False
        self.signs.update({name: found for name in node.output if name})
        return True


def _sign_of_outputs(graph: _Graph, node: Any, attributes: Mapping[str, Any]) -> Sign | None:
    """What is known of a node's outputs; None where one may be NaN."""
    kind = node.op_type
    if kind in _RULES:
        return _RULES[kind](graph, list(node.input))
    if kind in _NORMALISING:
        return Sign.ANY if attributes.get("epsilon", 1e-5) > 0 else None
    if kind in _NON_NEGATIVE:
        return Sign.NON_NEGATIVE
    if kind in _KEEPING:
        return graph.sign_of(node.input[0])
    is_plain = kind in _PLAIN or (node.domain, kind) in _OF_ONNX_RUNTIME
    return Sign.ANY if is_plain else None


def _sum(graph: _Graph, inputs: Sequence[str]) -> Sign:
    signs = [graph.sign_of(name) for name in inputs]
    return max(signs) if min(signs) > Sign.ANY else Sign.ANY


def _product(graph: _Graph, inputs: Sequence[str]) -> Sign:
    if len(set(inputs)) == 1:
        return Sign.NON_NEGATIVE
    # Never positive: of two small numbers it may be zero.
    return min(Sign.NON_NEGATIVE, *(graph.sign_of(name) for name in inputs))


def _quotient(graph: _Graph, inputs: Sequence[str]) -> Sign | None:
    upper, lower = inputs
    sign, constant = graph.sign_of(lower), graph.constants.get(lower)
    if sign is not Sign.POSITIVE and (constant is None or not constant.all()):
        return None
    return min(Sign.NON_NEGATIVE, sign, graph.sign_of(upper))


def _power(graph: _Graph, inputs: Sequence[str]) -> Sign | None:
    base, exponent = inputs
    constant = graph.constants.get(exponent)
    if graph.varies(exponent) or constant is None or constant.size != 1:
        return None
    power = float(constant.reshape(-1)[0])
    if power == 0.5:  # noqa: PLR2004 - the root
        return _root(graph, [base])
    if power < 0:
        return Sign.POSITIVE if graph.sign_of(base) is Sign.POSITIVE else None
    if not power.is_integer():
        return Sign.NON_NEGATIVE if graph.sign_of(base) else None
    if power % 2 == 0:
        return Sign.NON_NEGATIVE
    return min(Sign.NON_NEGATIVE, graph.sign_of(base))


def _root(graph: _Graph, inputs: Sequence[str]) -> Sign | None:
    sign = graph.sign_of(inputs[0])
    return sign if sign >= Sign.NON_NEGATIVE else None


def _reciprocal(graph: _Graph, inputs: Sequence[str]) -> Sign | None:
    return Sign.POSITIVE if graph.sign_of(inputs[0]) is Sign.POSITIVE else None


def _logarithm(graph: _Graph, inputs: Sequence[str]) -> Sign | None:
    return Sign.ANY if graph.sign_of(inputs[0]) is Sign.POSITIVE else None


def _least(graph: _Graph, inputs: Sequence[str]) -> Sign:
    return min(graph.sign_of(name) for name in inputs)


def _greatest(graph: _Graph, inputs: Sequence[str]) -> Sign:
    return max(graph.sign_of(name) for name in inputs)


def _clipped(graph: _Graph, inputs: Sequence[str]) -> Sign:
    bounds = [graph.sign_of(name) for name in inputs[1:] if name]
    is_lower_given = len(inputs) > 1 and inputs[1]
    return min(bounds) if is_lower_given else Sign.ANY


def _array_of(attribute: Any) -> np.ndarray[Any, Any]:
    """An attribute's value; of what is no number, an empty array."""
    if isinstance(attribute, onnx.TensorProto):
        return numpy_helper.to_array(attribute)
    found = np.asarray(attribute)
    return found if found.dtype.kind in "iuf" else np.empty(0)


def _is_finite(values: np.ndarray[Any, Any]) -> bool:
    if values.dtype.kind in "iubOSU":
        return True
    known = values if values.dtype.kind in "fc" else values.astype(np.float32)  # bfloat16 and less
    return bool(np.isfinite(known).all())


_Rule = Callable[[_Graph, Sequence[str]], "Sign | None"]
_RULES: dict[str, _Rule] = {
    "Add": _sum,
    "Sum": _sum,
    "Mul": _product,
    "Div": _quotient,
    "Pow": _power,
    "Sqrt": _root,
    "Reciprocal": _reciprocal,
    "Log": _logarithm,
    "Concat": _least,
    "Min": _least,
    "Max": _greatest,
    "Clip": _clipped,
}
_DOMAINS = frozenset({"", "ai.onnx"})
# Products with weights of few bits.
_OF_ONNX_RUNTIME = frozenset(
    {("com.microsoft", "MatMulNBits"), ("com.microsoft", "DynamicQuantizeLSTM")}
)
_OF_SHAPES = frozenset({"Shape", "Size"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
    | {"Bernoulli", "Multinomial"}
)
_NORMALISING = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization"}
    | {"LayerNormalization", "RMSNormalization"}
)
# Of their first input's sign, whatever else they take.
_KEEPING = frozenset(
    {"Expand", "Flatten", "Gather", "GatherElements", "GatherND", "GlobalAveragePool"}
    | {"GlobalMaxPool", "Identity", "MaxPool", "ReduceMax", "ReduceMean", "ReduceMin"}
    | {"ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_NON_NEGATIVE = frozenset(
    {"Abs", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid"}
    | {"Softmax", "Softplus"}
)
_PLAIN = frozenset(
    {"And", "ArgMax", "ArgMin", "AveragePool", "Cast", "Ceil", "Celu", "Conv"}
    | {"ConvInteger", "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "DequantizeLinear"}
    | {"Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf", "Floor", "GRU"}
    | {"Gelu", "Gemm", "Greater", "GreaterOrEqual"}
    | {"HardSwish", "IsInf", "IsNaN", "LSTM", "LeakyRelu", "Less", "LessOrEqual", "LogSoftmax"}
    | {"MatMul", "MatMulInteger", "Mish", "Neg", "Not", "OneHot", "Or"}
    | {"PRelu", "Pad", "QuantizeLinear", "RNN", "Resize", "Round", "ScatterElements"}
    | {"ScatterND", "Selu", "Sign", "Sin", "Softsign", "SpaceToDepth", "Sub", "Swish", "Tanh"}
    | {"ThresholdedRelu", "TopK", "Trilu", "Where", "Xor"}
)
