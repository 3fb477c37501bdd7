"""One change of the weights: gradients, clipped, and what the optimizer makes of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.training.features import FeatureMatch
from modelyard.compression.training.plan import TrainingPlan


class Stepper:
    """Changes the weights of a model, and of the projectors of its features; not thread-safe.

    Args:
        model: Those of its parameters that require gradients are trained.
        features: Their projectors are trained too, from when they come to be.
        plan: How.
        after_step: Called after every change.

    Raises:
        ConfigError: Nothing to train.
    """

    def __init__(
        self,
        model: nn.Module,
        features: FeatureMatch,
        plan: TrainingPlan,
        after_step: Callable[[], None] | None,
    ) -> None:
        self._model_name = type(model).__name__
        self._features = features
        self._max_grad_norm = plan.max_grad_norm
        self._after_step = after_step
        self._optimizer = _optimizer(model, plan)

    def step(self, loss: torch.Tensor, rate: float, *, where: str) -> None:
        """Make `loss` smaller.

        Args:
            loss: A scalar.
            rate: Learning rate.
            where: Epoch and batch, for messages.

        Raises:
            InputError: The loss or its gradient is not finite, or depends on nothing trained; the
                weights are as they were.
        """
        if not bool(loss.isfinite()):
            raise _diverged(f"The loss is {float(loss.detach())}", where)
        if not loss.requires_grad:
            raise InputError(
                f"The loss depends on no trained parameter of {self._model_name}: its forward "
                "pass detaches them, or a loss_fn does."
            )
        self._include_projectors()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters(), self._max_grad_norm)
        if not bool(norm.isfinite()):
            raise _diverged(f"The gradient's norm is {float(norm)}", where)
        self._optimizer.step()
        if self._after_step is not None:
            self._after_step()

    def state(self) -> dict[str, Any]:
        """What the optimizer remembers."""
        return self._optimizer.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; projectors it was made with are there already."""
        self._include_projectors()
        self._optimizer.load_state_dict(state)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _include_projectors(self) -> None:
        known = {id(p) for p in self._parameters()}
        new = [p for p in self._features.parameters() if id(p) not in known]
        if new:
            self._optimizer.add_param_group({"params": new, "weight_decay": 0.0})


def _optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if any(nn.parameter.is_lazy(p) for p in trained):
        raise ConfigError(
            f"{type(model).__name__} has lazy layers, which have no weights yet: run it once on "
            "an example."
        )
    if not trained:
        raise ConfigError(
            f"{type(model).__name__} has no parameters to train: none requires gradients."
        )
    # Biases and scales of normalisations are left out: pulling them to 0 regularises nothing.
    matrices = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": parameters, "weight_decay": float(decay)}
        for parameters, decay in ((matrices, plan.weight_decay), (others, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=float(plan.learning_rate))


def _diverged(what: str, where: str) -> InputError:
    return InputError(
        f"{what} in {where}. Lower learning_rate, or look for NaN, infinity and unscaled values "
        "in the data. The model has its last good weights."
    )
