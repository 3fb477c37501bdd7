"""Original and compressed model measured side by side."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.records import Evaluation
from modelyard.torchtools.inputs import Inputs, as_inputs, batch_size, call, copied_for, with_batch
from modelyard.torchtools.layers import evaluating, size_mb
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.quantization import error_between
from modelyard.torchtools.samples import batches_of
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

NO_PARAMETERS = (
    "The metric fails with StopIteration: next(model.parameters()) finds nothing in a quantized "
    "model, which is an ONNX graph. Take the device from the inputs instead."
)
_TIMING_BUDGET_S = 1.0
_BLOCK = 5
_OF_OUTPUTS = ("output", "pred", "logit", "yhat", "answer")
_OF_TARGETS = ("target", "label", "true", "truth", "expected")
# Whole names, or their beginning: "policy_net" is no "y_".
_SHORT = ("y", "y_")


def evaluated(
    original: nn.Module,
    compressed: nn.Module,
    test_loader: Iterable[Any],
    metric_fn: Callable[..., Any],
    *,
    n_inputs: int = 1,
) -> Evaluation:
    """Metric, size and latency of both models, on the same data, timed in turns.

    Args:
        original: The model before.
        compressed: The model after.
        test_loader: Batches `(inputs, targets)`; read several times.
        metric_fn: `metric_fn(model, test_loader)` or `metric_fn(outputs, targets)`; a number.
        n_inputs: How many tensors the models take.

    Raises:
        ConfigError: `metric_fn` fits neither form.
        InputError: The loader is empty or can be read only once.
    """
    loader = test_loader if not isinstance(test_loader, torch.Tensor) else [test_loader]
    before = _metric(original, loader, metric_fn)
    after = _metric(compressed, loader, metric_fn)
    sample = with_batch(batches_of(loader, n_inputs=n_inputs, what="test_loader")[0], 1)
    original_s, compressed_s = timed_in_turns(original, compressed, sample)
    original_mb, compressed_mb = size_mb(original), size_mb(compressed)
    drop = before - after
    metrics = {"original_metric": before, "compressed_metric": after}
    return {
        "original_metric": _finite(before),
        "compressed_metric": _finite(after),
        "metric_drop": _finite(drop),
        "relative_drop": _finite(drop / abs(before)) if before else None,
        "non_finite_metrics": [
            name for name, value in metrics.items() if not math.isfinite(value)
        ],
        "original_size_mb": original_mb,
        "compressed_size_mb": compressed_mb,
        "compression_ratio": original_mb / compressed_mb if compressed_mb else 1.0,
        "original_latency_ms": original_s * MS_PER_S,
        "compressed_latency_ms": compressed_s * MS_PER_S,
        "speedup": original_s / compressed_s,
        "batch_size": batch_size(sample),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def side_by_side(
    models: Mapping[str, nn.Module], batches: Sequence[Inputs], *, is_real: bool, name: str
) -> list[dict[str, Any]]:
    """Size, latency of one sample and error of several modules, the first being the reference.

    Args:
        models: The modules by step.
        batches: What errors are measured on.
        is_real: Whether they are like those the model is used on, or made up.
        name: Of the model, for the rows.

    Returns:
        One dict a module: `model`, `step`, `size_mb`, `latency_ms`, `error`.
    """
    one = with_batch(batches[0], 1)
    with evaluating(*models.values()):
        seconds = interleaved_medians(
            {
                step: functools.partial(call, model, copied_for(model, one))
                for step, model in models.items()
            },
            budget_s=_TIMING_BUDGET_S,
            block=_BLOCK,
        )
        answers = {
            step: [flat_outputs(call(model, copied_for(model, batch))) for batch in batches]
            for step, model in models.items()
        }
    reference = next(iter(answers.values()))
    return [
        {
            "model": name,
            "step": step,
            "size_mb": size_mb(model),
            "latency_ms": seconds[step] * MS_PER_S,
            "error": error_between(reference, answers[step], is_real=is_real),
        }
        for step, model in models.items()
    ]


def timed_in_turns(
    original: nn.Module, compressed: nn.Module, inputs: Inputs
) -> tuple[float, float]:
    """Median seconds of a call of each, timed in turns of several calls, in eval mode."""
    with evaluating(original, compressed):
        medians = interleaved_medians(
            {
                "original": functools.partial(call, original, copied_for(original, inputs)),
                "compressed": functools.partial(call, compressed, copied_for(compressed, inputs)),
            },
            budget_s=_TIMING_BUDGET_S,
            block=_BLOCK,
        )
    return medians["original"], medians["compressed"]


def _metric(model: nn.Module, loader: Iterable[Any], metric_fn: Callable[..., Any]) -> float:
    with evaluating(model), torch.inference_mode():
        if not takes_model(metric_fn):
            return float(metric_fn(*_answers(model, loader)))
        try:
            return float(metric_fn(model, loader))
        except StopIteration as error:
            raise InputError(NO_PARAMETERS) from error
        except (AttributeError, TypeError) as error:
            # Its names did not say, and it asked the model for what only a tensor has.
            if type(model).__name__ not in str(error) and "unsupported operand" not in str(error):
                raise
            return _of_outputs_after_all(model, loader, metric_fn, error)


def _of_outputs_after_all(
    model: nn.Module, loader: Iterable[Any], metric_fn: Callable[..., Any], first: Exception
) -> float:
    try:
        return float(metric_fn(*_answers(model, loader)))
    except (AttributeError, TypeError, InputError) as error:
        raise InputError(
            f"metric_fn fails both as metric_fn(model, test_loader), with {first!r}, and as "
            f"metric_fn(outputs, targets), with {error!r}. The quantized model is called like the "
            "original, but has none of its other methods."
        ) from first


def takes_model(metric_fn: Callable[..., Any]) -> bool:
    """Whether the function wants the model and the loader, as it does unless its names say not.

    Raises:
        ConfigError: It takes fewer than two arguments.
    """
    try:
        names = [name.lower() for name in inspect.signature(metric_fn).parameters]
    except (TypeError, ValueError):
        return False
    if len(names) < 2:  # noqa: PLR2004 - both forms take two
        raise ConfigError(
            "metric_fn must take (model, test_loader) or (outputs, targets); "
            f"it takes ({', '.join(names)})."
        )
    if isinstance(metric_fn, nn.Module):  # a loss
        return False
    return not _sounds_like(names[0], _OF_OUTPUTS) and not _sounds_like(names[1], _OF_TARGETS)


def _sounds_like(name: str, words: Sequence[str]) -> bool:
    is_short = name == _SHORT[0] or name.startswith(_SHORT[1])
    return is_short or any(word in name for word in words)


def _answers(model: nn.Module, loader: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, targets = [], []
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) < 2:  # noqa: PLR2004 - a pair
            raise InputError(
                "metric_fn(outputs, targets) needs batches of (inputs, targets); "
                f"got a {type(batch).__name__}."
            )
        *inputs, target = batch
        given = as_inputs(inputs[0] if len(inputs) == 1 else inputs)
        outputs.append(flat_outputs(call(model, copied_for(model, given)))[0].cpu())
        targets.append(torch.as_tensor(target).cpu())
    if not outputs:
        raise InputError("test_loader yields no batch; a generator can be read only once.")
    return torch.cat(outputs), torch.cat(targets)
