"""What an experiment can see: power, minimum detectable effect, sample size.

Normal approximation throughout: with the hundred samples that a verdict needs, it is off by less
than a percentage point of power.
"""

import math

from scipy import special

from modelyard._core.errors import ConfigError


def power(effect: float, *, standard_error: float, critical: float) -> float:
    """Chance that a true difference `effect` is called significant at this look.

    Args:
        effect: True difference, in the metric's unit.
        standard_error: Of the estimated difference, same unit, positive.
        critical: Standard errors from zero at which a difference is called significant: 1.96 for
            a t-test at 5 %, `AlwaysValid.critical` for a confidence sequence.
    """
    z = abs(effect) / standard_error
    return float(special.ndtr(z - critical) + special.ndtr(-z - critical))


def minimum_detectable_effect(
    *, standard_error: float, critical: float, wanted_power: float = 0.8
) -> float:
    """Smallest true difference, in the metric's unit, found with chance `wanted_power`.

    Raises:
        ConfigError: `wanted_power` lies outside (0, 1).
    """
    return (critical + _normal_quantile(wanted_power)) * standard_error


def samples_per_variant(
    effect: float, *, std: float, critical: float = 1.96, wanted_power: float = 0.8
) -> int:
    """Samples each of two equal variants needs to find `effect` with chance `wanted_power`.

    Raises:
        ConfigError: `effect` is zero, or `wanted_power` lies outside (0, 1).

    Source:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, section 12.2.
    """
    if effect == 0.0:
        raise ConfigError("effect must not be 0: no sample size finds a difference of nothing.")
    needed = (critical + _normal_quantile(wanted_power)) * std / effect
    return math.ceil(2.0 * needed * needed)


def _normal_quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"wanted_power must lie strictly between 0 and 1, got {level}.")
    return float(special.ndtri(level))
