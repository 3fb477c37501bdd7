"""`OnnxModule`: an ONNX graph that is called, saved, exported and served like any module."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.empty_batches import answers_to_none, is_empty
from modelyard.torchtools.graph_sessions import onnxruntime_session
from modelyard.torchtools.inputs import tensors_of
from modelyard.torchtools.non_finite import (
    Swallowed,
    are_finite,
    is_blind,
    spoil_,
    without_swallowed,
)
from modelyard.torchtools.parity import from_tree

# ONNX Runtime's names of tensor types, as PyTorch dtypes.
_CPU = torch.device("cpu")
_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}


# Below this a second thread gains nothing, and on a busy machine waiting for it costs ten times
# what the work does.
SMALL_GRAPH_BYTES = 4_000_000


class OnnxModule(nn.Module):
    """Runs an ONNX graph through ONNX Runtime.

    The graph's bytes are a buffer, so the module's state dict is all there is of it: it is saved
    and loaded without pickle. The session is made at the first call. Calls are thread-safe.
    It has no parameters and gives no gradients; fine-tune the float module it came from.

    Args:
        graph: A serialised ONNX model.
        recipe: How the graph was made.
        output_tree: Nesting of the outputs as `parity.tree_of` describes it; None for one tensor
            or a flat tuple.

    Attributes:
        recipe: How the graph was made: "float", "dynamic_int8", ...

    Shape:
        As the graph's inputs; the first dimension is the batch.
    """

    graph: torch.Tensor
    # Of the class too: modules stored before there was one have none of their own.
    _swallowed: Swallowed | None = None

    def __init__(self, graph: bytes, *, recipe: str = "float", output_tree: Any = None) -> None:
        super().__init__()
        # bytearray: a tensor over read-only bytes would warn.
        self.register_buffer("graph", torch.frombuffer(bytearray(graph), dtype=torch.uint8))
        self.recipe = recipe
        self.output_tree = output_tree
        self._session: Any = None
        self._takes: list[tuple[str, torch.dtype | None]] | None = None
        self._swallowed = None

    @property
    def graph_bytes(self) -> bytes:
        """The serialised ONNX model."""
        return self.graph.cpu().numpy().tobytes()

    @property
    def declared_inputs(self) -> list[tuple[torch.dtype, tuple[int | None, ...]]]:
        """Dtype and shape of each input, None for a size that is open; empty if one has no dtype.

        Those of the graph, in its order.
        """
        inputs = self.session.get_inputs()
        if any(value.type not in _DTYPES for value in inputs):
            return []
        return [(_DTYPES[value.type], tuple(map(_size, value.shape))) for value in inputs]

    @property
    def float_dtype(self) -> torch.dtype | None:
        """Of the first input that holds floats; None where none does."""
        dtypes = (dtype for dtype, _ in self.declared_inputs)
        return next((dtype for dtype in dtypes if dtype.is_floating_point), None)

    @property
    def session(self) -> Any:
        """The ONNX Runtime session."""
        if self._session is None:
            session = make_session(self.graph_bytes)
            takes = [(value.name, _DTYPES.get(value.type)) for value in session.get_inputs()]
            self._takes = takes
            self._session = session
        return self._session

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The graph's output; several in the nesting of the module it was made from.

        They are where the first input is, wherever the graph runs. To samples that hold NaN or
        infinity, which int8 would make numbers of, the answer is NaN; of outputs that are not by
        sample, throughout. Answers to no samples at all are empty.

        Raises:
            InputError: Wrong number, shape or dtype; the message says what the graph takes.
        """
        session = self.session
        feed, device = self._plain_feed(args, kwargs), _CPU
        if feed is None:
            device = next((t.device for t in tensors_of([*args, *kwargs.values()])), _CPU)
            names = [value.name for value in session.get_inputs()]
            feed = _feed(session, dict(zip(names, args, strict=False)) | kwargs, n_given=len(args))
        try:
            arrays = self._arrays(session, feed)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InputError(f"{_expected(session)} {error}") from error
        outputs = [torch.from_numpy(value) for value in arrays]
        if device != _CPU:
            outputs = [tensor.to(device) for tensor in outputs]
        if self.output_tree is not None:
            return from_tree(self.output_tree, iter(outputs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _arrays(self, session: Any, feed: dict[str, np.ndarray[Any, Any]]) -> Any:
        if is_empty(feed):
            return answers_to_none(session, feed)
        if not is_blind(self.recipe) or are_finite(feed.values()):
            return session.run(None, feed)
        if self._swallowed is None:
            self._swallowed = Swallowed.by(self.graph_bytes)
        cleaned, is_spoiled = without_swallowed(feed, self._swallowed)
        arrays = session.run(None, cleaned)
        names = [value.name for value in session.get_outputs()]
        outputs = dict(zip(names, arrays, strict=True))
        spoil_(outputs, is_spoiled, self._swallowed.by_sample)
        return arrays

    def _plain_feed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, np.ndarray[Any, Any]] | None:
        """What is fed where each input is given in place, as it has to be; None elsewhere.

        Half the time that a small graph takes would go into asking the session what it takes.
        """
        takes = self._takes
        if takes is None or kwargs or len(args) != len(takes):
            return None
        feed = {}
        for (name, dtype), value in zip(takes, args, strict=True):
            is_plain = type(value) is torch.Tensor and value.dtype == dtype and value.is_cpu
            if not is_plain or value.requires_grad:
                return None
            feed[name] = value.contiguous().numpy()
        return feed

    def extra_repr(self) -> str:
        """Recipe and size, for `print(module)`."""
        return f"recipe={self.recipe!r}, size={self.graph.numel() / 1e6:.2f} MB"

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Takes another graph, of any size; the session of the one before is dropped."""
        given = state_dict.get(f"{prefix}graph")
        if given is not None and given.shape != self.graph.shape:
            self.graph = torch.empty_like(given, device=self.graph.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._session, self._takes, self._swallowed = None, None, None

    def __getstate__(self) -> dict[str, Any]:
        # A session holds threads and native memory; it is made again from the graph.
        return {**self.__dict__, "_session": None, "_takes": None, "_swallowed": None}


def _size(declared: Any) -> int | None:
    return declared if isinstance(declared, int) and declared > 0 else None


def dtype_named(name: str) -> torch.dtype:
    """The dtype behind ONNX Runtime's name of a tensor type, as "tensor(float)".

    Raises:
        InputError: No dtype of torch's.
    """
    if name not in _DTYPES:
        raise InputError(f"The graph has an input of type {name}, which is no tensor of numbers.")
    return _DTYPES[name]


def make_session(
    graph: bytes | Path, *, threads: int | None = None, graph_level: str = "all"
) -> Any:
    """An ONNX Runtime session over a model; on a GPU where ONNX Runtime has one.

    Args:
        graph: The serialised model, or its file.
        threads: Threads within an operator; None for one if the graph is small, else for as many
            as PyTorch uses.
        graph_level: What ONNX Runtime may do to the graph: nothing ("raw"), "basic" or "all".

    Raises:
        ConfigError: An unknown level.
    """
    is_on_gpu = has_cuda_provider() and torch.cuda.is_available()
    return onnxruntime_session(
        graph,
        threads=threads or default_threads(graph),
        graph_level=graph_level,
        provider="CUDA" if is_on_gpu else "CPU",
    )


def has_cuda_provider() -> bool:
    """Whether this build of ONNX Runtime can use a GPU of NVIDIA's."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def default_threads(graph: bytes | Path) -> int:
    """Threads for a graph where none are asked for: one if it is small, else PyTorch's number."""
    size = graph.stat().st_size if isinstance(graph, Path) else len(graph)
    return 1 if size < SMALL_GRAPH_BYTES else torch.get_num_threads()


def run_session(session: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs of a session for its inputs in order."""
    names = [value.name for value in session.get_inputs()]
    feed = {name: as_array(tensor) for name, tensor in zip(names, tensors, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]


def in_order(inputs: Any, session: Any) -> list[torch.Tensor]:
    """The tensors of an input in the order of the graph's: by name where all names agree."""
    names = [value.name for value in session.get_inputs()]
    if isinstance(inputs, dict) and inputs.keys() == set(names):
        return [inputs[name] for name in names]
    return tensors_of(inputs)


def as_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor as a contiguous array on the CPU; not copied where it is that already."""
    if not tensor.is_cpu or tensor.requires_grad:
        tensor = tensor.detach().cpu()
    array: np.ndarray[Any, Any] = tensor.contiguous().numpy()
    return array


def _feed(session: Any, given: dict[str, Any], *, n_given: int) -> dict[str, np.ndarray[Any, Any]]:
    inputs = session.get_inputs()
    if n_given > len(inputs) or given.keys() != {value.name for value in inputs}:
        raise InputError(f"{_expected(session)} Got {n_given} and {sorted(given)}.")
    feed = {}
    for value in inputs:
        tensor = torch.as_tensor(given[value.name])
        dtype = _DTYPES.get(value.type)
        if dtype is not None and tensor.dtype != dtype:
            # float64 from a caller's NumPy is a wish for float; anything else is a mistake.
            if not (tensor.is_floating_point() and dtype.is_floating_point):
                raise InputError(f"{_expected(session)} Got {tensor.dtype} for {value.name!r}.")
            tensor = tensor.to(dtype)
        feed[value.name] = as_array(tensor)
    return feed


def _expected(session: Any) -> str:
    wanted = ", ".join(
        f"{value.name} {value.shape} {value.type}" for value in session.get_inputs()
    )
    return (
        f"The graph takes: {wanted}. Sizes that are numbers are fixed: dynamic_axes= names those "
        "that vary, when the graph is made."
    )
