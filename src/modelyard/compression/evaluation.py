"""Original and compressed model measured side by side."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.compression.metric_forms import is_more_better, value_of
from modelyard.compression.records import Evaluation
from modelyard.torchtools.inputs import (
    Inputs,
    answer_of,
    as_inputs,
    batch_size,
    copied_for,
    with_batch,
)
from modelyard.torchtools.layers import evaluating, size_mb
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.quantization import error_between
from modelyard.torchtools.samples import batches_of
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

_TIMING_BUDGET_S = 1.0
_BLOCK = 5


def evaluated(
    original: nn.Module,
    compressed: nn.Module,
    test_loader: Iterable[Any],
    metric_fn: Callable[..., Any],
    *,
    n_inputs: int = 1,
    maximize: bool | None = None,
) -> Evaluation:
    """Metric, size and latency of both models, on the same data, timed in turns.

    Args:
        original: The model before.
        compressed: The model after.
        test_loader: Batches `(inputs, targets)`; read several times.
        metric_fn: `metric_fn(model, test_loader)`, `metric_fn(outputs, targets)` or
            `metric_fn(y_true, y_pred)`; a number.
        n_inputs: How many tensors the models take.
        maximize: Whether more of the metric is better; None: as the function's name says.

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
    is_maximized = is_more_better(metric_fn, (before, after)) if maximize is None else maximize
    drop = before - after if is_maximized else after - before
    metrics = {"original_metric": before, "compressed_metric": after}
    return {
        "lower_is_better": not is_maximized,
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
                step: functools.partial(answer_of, model, copied_for(model, one))
                for step, model in models.items()
            },
            budget_s=_TIMING_BUDGET_S,
            block=_BLOCK,
        )
        answers = {
            step: [flat_outputs(answer_of(model, copied_for(model, batch))) for batch in batches]
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
                "original": functools.partial(answer_of, original, copied_for(original, inputs)),
                "compressed": functools.partial(
                    answer_of, compressed, copied_for(compressed, inputs)
                ),
            },
            budget_s=_TIMING_BUDGET_S,
            block=_BLOCK,
        )
    return medians["original"], medians["compressed"]


def _metric(model: nn.Module, loader: Iterable[Any], metric_fn: Callable[..., Any]) -> float:
    # Not inference_mode: what the model keeps of it may be trained with.
    with evaluating(model), torch.no_grad():
        return float(value_of(metric_fn, model, loader, lambda: _answers(model, loader)))


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
        outputs.append(flat_outputs(answer_of(model, copied_for(model, given)))[0].cpu())
        targets.append(torch.as_tensor(target).cpu())
    if not outputs:
        raise InputError("test_loader yields no batch; a generator can be read only once.")
    return torch.cat(outputs), torch.cat(targets)
