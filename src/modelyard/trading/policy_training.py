"""PPO with stable-baselines3, and its actor taken out as a plain module.

Schulman et al. (2017), "Proximal Policy Optimization Algorithms". Importing this module imports
stable-baselines3 and gymnasium; `modelyard.trading` does so on first use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import nn

from modelyard.trading.environment import TradingEnvironment
from modelyard.trading.paths import MarketPath
from modelyard.trading.policy import PolicyNetwork
from modelyard.trading.settings import PolicySize, PolicyTraining


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedPolicy:
    """A trained actor.

    Attributes:
        network: In eval mode.
        episode_returns: Mean log return per episode, in percent, after each rollout, shape
            (n_rollouts,); NaN before the first episode has ended.
        hyper_parameters: What PPO was called with, plain values.
    """

    network: PolicyNetwork
    episode_returns: NDArray[np.float64]
    hyper_parameters: dict[str, Any]


def train_policy(
    paths: Sequence[MarketPath],
    *,
    size: PolicySize,
    training: PolicyTraining,
    cost_rate: float,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> TrainedPolicy:
    """Train PPO on market paths.

    Seeds the global generators of Python, NumPy and torch, as stable-baselines3 does:
    `modelyard.trading.randomness.isolated` restores them.

    Args:
        paths: Training part of each stock.
        size: Of the actor; the critic has the same hidden layers.
        training: How long and how.
        cost_rate: Cost per unit of money traded.
        seed: Of initial weights, actions and episodes.
        progress: Told the share done, 0 to 1, after each rollout.

    Raises:
        InputError: No path is as long as an episode.
    """
    environments = DummyVecEnv(
        [lambda: _environment(paths, training, cost_rate)] * training.n_envs
    )
    hyper_parameters = _hyper_parameters(training)
    hidden = list(size.hidden_sizes)
    ppo = PPO(
        "MlpPolicy",
        VecMonitor(environments),
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": nn.ReLU},
        seed=seed,
        device="cpu",
        **hyper_parameters,
    )
    watcher = _Watcher(training.n_steps, progress)
    ppo.learn(total_timesteps=training.n_steps, callback=watcher)
    return TrainedPolicy(
        network=policy_from_ppo(ppo, size=size),
        episode_returns=np.array(watcher.episode_returns),
        hyper_parameters=hyper_parameters | {"total_timesteps": training.n_steps},
    )


def policy_from_ppo(ppo: PPO, *, size: PolicySize) -> PolicyNetwork:
    """The actor of a trained PPO in eval mode; its logits are those PPO samples actions from."""
    network = PolicyNetwork(
        n_inputs=size.n_inputs, hidden_sizes=size.hidden_sizes, n_actions=size.n_actions
    )
    source = [*_linear_layers(ppo.policy.mlp_extractor.policy_net), ppo.policy.action_net]
    for mine, theirs in zip(_linear_layers(network), source, strict=True):
        mine.load_state_dict(theirs.state_dict())
    return network.eval()


class _Watcher(BaseCallback):
    """Keeps the mean episode return of each rollout and tells how far training is."""

    def __init__(self, n_steps: int, progress: Callable[[float], None] | None) -> None:
        super().__init__()
        self.episode_returns: list[float] = []
        self._n_steps = n_steps
        self._progress = progress

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        ended = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self.episode_returns.append(float(np.mean(ended)) if ended else float("nan"))
        if self._progress is not None:
            self._progress(min(self.num_timesteps / self._n_steps, 1.0))


def _environment(
    paths: Sequence[MarketPath], training: PolicyTraining, cost_rate: float
) -> TradingEnvironment:
    return TradingEnvironment(paths, episode_days=training.episode_days, cost_rate=cost_rate)


def _hyper_parameters(training: PolicyTraining) -> dict[str, Any]:
    return {
        "n_steps": training.n_steps_per_rollout,
        "batch_size": training.batch_size,
        "n_epochs": training.n_epochs,
        "learning_rate": training.learning_rate,
        "gamma": training.discount,
        "gae_lambda": training.gae_lambda,
        "ent_coef": training.entropy_weight,
    }


def _linear_layers(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
