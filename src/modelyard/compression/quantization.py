"""Quantizing a module by way of its graph: what is tried, what is told, what is refused."""

import logging
import math
import numbers
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, QuantizationError
from modelyard.compression.evaluation import timed_in_turns
from modelyard.compression.records import LayerTold, QuantizationStats
from modelyard.torchtools import quantization
from modelyard.torchtools.by_sample import noting_by_sample, outputs_by_sample
from modelyard.torchtools.conversion import DynamicAxes, preserved, to_runnable
from modelyard.torchtools.inputs import (
    Inputs,
    answer_of,
    batch_size,
    copied_for,
    with_batch,
)
from modelyard.torchtools.layers import MB, size_mb
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import tree_of
from modelyard.torchtools.quantization import Recipe, Source, error_between
from modelyard.torchtools.samples import reference_for

SYNTHETIC = "synthetic"
BACKENDS = ("fbgemm", "x86", "onednn", "qnnpack")
Choices = Sequence[Sequence[Recipe]]

_WEIGHT_ONLY: dict[Any, Recipe] = {
    torch.qint8: quantization.WEIGHT_ONLY_INT8,
    torch.int8: quantization.WEIGHT_ONLY_INT8,
    "int8": quantization.WEIGHT_ONLY_INT8,
    "int4": quantization.BLOCK_INT4,
    "int8_blocks": quantization.BLOCK_INT8,
    torch.bfloat16: quantization.BFLOAT16_WEIGHTS,
    "bf16": quantization.BFLOAT16_WEIGHTS,
}
_logger = logging.getLogger("modelyard")


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """What was asked for.

    Attributes:
        dtype: Of the weights.
        max_error: Largest relative error of an output allowed, above 0.
        keep_float: Module names that stay in float.
        backend: For the record: ONNX Runtime runs the result on each of these machines.
        calibration_method: "minmax", "percentile", "entropy", or "auto": these in turn until one
            is under the limit.
    """

    dtype: Any
    max_error: float
    keep_float: tuple[str, ...] = ()
    backend: str = "fbgemm"
    calibration_method: str = "auto"

    def __post_init__(self) -> None:
        if not _is_above_0(self.max_error):
            raise ConfigError(
                f"max_error must be a number above 0, got {self.max_error!r}. 0.1 means 10 %."
            )
        if self.backend not in BACKENDS:
            raise ConfigError(f"backend {self.backend!r} is not one of {', '.join(BACKENDS)}.")
        if self.calibration_method != "auto":
            quantization.check_method(self.calibration_method)


def _is_above_0(value: Any) -> bool:
    return isinstance(value, numbers.Real) and float(value) > 0


def dynamic_choices(graph: bytes, plan: QuantizationPlan, batches: Sequence[Inputs]) -> Choices:
    """Ranges taken as activations come; fixed where the model convolves; else weights alone.

    Dynamic int8 slows convolutions down several times.
    """
    if quantization.has_convolution(graph):
        return [*static_choices(plan, batches), [quantization.WEIGHT_ONLY_INT8]]
    return [[quantization.DynamicInt8(plan.dtype)], [quantization.WEIGHT_ONLY_INT8]]


def static_choices(plan: QuantizationPlan, calibration: Sequence[Inputs]) -> Choices:
    """Ranges from calibration data, by each method that the plan allows."""
    is_auto = plan.calibration_method == "auto"
    methods = quantization.METHODS if is_auto else (plan.calibration_method,)
    return [
        [
            quantization.StaticInt8(quantization.Calibration(calibration, method), plan.dtype)
            for method in methods
        ]
    ]


def search_choices(
    graph: bytes,
    batches: Sequence[Inputs],
    calibration: Sequence[Inputs],
    *,
    max_error: float,
    portable: bool,
) -> dict[str, Choices]:
    """Every recipe that suits a graph, by name, the fastest as a rule first.

    Args:
        graph: The float graph.
        batches: What ranges are taken from where a model convolves.
        calibration: What static ranges are taken from.
        max_error: Limit of each.
        portable: Whether only standard ONNX operators may be used.
    """
    plan = QuantizationPlan(dtype=torch.qint8, max_error=max_error)
    dynamic: dict[str, Choices] = {}
    if not quantization.has_convolution(graph):
        dynamic = {"dynamic_int8": dynamic_choices(graph, plan, batches)[:1]}
    blocks: dict[str, Choices] = {
        "block_int8": [[quantization.BLOCK_INT8]],
        "block_int4": [[quantization.BLOCK_INT4]],
    }
    return {
        **dynamic,
        "static_int8": static_choices(plan, calibration),
        **({} if portable else blocks),
        "weight_only_int8": [[quantization.WEIGHT_ONLY_INT8]],
        "bf16_weights": [[quantization.BFLOAT16_WEIGHTS]],
    }


def weight_only_choices(dtype: Any) -> Choices:
    """Weights in fewer bits by dtype.

    Raises:
        ConfigError: A dtype that weights cannot be stored in.
    """
    if dtype not in _WEIGHT_ONLY:
        raise ConfigError(
            f"dtype {dtype!r} is not one of torch.qint8, torch.bfloat16, 'int8', 'bf16', "
            "'int8_blocks', 'int4'."
        )
    return [[_WEIGHT_ONLY[dtype]]]


def check_int8(dtype: Any) -> None:
    """Refuse a dtype that int8 weights cannot have.

    Raises:
        ConfigError: Neither `torch.qint8` nor `torch.quint8`.
    """
    quantization.weight_type(dtype)


