"""Which backends are worth trying for a module on a device, and with which settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard._core.extras import require
from modelyard.inference_optimizer.backends import (
    Backend,
    Settings,
    Written,
    label_of,
    make_autocast,
    make_bfloat16,
    make_compiled,
    make_cuda_graph,
    make_eager,
    make_torchscript,
    onnxruntime_backend,
    onnxruntime_cuda_backend,
    openvino_backend,
)
from modelyard.torchtools.graph_sessions import GRAPH_LEVELS
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.onnx_module import SMALL_GRAPH_BYTES, OnnxModule, has_cuda_provider

# Every family, the simplest first: of two that are equally fast the one before wins.
BACKENDS = (
    "eager",
    "torchscript",
    "onnxruntime",
    "openvino",
    "cuda_graph",
    "compile",
    "onnxruntime_cuda",
    "autocast",
    "bfloat16",
    "float16",
    "openvino_bfloat16",
)
REDUCED = frozenset({"autocast", "bfloat16", "float16", "openvino_bfloat16"})
GRAPH_FAMILIES = frozenset({"onnxruntime", "openvino", "onnxruntime_cuda", "openvino_bfloat16"})
# Reduced precision is off by about 2^-8 of the output's size.
REDUCED_PRECISION_TOLERANCE = 5e-2
# A tolerance below this no backend of reduced precision keeps: none is tried.
_LEAST_REDUCED_TOLERANCE = 1e-3

_ON_CPU = (
    "eager",
    "torchscript",
    "compile",
    "onnxruntime",
    "openvino",
    "autocast",
    "bfloat16",
    "openvino_bfloat16",
)
_ON_GPU = (
    "eager",
    "torchscript",
    "compile",
    "cuda_graph",
    "onnxruntime_cuda",
    "autocast",
    "bfloat16",
    "float16",
)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A backend that may be made.

    Attributes:
        name: Its family.
        settings: What else it is made with.
        make: Makes it; raises what the engine raises.
        engine: The engine that another process tries first; empty where none has to.
        engine_settings: What that engine is tried with.
    """

    name: str
    make: Callable[[], Backend]
    settings: Settings = field(default_factory=dict)
    engine: str = ""
    engine_settings: Settings = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and settings in words."""
        return label_of(self.name, self.settings)

    @property
    def is_half(self) -> bool:
        """Whether it computes in float16, which ends at 65,504."""
        return self.name == "float16" or self.settings.get("dtype") == "float16"


def families(
    model: nn.Module, device: torch.device, *, asked: str, use_amp: bool, tolerance: float
) -> tuple[str, ...]:
    """The families to try beside eager, the simplest first.

    Args:
        model: An `OnnxModule` runs as it is, in the engines that take its graph.
        device: What runs.
        asked: "auto", or the one family wanted.
        use_amp: Whether reduced precision is admitted whatever the tolerance.
        tolerance: Bound on the difference from eager.

    Raises:
        ConfigError: What was asked for does not run this module on this device.
        MissingDependencyError: It needs a package that is not installed.
    """
    possible = _possible(model, device)
    if asked != "auto":
        if asked not in possible:
            raise ConfigError(
                f"backend={asked!r} cannot serve this model: {type(model).__name__} on "
                f"{device.type} runs with {', '.join(possible)}."
            )
        if asked.startswith("openvino"):
            require("openvino", extra="openvino")
        return () if asked == "eager" else (asked,)
    is_reduced_admitted = use_amp or tolerance >= _LEAST_REDUCED_TOLERANCE
    unwanted = {"eager", "compile"} | (set() if is_reduced_admitted else REDUCED)
    if find_spec("openvino") is None:
        unwanted |= {"openvino", "openvino_bfloat16"}
    return tuple(name for name in possible if name not in unwanted)


def _possible(model: nn.Module, device: torch.device) -> list[str]:
    if isinstance(model, OnnxModule):
        return ["eager", "onnxruntime", "openvino"] if device.type == "cpu" else ["eager"]
    on_gpu = set(_ON_GPU) if has_cuda_provider() else set(_ON_GPU) - {"onnxruntime_cuda"}
    here = set(_ON_CPU) if device.type == "cpu" else on_gpu
    return [name for name in BACKENDS if name in here]


def tolerance_of(name: str, tolerance: float, *, use_amp: bool) -> float:
    """Bound on the difference from eager for a backend of this family."""
    if use_amp and name in REDUCED:
        return max(tolerance, REDUCED_PRECISION_TOLERANCE)
    return tolerance


def eager_contender(model: nn.Module, example: Inputs, device: torch.device) -> Contender:
    """The module itself."""
    return Contender(name="eager", make=partial(make_eager, model, example, device))


def torch_contenders(
    names: tuple[str, ...], model: nn.Module, example: Inputs, device: torch.device
) -> list[Contender]:
    """Those of PyTorch's own backends that are among `names`."""

    def contender(name: str, maker: Any, settings: Settings, **options: Any) -> Contender:
        make = partial(maker, model, example, device, **options)
        return Contender(name=name, settings=settings, make=make)

    half = torch.float16
    found = [
        contender("torchscript", make_torchscript, {}),
        contender("compile", make_compiled, {}),
        contender("cuda_graph", make_cuda_graph, {}),
        contender("autocast", make_autocast, {"dtype": "bfloat16"}),
        contender("bfloat16", make_bfloat16, {}),
        contender("float16", make_bfloat16, {}, dtype=half),
    ]
    if device.type != "cpu":  # on a CPU float16 is slower by orders of magnitude
        found.append(contender("autocast", make_autocast, {"dtype": "float16"}, dtype=half))
    return [one for one in found if one.name in names]


def graph_contenders(
    names: tuple[str, ...], graph: Written, device: torch.device
) -> list[Contender]:
    """Those of the engines of ONNX graphs that are among `names`, with each setting."""
    found: list[Contender] = []
    for threads in _thread_counts(graph):
        if "onnxruntime" in names:
            found += [_onnxruntime(graph, level, threads) for level in GRAPH_LEVELS]
        if "openvino" in names:
            found.append(_openvino("openvino", graph, "f32", threads))
        if "openvino_bfloat16" in names:
            found.append(_openvino("openvino_bfloat16", graph, "bf16", threads))
    if "onnxruntime_cuda" in names:
        found += [_onnxruntime_cuda(graph, device, level) for level in ("basic", "all")]
    return found


def _thread_counts(graph: Written) -> list[int]:
    if len(graph.data) < SMALL_GRAPH_BYTES:
        return [1]
    return sorted({1, torch.get_num_threads()})


def _onnxruntime(graph: Written, level: str, threads: int) -> Contender:
    settings: Settings = {"graph_level": level, "threads": threads}
    return Contender(
        name="onnxruntime",
        settings=settings,
        make=partial(onnxruntime_backend, graph, graph_level=level, threads=threads),
        engine="onnxruntime",
        engine_settings=settings,
    )


def _onnxruntime_cuda(graph: Written, device: torch.device, level: str) -> Contender:
    return Contender(
        name="onnxruntime_cuda",
        settings={"graph_level": level},
        make=partial(onnxruntime_cuda_backend, graph, device, graph_level=level),
        engine="onnxruntime",
        engine_settings={"graph_level": level, "threads": 1, "provider": "CUDA"},
    )


def _openvino(name: str, graph: Written, precision: str, threads: int) -> Contender:
    return Contender(
        name=name,
        settings={"threads": threads},
        make=partial(openvino_backend, graph, precision=precision, threads=threads),
        engine="openvino",
        engine_settings={"precision": precision, "threads": threads},
    )
