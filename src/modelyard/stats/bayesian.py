"""How likely a variant is the better one, and what choosing wrongly would cost.

All with a flat prior: the posterior of a difference is normal about the one measured. Beside a
verdict that may be looked at often these numbers explain; they do not decide, because a
probability of 95 % is crossed by chance just as a p-value of 5 % is.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard.stats.significance import Contrast, in_standard_errors


def probability_better(contrast: Contrast, *, lower_is_better: bool = False) -> float:
    """Chance that the treatment is truly better than the control; 0.5 while nothing is known.

    Source:
        Gelman et al. (2013), Bayesian Data Analysis, section 2.5 (known variance, flat prior).
        Reference numbers: `tests/reference/experiments.json`, from gbstats.
    """
    if math.isnan(contrast.variance):
        return 0.5
    z = in_standard_errors(contrast)
    return float(special.ndtr(-z if lower_is_better else z))


def expected_loss(contrast: Contrast, *, lower_is_better: bool = False) -> tuple[float, float]:
    """What is lost on average by choosing `a`, and by choosing `b`, in the metric's unit.

    Choosing `b` costs E[max(a - b, 0)]: 0 where `b` is better, the difference where it is worse.
    Both NaN while nothing is known.

    Source:
        Raiffa and Schlaifer (1961), Applied Statistical Decision Theory, section 5.4 (the normal
        loss integral).
    """
    if math.isnan(contrast.variance):
        return math.nan, math.nan
    gain = -contrast.difference if lower_is_better else contrast.difference
    error = math.sqrt(contrast.variance)
    if error == 0.0:
        return max(gain, 0.0), max(-gain, 0.0)
    z = gain / error
    density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    loss_a = error * density + gain * float(special.ndtr(z))
    loss_b = error * density - gain * float(special.ndtr(-z))
    return max(loss_a, 0.0), max(loss_b, 0.0)


def probabilities_to_be_best(
    means: Sequence[float],
    standard_errors: Sequence[float],
    *,
    rng: np.random.Generator,
    n_draws: int = 20_000,
    lower_is_better: bool = False,
) -> NDArray[np.float64]:
    """Chance of each of several independent variants to have the best true mean.

    Args:
        means: Measured means.
        standard_errors: Of these means, same unit.
        rng: Draws from the posteriors.
        n_draws: Draws; with 20,000 the chances are off by at most 0.01.
        lower_is_better: Whether the smallest mean is the best.

    Returns:
        shape (variants,), sum 1; equal ones share. All NaN where any mean or error is.
    """
    if np.isnan([*means, *standard_errors]).any():
        return np.full(len(means), np.nan)
    draws = rng.normal(means, standard_errors, size=(n_draws, len(means)))
    signed = -draws if lower_is_better else draws
    is_best = signed == signed.max(axis=1, keepdims=True)
    return np.asarray((is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0))