def refuse_graph(model: nn.Module) -> None:
    """Refuse a model that is a graph already.

    Raises:
        ConfigError: It has no weights that could be pruned, trained or quantized again.
    """
    if isinstance(model, OnnxModule):
        raise ConfigError(
            f"The model is quantized already ({model.recipe}); compress the float one it came "
            "from."
            if model.recipe != "float"
            else "The model is an ONNX graph; compress the module it came from."
        )


def float_graph(
    model: nn.Module, example: Inputs, *, dynamic_axes: DynamicAxes | None = None
) -> bytes:
    """The graph that quantizing starts from.

    Args:
        model: The float module.
        example: An input it runs on.
        dynamic_axes: Sizes that may vary; the batch alone by default.

    Raises:
        ConfigError: The model is a graph already, or does not let a size vary.
        QuantizationError: Its weights are not float32.
        ConversionError: The model has no faithful ONNX graph.
    """
    refuse_graph(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtypes and torch.float32 not in dtypes:
        raise QuantizationError(
            f"Nothing could be quantized: the weights are {', '.join(map(str, dtypes))}, and "
            "quantizing starts from float32. Compress a copy: copy.deepcopy(model).float()."
        )
    graph = to_runnable(model, example, dynamic_axes=dynamic_axes).data
    with preserved(model):
        return noting_by_sample(graph, outputs_by_sample(model, example))


def quantized(
    model: nn.Module,
    source: Source,
    choices: Choices,
    plan: QuantizationPlan,
    *,
    original: nn.Module | None,
    example: Inputs,
    batches: Sequence[Inputs],
    validated_on: str,
) -> tuple[OnnxModule, QuantizationStats]:
    """The first choice under the limit as a module, and what is to be told of it.

    Args:
        model: The float module.
        source: Its graph.
        choices: Recipes in order of preference.
        plan: Limit and layers that stay in float.
        original: The module before any step; None if no step has changed it yet.
        example: An input the module runs on.
        batches: What the error is measured on.
        validated_on: Where they come from.

    Raises:
        QuantizationError: None of the choices keeps the limit.
    """
    result = quantization.first_within(
        source,
        choices,
        reference_for(model, batches, is_real=validated_on != SYNTHETIC),
        max_error=plan.max_error,
        keep_float=plan.keep_float,
    )
    answer = answer_of(model, copied_for(model, example))
    module = OnnxModule(result.data, recipe=result.recipe, output_tree=tree_of(answer)).eval()
    float_s, quantized_s = timed_in_turns(model, module, with_batch(example, 1))
    float_mb, quantized_mb = size_mb(model), len(result.data) / MB
    stats: QuantizationStats = {
        "recipe": result.recipe,
        "dtype": str(plan.dtype),
        "backend": plan.backend,
        "original_size_mb": float_mb,
        "quantized_size_mb": quantized_mb,
        "compression_ratio": float_mb / quantized_mb,
        "speedup": float_s / quantized_s,
        "max_error": result.error,
        "error_to_original": result.error
        if original is None
        else error_to(original, module, batches, is_real=validated_on != SYNTHETIC),
        "error_limit": plan.max_error,
        "validated_on": validated_on,
        "n_samples": sum(map(batch_size, batches)),
        "layers_kept_float": result.layers_kept_float,
        "layers": [_layer_told(decision) for decision in result.decisions],
        "attempts": [asdict(attempt) for attempt in result.attempts],
        "depends_on_batch": result.recipe == "dynamic_int8",
        "portable": result.is_portable,
    }
    _warn_of_surprises(stats, choices)
    return module, stats


def error_to(
    original: nn.Module, model: nn.Module, batches: Sequence[Inputs], *, is_real: bool
) -> float | None:
    """Relative error of a model against the original; None where it is infinite, as NaN's is.

    Args:
        original: The module before any step.
        model: The one after it.
        batches: What it is measured on.
        is_real: Whether they are like those the model is used on.
    """
    wanted = reference_for(original, batches).outputs
    answers = reference_for(model, batches).outputs
    error = error_between(wanted, answers, is_real=is_real)
    return error if math.isfinite(error) else None


def _layer_told(decision: quantization.LayerDecision) -> LayerTold:
    in_float = "weights only" if decision.is_stored_small else "float"
    return {
        "layer": decision.layer,
        "decision": "quantized" if decision.is_quantized else in_float,
        "reason": decision.reason,
        "error_alone": decision.error_alone,
    }


def _warn_of_surprises(stats: QuantizationStats, choices: Choices) -> None:
    to_original = stats["error_to_original"]
    if to_original is None or to_original > max(stats["error_limit"], 2 * stats["max_error"]):
        _logger.warning(
            "The answers differ from the original's by %s (relative error): most of that was "
            "there before quantizing, from pruning or training. max_error limits only what "
            "quantizing adds.",
            "more than can be said" if to_original is None else f"{to_original:.1%}",
        )
    if stats["recipe"] not in {recipe.name for recipe in choices[0]}:
        _logger.warning(
            "%s would change the outputs by %.1f %%, more than the limit of %.1f %%: only the "
            "weights are stored in 8 bits (%s). The size is a quarter, the speed that of float32.",
            choices[0][0].name,
            100 * (stats["attempts"][0]["error"] or 0.0),
            100 * stats["error_limit"],
            stats["recipe"],
        )
    if stats["quantized_size_mb"] >= stats["original_size_mb"]:
        _logger.warning(
            "The quantized model is not smaller (%.3f MB, float %.3f MB): the model is so small "
            "that the description of its graph outweighs its weights.",
            stats["quantized_size_mb"],
            stats["original_size_mb"],
        )
