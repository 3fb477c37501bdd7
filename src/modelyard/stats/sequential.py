"""Intervals and p-values that stay valid however often one looks.

A t-test looked at a hundred times finds a winner between two equal variants in more than a third
of all experiments. A confidence sequence covers the true difference at all looks at once with the
stated confidence, so that stopping at any moment, for any reason, is allowed.
"""

import math
from dataclasses import dataclass

from modelyard._core.errors import ConfigError
from modelyard.stats.intervals import Interval, alpha_of
from modelyard.stats.moments import Moments
from modelyard.stats.significance import Contrast, in_standard_errors, unpaired


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysValid:
    """What can be said at this look and at every other.

    Attributes:
        p_value: At most alpha with chance at most alpha over all looks together.
        interval: For the difference, in the metric's unit; without end where nothing is known.
        critical: Half the interval's width in standard errors (a t-test has about 1.96 here).
    """

    p_value: float
    interval: Interval
    critical: float


def mixture_precision(alpha: float, n_tuned: float) -> float:
    """Rho squared: the mixture's parameter for which the interval is narrowest at `n_tuned`.

    Raises:
        ConfigError: `n_tuned` is not positive.

    Source:
        Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Annals of Statistics 52,
        2613-2640, appendix B.2 (its approximation to the optimum).
    """
    if n_tuned <= 0:
        raise ConfigError(f"n_tuned must be a positive number of samples, got {n_tuned}.")
    spent = -2.0 * math.log(alpha)
    return (spent + math.log(spent + 1.0)) / n_tuned


def critical_at(n: float, *, n_tuned: float, confidence_level: float = 0.95) -> float:
    """Half the width of the always-valid interval in standard errors; infinite without values.

    Args:
        n: Values of a balanced experiment, both sides together.
        n_tuned: As `always_valid`.
        confidence_level: As `always_valid`.

    Raises:
        ConfigError: As `always_valid`.

    Source:
        As `always_valid`.
    """
    alpha = alpha_of(confidence_level)
    v = n * mixture_precision(alpha, n_tuned)
    if v <= 0.0:
        return math.inf
    return math.sqrt(2.0 * (v + 1.0) / v * (0.5 * math.log1p(v) - math.log(alpha)))


def always_valid(
    contrast: Contrast, *, n_tuned: float, confidence_level: float = 0.95
) -> AlwaysValid:
    """Asymptotic confidence sequence with a normal mixture.

    With z the difference in standard errors and v = n rho^2, the p-value is
    sqrt(v + 1) exp(-z^2 v / (2 (v + 1))), and the interval holds every difference whose p-value
    exceeds alpha. `n` is the number of values of an equally informative balanced experiment, so
    that it keeps measuring information when traffic weights change on the way.

    Args:
        contrast: The difference with its variance.
        n_tuned: The sample size, both sides together, at which the interval shall be
            narrowest. Fixed before the experiment; any value is valid.
        confidence_level: Coverage wanted over all looks, strictly between 0 and 1.

    Raises:
        ConfigError: `confidence_level` outside (0, 1) or `n_tuned` not positive.

    Source:
        Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), Annals of Statistics 52,
        2613-2640, theorem 2.2. For a balanced experiment these are GrowthBook's numbers.
    """
    critical = critical_at(contrast.n, n_tuned=n_tuned, confidence_level=confidence_level)
    if math.isnan(contrast.variance) or math.isinf(critical):
        return AlwaysValid(p_value=1.0, interval=Interval(-math.inf, math.inf), critical=math.inf)
    v = contrast.n * mixture_precision(alpha_of(confidence_level), n_tuned)
    z = in_standard_errors(contrast)
    log_p = 0.5 * math.log1p(v) - z * z * v / (2.0 * (v + 1.0))
    half = critical * math.sqrt(contrast.variance)
    return AlwaysValid(
        p_value=math.exp(min(0.0, log_p)),
        interval=Interval(contrast.difference - half, contrast.difference + half),
        critical=critical,
    )


def mean_difference(
    a: Moments, b: Moments, *, n_tuned: float, confidence_level: float = 0.95
) -> AlwaysValid:
    """`always_valid` for two independent samples; positive means `b` is larger."""
    return always_valid(unpaired(a, b), n_tuned=n_tuned, confidence_level=confidence_level)
