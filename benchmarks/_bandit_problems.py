"""Five problems for bandits: the same rewards for whoever plays, drawn from seeds.

Needs nothing but NumPy: the peers' Python reads it too.
"""

from typing import Any

import numpy as np

Rng = np.random.Generator
Array = np.ndarray[Any, np.dtype[np.float64]]

HORIZON = 10_000
RETURN = 0.01  # the size of a daily return

_CLOSE = np.array([0.02, 0.02, 0.02, 0.03, 0.03, 0.05])
_RETURNS = RETURN * np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
_SPREAD = np.linspace(0.1, 0.9, 10)
_SWAP = np.array([0.1, 0.5, 0.9])


def _won(rng: Rng, means: Array) -> Array:
    return (rng.random((HORIZON, means.shape[-1])) < means).astype(float)


def _normal(rng: Rng, means: Array) -> Array:
    return means + RETURN * rng.standard_normal((HORIZON, len(means)))


def _heavy(rng: Rng, means: Array) -> Array:
    # Student's t with 3 degrees of freedom has a variance of 3.
    return means + RETURN * rng.standard_t(3, (HORIZON, len(means))) / np.sqrt(3.0)


def _swapped(means: Array) -> Array:
    half = HORIZON // 2
    return np.concatenate([np.tile(means, (half, 1)), np.tile(means[::-1], (half, 1))])


# Name: means (of each variant, or of each variant at each step), and how rewards are drawn.
PROBLEMS = {
    "won or lost, 0.1 to 0.9": (_SPREAD, _won),
    "won or lost, 0.02 to 0.05": (_CLOSE, _won),
    "returns, normal": (_RETURNS, _normal),
    "returns, heavy tails": (_RETURNS, _heavy),
    "won or lost, swapped halfway": (_swapped(_SWAP), _won),
}
STATIONARY = tuple(PROBLEMS)[:4]


def rewards_of(problem: str, seed: int) -> Array:
    """Rewards of every variant at every step, shape (HORIZON, variants)."""
    means, draw = PROBLEMS[problem]
    return draw(np.random.default_rng([seed, len(problem)]), means)


def regret_of(problem: str, chosen: Any) -> float:
    """Expected reward lost by a sequence of choices (indices of variants)."""
    means = np.broadcast_to(PROBLEMS[problem][0], (HORIZON, PROBLEMS[problem][0].shape[-1]))
    return float((means.max(axis=1) - means[np.arange(HORIZON), chosen]).sum())
