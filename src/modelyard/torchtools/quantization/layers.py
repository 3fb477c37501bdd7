"""The layers of a graph that recipes act on, and the modules they came from."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.quantization.shape_inference import quant_pre_process

from modelyard._core.errors import ConfigError
from modelyard.torchtools.quantization.files import through_files
from modelyard.torchtools.quantization.reshaping import with_plain_reshapes

# Operators with weights; every recipe acts on some of them.
WEIGHTED = (
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "LSTM",
    "GRU",
    "RNN",
    "Gather",
    "EmbedLayerNormalization",
)


_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Source:
    """A float graph to be quantized.

    Attributes:
        graph: The serialised model, its nodes named after the modules they came from.
    """

    graph: bytes

    @cached_property
    def prepared(self) -> bytes:
        """The graph as quantizers want it: shapes inferred, batch norms folded, reshapes plain."""

        def prepare(source: Path, target: Path) -> None:
            quant_pre_process(source, target, skip_symbolic_shape=True)

        return through_files(with_plain_reshapes(self.graph), prepare)

    @cached_property
    def layers(self) -> dict[str, str]:
        """Nodes that have weights: node name to the module it came from."""
        return quantizable_nodes(self.graph)

    @cached_property
    def operators(self) -> dict[str, str]:
        """Node name to the type of its operator."""
        nodes = onnx.load_from_string(self.graph).graph.node
        return {node.name: node.op_type for node in nodes}

    @cached_property
    def n_narrow(self) -> int:
        """How many weights are narrower than float32 already."""
        return n_narrow(self.graph)

    @cached_property
    def prepared_names(self) -> list[str]:
        """The names of all nodes once prepared."""
        return [node.name for node in onnx.load_from_string(self.prepared).graph.node]

    @cached_property
    def opset(self) -> int:
        """Opset of the standard domain."""
        imports = onnx.load_from_string(self.graph).opset_import
        found: int = max(entry.version for entry in imports if entry.domain in {"", "ai.onnx"})
        return found

    def names_now(self, names: frozenset[str]) -> list[str]:
        """Names that nodes of the float graph have when the quantizer looks at them.

        Preparing fuses `/x/MatMul` and its bias into `/x/MatMul/MatMulAddFusion`; the dynamic
        quantizer then splits every Gemm into a MatMul with `_MatMul` behind its name and an Add.
        """
        now = [
            name
            for name in self.prepared_names
            if name in names or any(name.startswith(f"{kept}/") for kept in names)
        ]
        return [*now, *(f"{name}_MatMul" for name in now)]

    def named(self, names: Sequence[str]) -> frozenset[str]:
        """The nodes of layers by name, by the beginning of it, or by a pattern.

        Raises:
            ConfigError: A name that no layer has.
        """
        found: set[str] = set()
        for name in names:
            under = {
                node
                for node, layer in self.layers.items()
                if f"{layer}.".startswith(f"{name}.") or fnmatch.fnmatchcase(layer, name)
            }
            if not under:
                known = ", ".join(sorted(set(self.layers.values()))) or "none"
                raise ConfigError(
                    f"No layer {name!r} to keep in float. Layers there are: {known}."
                )
            found |= under
        return frozenset(found)


def n_narrow(graph: bytes) -> int:
    """How many weights of a graph are stored in 8 bits or bfloat16."""
    weights = onnx.load_from_string(graph).graph.initializer
    return sum(value.data_type in _NARROW for value in weights)


def quantizable_nodes(graph: bytes) -> dict[str, str]:
    """Nodes with weights that recipes act on: node name to the module it came from."""
    model = onnx.load_from_string(graph)
    weights = {value.name for value in model.graph.initializer}
    return {
        node.name: module_of(node.name)
        for node in model.graph.node
        if node.op_type in WEIGHTED and (node.op_type != "Gather" or node.input[0] in weights)
    }


def module_of(node_name: str) -> str:
    """Module name from a node's name: `/net/net.0/Gemm` gives `net.0`."""
    parts: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return ".".join(parts)


def has_convolution(graph: bytes) -> bool:
    """Whether the graph convolves: dynamic int8 makes that several times slower than float."""
    return any("Conv" in node.op_type for node in onnx.load_from_string(graph).graph.node)


def is_portable(graph: bytes) -> bool:
    """Whether only operators of the standard domain are used."""
    nodes = onnx.load_from_string(graph).graph.node
    return all(node.domain in {"", "ai.onnx"} for node in nodes)
