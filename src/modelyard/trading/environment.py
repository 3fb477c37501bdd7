"""The gymnasium environment a policy is trained in: one stock, one account, one step a day.

Importing this module imports gymnasium; `modelyard.trading` does so on first use.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError, InputError
from modelyard.trading.account import (
    ACCOUNT_FEATURES,
    DEFAULT_COST_RATE,
    TARGET_EXPOSURES,
    account_features,
    new_accounts,
    step_accounts,
)
from modelyard.trading.paths import MarketPath

Observation = NDArray[np.float32]


class TradingEnvironment(gymnasium.Env[Observation, np.int64]):
    """Choose one of four exposures each day; the reward is the log return net of costs.

    The observation at a close holds nothing later than that close: 256 numbers of market state
    and `ACCOUNT_FEATURES`. The action trades at that close to `TARGET_EXPOSURES`; the reward is
    what the account earns until the next close, after costs, as a log return times
    `reward_scale`. An episode is a random stretch of a random stock and ends by truncation.
    An instance is for one thread.

    Args:
        paths: Market paths to draw from; a path is drawn in proportion to the stretches it has.
        episode_days: Steps per episode.
        cost_rate: Cost per unit of money traded; 0.001 is 10 basis points.
        reward_scale: 100: rewards are percent, of a size that PPO's value network can learn.

    Raises:
        InputError: No path is as long as an episode.
        ConfigError: `episode_days` below 1 or `cost_rate` outside [0, 1).
    """

    def __init__(
        self,
        paths: Sequence[MarketPath],
        *,
        episode_days: int = 252,
        cost_rate: float = DEFAULT_COST_RATE,
        reward_scale: float = 100.0,
    ) -> None:
        if episode_days < 1 or not 0.0 <= cost_rate < 1.0:
            raise ConfigError(
                f"episode_days must be 1 or more and cost_rate in [0, 1), got {episode_days} and "
                f"{cost_rate}. 0.001 means 10 basis points."
            )
        self._paths = [path for path in paths if len(path) >= episode_days]
        if not self._paths:
            raise InputError(
                f"No path has {episode_days} days. Give longer ones or a shorter episode."
            )
        self._episode_days = episode_days
        self._cost_rate = cost_rate
        self._reward_scale = reward_scale
        n_inputs = self._paths[0].states.shape[1] + len(ACCOUNT_FEATURES)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (n_inputs,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(TARGET_EXPOSURES))
        self._path, self._day, self._last_day = self._paths[0], 0, 0
        self._accounts = new_accounts(1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start with cash only, at a day and stock drawn from the environment's generator."""
        super().reset(seed=seed, options=options)
        n_starts = np.array([len(path) - self._episode_days + 1 for path in self._paths])
        which = self.np_random.choice(len(self._paths), p=n_starts / n_starts.sum())
        self._path = self._paths[int(which)]
        self._day = int(self.np_random.integers(n_starts[which]))
        self._last_day = self._day + self._episode_days - 1
        self._accounts = new_accounts(1)
        return self._observation(self._day), self._info()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Trade to the action's exposure and live through one day."""
        self._accounts = step_accounts(
            self._accounts,
            np.array([TARGET_EXPOSURES[int(action)]]),
            self._path.next_returns[self._day : self._day + 1],
            cost_rate=self._cost_rate,
        )
        reward = self._reward_scale * float(np.log1p(self._accounts.last_return[0]))
        info = self._info()
        is_truncated = self._day == self._last_day
        # At the path's end there is no later state: the last one stands for the unseen next.
        self._day = min(self._day + 1, len(self._path) - 1)
        return self._observation(self._day), reward, False, is_truncated, info

    def _observation(self, day: int) -> Observation:
        return np.concatenate([self._path.states[day], account_features(self._accounts)[0]])

    def _info(self) -> dict[str, Any]:
        return {
            "symbol": self._path.symbol,
            "date": str(self._path.dates[self._day]),
            "equity": float(self._accounts.equity[0]),
        }
