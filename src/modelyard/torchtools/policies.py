"""Policies of stable-baselines3 as modules: an observation in, the action of `predict` out.

Their own `forward` samples an action and answers with values and log-probabilities besides, so it
can neither be compared nor exported. Nothing here imports stable-baselines3: a policy is known by
what it has.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import Inputs


class DeterministicPolicy(nn.Module):
    """What `algorithm.predict(observation, deterministic=True)` computes, as a module.

    Actions of a continuous space are clipped to it, or scaled to it where the policy squashes
    them, as `predict` does.

    Args:
        policy: The algorithm's policy.

    Shape:
        - Input: observations, batch first; for a dict space, one dict of them by name.
        - Output: actions, batch first.
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy
        space: Any = policy.action_space
        self._is_squashed = bool(getattr(policy, "squash_output", False))
        self._is_box = hasattr(space, "low")
        if self._is_box:
            # Not persistent: the bounds belong to the policy's own description.
            self.register_buffer("low", torch.as_tensor(np.array(space.low)), persistent=False)
            self.register_buffer("high", torch.as_tensor(np.array(space.high)), persistent=False)

    def forward(self, observation: Any) -> torch.Tensor:
        """Actions for the observations."""
        policy: Any = self.policy
        action: torch.Tensor = policy._predict(observation, deterministic=True)  # noqa: SLF001 - what `predict` itself calls; it has no public form on tensors
        if not self._is_box:
            return action
        action = action.reshape(-1, *self.low.shape)
        if self._is_squashed:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return torch.minimum(torch.maximum(action, self.low), self.high)


def is_algorithm(model: Any) -> bool:
    """Whether `model` is an algorithm such as PPO that holds a policy."""
    return not isinstance(model, nn.Module) and is_policy(getattr(model, "policy", None))


def is_policy(model: Any) -> bool:
    """Whether `model` is such a policy itself."""
    return isinstance(model, nn.Module) and all(
        hasattr(model, name) for name in ("_predict", "observation_space", "action_space")
    )


def as_module(model: Any) -> nn.Module:
    """`model` itself if it is a module; the deterministic policy of an algorithm.

    Raises:
        InputError: It is neither, or a recurrent policy.
    """
    if is_algorithm(model):
        if hasattr(model.policy, "lstm_actor"):
            raise InputError(
                "A recurrent policy carries a state between calls. Wrap its actor in a module "
                "that takes the state as an input and returns the new one."
            )
        return DeterministicPolicy(model.policy)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"Expected an nn.Module, got a {type(model).__name__}. "
            "Load a state dict into its module first."
        )
    return model


def example_observation(policy: DeterministicPolicy) -> Inputs | None:
    """Two made-up observations of the policy's space; None for a space that is not known."""
    observation = _observation(policy.policy.observation_space, np.random.default_rng(0))
    return (observation,) if isinstance(observation, dict) else observation


def _observation(space: Any, rng: np.random.Generator) -> Any:
    if hasattr(space, "spaces") and isinstance(space.spaces, Mapping):
        parts = {str(name): _observation(part, rng) for name, part in space.spaces.items()}
        return None if any(part is None for part in parts.values()) else parts
    if hasattr(space, "low"):
        shape = (2, *space.shape)
        if np.issubdtype(space.dtype, np.integer):
            values = rng.integers(np.maximum(space.low, 0), space.high, size=shape, endpoint=True)
        else:
            values = np.clip(rng.standard_normal(shape), space.low, space.high)
        return torch.as_tensor(values.astype(space.dtype))
    if hasattr(space, "nvec"):
        values = rng.integers(0, space.nvec, size=(2, *np.shape(space.nvec)))
        return torch.as_tensor(values.astype(space.dtype))
    if hasattr(space, "n"):
        n = int(np.max(space.n))
        shape = (2, *space.shape)
        values = rng.integers(0, n if space.shape == () else 2, size=shape)
        return torch.as_tensor(values.astype(space.dtype))
    return None
