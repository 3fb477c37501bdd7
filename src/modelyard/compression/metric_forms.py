"""Calling a metric function of the user's in the form that its arguments' names tell."""

import functools
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.stats.direction import contradicts_name, is_lower_better

_logger = logging.getLogger("modelyard")

NO_PARAMETERS = (
    "The metric fails with StopIteration: next(model.parameters()) finds nothing in a quantized "
    "model, which is an ONNX graph. Take the device from the inputs instead."
)
Form = Literal["model", "outputs first", "targets first"]
Answers = Callable[[], tuple[torch.Tensor, torch.Tensor]]

# Whole parts of a name between underscores: a "predictor" is no prediction.
_ROLES = {
    "model": frozenset({"model", "net", "network", "module", "predictor", "policy", "actor"}),
    "data": frozenset({"loader", "data", "dataloader", "dataset", "batches"}),
    "outputs": frozenset(
        {"output", "outputs", "out", "outs", "pred", "preds", "prediction", "predictions"}
        | {"predicted", "yhat", "hat", "ypred", "logit", "logits", "answer", "answers"}
        | {"score", "scores", "prob", "probs", "proba", "probability", "probabilities"}
        | {"forecast", "forecasts", "estimate", "estimates", "estimated"}
    ),
    "targets": frozenset(
        {"target", "targets", "label", "labels", "true", "truth", "expected", "ytrue", "gt"}
        | {"actual", "actuals", "gold", "observed", "realized", "realised", "reference"}
    ),
}


def form_of(metric_fn: Callable[..., Any]) -> Form:
    """What the function wants: the model and the loader, unless its names say otherwise.

    Args:
        metric_fn: `metric_fn(model, loader)`, `metric_fn(outputs, targets)`, or as scikit-learn's
            `metric_fn(y_true, y_pred)`.

    Raises:
        ConfigError: It takes fewer than two arguments.
    """
    try:
        names = [name.lower() for name in inspect.signature(metric_fn).parameters]
    except (TypeError, ValueError):
        return "outputs first"
    if len(names) < 2:  # noqa: PLR2004 - all forms take two
        raise ConfigError(
            "metric_fn must take (model, test_loader) or (outputs, targets); "
            f"it takes ({', '.join(names)})."
        )
    if isinstance(metric_fn, nn.Module):  # a loss
        return "outputs first"
    return _form_by_names(names[0], names[1])


def _form_by_names(first: str, second: str) -> Form:
    one, two = first.split("_"), second.split("_")
    # What both are called, as in (true_labels, pred_labels), tells nothing of either.
    a = _role_of([part for part in one if part not in two])
    b = _role_of([part for part in two if part not in one])
    if a == "model" or b == "data":
        return "model"
    if (b == "outputs" and a != "outputs") or (a == "targets" and b != "targets"):
        return "targets first"
    is_of_outputs = a == "outputs" or b == "targets" or "y" in {first, second}
    return "outputs first" if is_of_outputs else "model"


def _role_of(parts: list[str]) -> str | None:
    """What a name stands for: its last part that tells, as a model's output is an output."""
    found = (role for part in reversed(parts) for role, words in _ROLES.items() if part in words)
    return next(found, None)


def value_of(
    metric_fn: Callable[..., Any], model: nn.Module, loader: Iterable[Any], answers: Answers
) -> Any:
    """What the metric function gives for a model, in the form its names tell, else in the other.

    Args:
        metric_fn: As `form_of` takes it.
        model: In the mode to be judged in.
        loader: The data.
        answers: The model's outputs and the targets; asked for where they are needed.

    Raises:
        ConfigError: It takes fewer than two arguments.
        InputError: It fails in both forms, or the data has no targets and it needs them.
    """
    form = form_of(metric_fn)
    if form == "model":
        return _of_model(metric_fn, model, loader, answers)
    outputs, targets = answers()
    given = (targets, outputs) if form == "targets first" else (outputs, targets)
    try:
        return metric_fn(*given)
    except (AttributeError, TypeError, ValueError) as error:
        try:  # it may have meant a model by the name of what the model gives
            return metric_fn(model, loader)
        except Exception:  # noqa: BLE001 - then it failed for another reason
            raise error from None


def _of_model(
    metric_fn: Callable[..., Any], model: nn.Module, loader: Iterable[Any], answers: Answers
) -> Any:
    try:
        return metric_fn(model, loader)
    except StopIteration as error:
        raise InputError(NO_PARAMETERS) from error
    except (AttributeError, TypeError) as error:
        # Its names did not say, and it asked the model for what only a tensor has.
        if type(model).__name__ not in str(error) and "unsupported operand" not in str(error):
            raise
        first = error
    try:
        return metric_fn(*answers())
    except (AttributeError, TypeError, InputError) as error:
        raise InputError(
            f"metric_fn fails both as metric_fn(model, test_loader), with {first!r}, and as "
            f"metric_fn(outputs, targets), with {error!r}. The quantized model is called like the "
            "original, but has none of its other methods."
        ) from first


def is_more_better(metric_fn: Callable[..., Any], values: Iterable[float]) -> bool:
    """Whether a larger value is better, by the function's name; where it says nothing, it is.

    Args:
        metric_fn: What judges.
        values: What it gave: of drawdowns below zero the larger is the better one.
    """
    return not is_lower_better(_name_of(metric_fn), values)


def warn_of_direction(metric_fn: Callable[..., Any] | None, *, maximize: bool, call: str) -> None:
    """Warn where the function's name says that the other way is better than the one asked for.

    Args:
        metric_fn: What judges; None where the loss does.
        maximize: Whether more was said to be better.
        call: Of the library, for the message.
    """
    name = "" if metric_fn is None else _name_of(metric_fn)
    if contradicts_name(name, (), maximize=maximize):
        _logger.warning(
            "%s(%s, maximize=%s): by its name the other way is better. Pass maximize=%s if that "
            "was meant.",
            call,
            name,
            maximize,
            not maximize,
        )


def _name_of(metric_fn: Callable[..., Any]) -> str:
    """What it is called: a function by its name, a loss of torch.nn by its class."""
    while isinstance(metric_fn, functools.partial):
        metric_fn = metric_fn.func
    name = str(getattr(metric_fn, "__name__", type(metric_fn).__name__))
    return "" if name == "<lambda>" else name
