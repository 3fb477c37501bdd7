"""How good the model is on data it does not learn from, and which epoch was the best."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.compression.metric_forms import value_of
from modelyard.compression.records import DistillationEpoch
from modelyard.compression.training.batches import batches
from modelyard.compression.training.losses import first_output
from modelyard.compression.training.objective import Objective
from modelyard.torchtools.inputs import answer_of, device_of
from modelyard.torchtools.layers import evaluating

MetricFn = Callable[..., Any]

_WHAT = "validation_loader"


@dataclass(frozen=True)
class Validation:
    """What a model is judged by, before the first epoch and after each.

    Attributes:
        loader: Yields batches as the training data does; read once or twice each time.
        metric_fn: `metric_fn(model, loader)`, `metric_fn(outputs, targets)` or
            `metric_fn(y_true, y_pred)`, a number; None: the loss decides.
    """

    loader: Iterable[Any]
    metric_fn: MetricFn | None = None

    def loss(self, model: nn.Module, objective: Objective) -> float:
        """Mean loss over the samples, features left out, in the model's own precision."""
        total, n_samples = 0.0, 0
        with evaluating(model), torch.no_grad():
            for batch in batches(
                self.loader,
                device=device_of(model),
                are_targets_needed=objective.are_targets_needed,
                what=_WHAT,
            ):
                loss = objective.losses(model, batch, is_training=False).total
                total += float(loss) * batch.n_samples
                n_samples += batch.n_samples
        return total / n_samples if n_samples else math.nan

    def metric(self, model: nn.Module) -> float | None:
        """What the metric function gives; None without one.

        Raises:
            InputError: It wants targets and there are none, or gives no number.
        """
        if self.metric_fn is None:
            return None
        with evaluating(model), torch.no_grad():
            found = value_of(self.metric_fn, model, self.loader, lambda: self._answers(model))
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"metric_fn must return a number, got a {type(found).__name__}."
            ) from error

    def _answers(self, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, targets = [], []
        for batch in batches(
            self.loader, device=device_of(model), are_targets_needed=False, what=_WHAT
        ):
            if not isinstance(batch.targets, torch.Tensor):
                raise InputError(
                    "metric_fn(outputs, targets) needs batches of (inputs, targets) with targets "
                    "that are one tensor; or take (model, loader)."
                )
            outputs.append(first_output(answer_of(model, batch.inputs)).cpu())
            targets.append(batch.targets.cpu())
        return torch.cat(outputs), torch.cat(targets)


def is_better(new: float, best: float | None, *, maximize: bool) -> bool:
    """Whether `new` beats `best`, the best so far if any. What is not finite beats nothing."""
    if not math.isfinite(new):
        return False
    if best is None:
        return True
    return new > best if maximize else new < best


def is_patience_over(history: Sequence[DistillationEpoch], patience: int | None) -> bool:
    """Whether the last `patience` epochs were none better than all before, the start included."""
    if patience is None or len(history) < patience:
        return False
    return not any(record["is_best"] for record in history[-patience:])
