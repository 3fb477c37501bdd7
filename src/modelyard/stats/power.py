"""What an experiment can see: power, minimum detectable effect, sample size.

Normal approximation throughout: with the hundred samples that a verdict needs, it is off by less
than a percentage point of power.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize, special

from modelyard._core.errors import ConfigError
from modelyard.stats.group_sequential import boundaries, crossing_probability
from modelyard.stats.intervals import alpha_of
from modelyard.stats.sequential import critical_at

# Of a variant: a spread needs two values.
# An effect in units of the spread: below it the outcomes needed are no number any more.
_LEAST_SIGNAL = 1e-9
_FEWEST = 2

Inference = Literal["always_valid", "fixed_horizon", "group_sequential"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large an experiment must be.

    Attributes:
        n_total: Outcomes of all variants together.
        n_per_variant: Outcomes of each variant.
        critical: Standard errors from zero at which a difference is called significant at the
            last look.
        effect: True difference that is found with the wanted power.
    """

    n_total: int
    n_per_variant: tuple[int, ...]
    critical: float
    effect: float


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


def plan(
    effect: float,
    *,
    std: float,
    wanted_power: float = 0.8,
    confidence_level: float = 0.95,
    shares: Sequence[float] = (0.5, 0.5),
    inference: Inference = "always_valid",
    n_looks: int = 5,
    n_tuned: float | None = None,
) -> Plan:
    """How many outcomes find a difference of means with the wanted power.

    Args:
        effect: True difference, in the metric's unit, not 0.
        std: Standard deviation of one outcome, same unit, positive.
        wanted_power: Chance to find the effect by the last outcome, strictly between 0 and 1.
        confidence_level: 1 - the accepted chance of a false winner.
        shares: Traffic of each variant, two or more; any positive total. Any two of them reach
            the power.
        inference: How the experiment will be read.
        n_looks: Evenly spaced looks; for `group_sequential` only.
        n_tuned: Outcomes at which the always-valid interval is narrowest; None for the answer
            itself, which is the best choice.

    Raises:
        ConfigError: An argument outside its range.

    Source:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, section 12.2.
        Reference numbers: `tests/reference/experiments.json`, from statsmodels.
    """
    share_a, share_b = sorted(_fractions(shares))[:2]
    _require_positive(std, "std")
    return _plan(
        effect,
        variance=std * std * (1.0 / share_a + 1.0 / share_b),
        information=4.0 * share_a * share_b / (share_a + share_b),
        shares=shares,
        needed=_Needed(wanted_power, alpha_of(confidence_level), inference, n_looks, n_tuned),
    )


def plan_proportion(
    base_rate: float,
    effect: float,
    *,
    wanted_power: float = 0.8,
    confidence_level: float = 0.95,
    shares: Sequence[float] = (0.5, 0.5),
    inference: Inference = "always_valid",
    n_looks: int = 5,
    n_tuned: float | None = None,
) -> Plan:
    """How many outcomes find a difference of two shares of successes.

    Args:
        base_rate: The control's true share, strictly between 0 and 1.
        effect: True difference, absolute: 0.01 from 0.05 to 0.06.
        wanted_power: As `plan`.
        confidence_level: As `plan`.
        shares: Traffic of each variant, the control's first; any positive total.
        inference: As `plan`.
        n_looks: As `plan`.
        n_tuned: As `plan`.

    Raises:
        ConfigError: An argument outside its range, or `base_rate + effect` outside (0, 1).

    Source:
        Fleiss, Levin and Paik (2003), Statistical Methods for Rates and Proportions, chapter 4,
        variances not pooled.
    """
    rates = (base_rate, base_rate + effect)
    if not all(0.0 < rate < 1.0 for rate in rates):
        raise ConfigError(f"Both rates must lie strictly between 0 and 1, got {rates}.")
    share_a, *others = _fractions(shares)
    share_b = min(others)
    return _plan(
        effect,
        variance=sum(
            rate * (1.0 - rate) / share
            for rate, share in zip(rates, (share_a, share_b), strict=True)
        ),
        information=4.0 * share_a * share_b / (share_a + share_b),
        shares=shares,
        needed=_Needed(wanted_power, alpha_of(confidence_level), inference, n_looks, n_tuned),
    )


def plan_sharpe(
    sharpe_a: float,
    sharpe_b: float,
    *,
    correlation: float | None = None,
    periods_per_year: float = 252.0,
    wanted_power: float = 0.8,
    confidence_level: float = 0.95,
    inference: Inference = "always_valid",
    n_looks: int = 5,
    n_tuned: float | None = None,
) -> Plan:
    """How many periods tell two annual Sharpe ratios apart.

    For independent normal returns; with fat tails or memory it takes longer. `n_per_variant` is
    the number of periods; in pairs both variants have the same ones.

    Args:
        sharpe_a: The control's true annual ratio.
        sharpe_b: The treatment's.
        correlation: Of the two return streams if both see the same states, in (-1, 1); None if
            not.
        periods_per_year: 252 for daily returns.
        wanted_power: As `plan`.
        confidence_level: As `plan`.
        inference: As `plan`.
        n_looks: As `plan`.
        n_tuned: As `plan`.

    Raises:
        ConfigError: An argument outside its range.

    Source:
        Jobson and Korkie (1981), J. of Finance 36, 889-908, as corrected by Memmel (2003),
        Finance Letters 1, 21-23.
    """
    _require_positive(periods_per_year, "periods_per_year")
    r = 0.0 if correlation is None else correlation
    if not -1.0 < r < 1.0:
        raise ConfigError(f"correlation must lie strictly between -1 and 1, got {correlation}.")
    a, b = (ratio / math.sqrt(periods_per_year) for ratio in (sharpe_a, sharpe_b))
    variance = 2.0 - 2.0 * r + 0.5 * (a * a + b * b - 2.0 * a * b * r * r)
    found = _plan(
        b - a,
        variance=2.0 * variance,
        information=1.0,
        shares=(0.5, 0.5),
        needed=_Needed(wanted_power, alpha_of(confidence_level), inference, n_looks, n_tuned),
    )
    return replace(found, effect=sharpe_b - sharpe_a)


@dataclass(frozen=True)
class _Needed:
    """What the experiment must deliver, and how it will be read."""

    wanted_power: float
    alpha: float
    inference: Inference
    n_looks: int
    n_tuned: float | None


def _plan(
    effect: float,
    *,
    variance: float,
    information: float,
    shares: Sequence[float],
    needed: _Needed,
) -> Plan:
    """The plan where the estimate from n outcomes has the variance `variance` / n.

    `information` is what one outcome is worth in a balanced experiment.
    """
    if effect == 0.0 or not math.isfinite(effect):
        raise ConfigError(f"effect must be finite and not 0, got {effect}.")
    if needed.inference not in _SOLVERS:
        raise ConfigError(
            f"inference must be one of {', '.join(_SOLVERS)}; got {needed.inference!r}."
        )
    if not needed.alpha < needed.wanted_power < 1.0:
        raise ConfigError(
            f"wanted_power must lie between {needed.alpha:g} (what chance alone finds) and 1, "
            f"got {needed.wanted_power}."
        )
    spread = math.sqrt(variance)
    signal = abs(effect) / spread if 0.0 < spread < math.inf else 0.0
    if not _LEAST_SIGNAL <= signal <= 1.0 / _LEAST_SIGNAL:
        raise ConfigError(
            f"effect {effect:g} is out of proportion to the spread of the outcomes, {spread:g}: "
            "how many it takes cannot be worked out. Give both in the same unit."
        )
    n, critical = _SOLVERS[needed.inference](signal, information, needed)
    n_per_variant = tuple(max(_FEWEST, math.ceil(n * share)) for share in _fractions(shares))
    return Plan(
        n_total=sum(n_per_variant), n_per_variant=n_per_variant, critical=critical, effect=effect
    )


def _fixed_horizon(signal: float, information: float, needed: _Needed) -> tuple[float, float]:  # noqa: ARG001 - one signature for all
    critical = -float(special.ndtri(needed.alpha / 2.0))
    return (_drift(needed, critical) / signal) ** 2, critical


def _always_valid(signal: float, information: float, needed: _Needed) -> tuple[float, float]:
    def critical_after(n: float) -> float:
        return critical_at(
            n * information,
            n_tuned=n * information if needed.n_tuned is None else needed.n_tuned,
            confidence_level=1.0 - needed.alpha,
        )

    def missing(log_n: float) -> float:
        n = math.exp(log_n)
        return _drift(needed, critical_after(n)) - signal * math.sqrt(n)

    # A t-test needs at least the lower end; the critical value grows with the root of log n only.
    low = 2.0 * math.log(1.0 / signal) - 5.0
    high = low + 10.0
    while missing(high) > 0.0:
        high += 5.0
    n = math.exp(float(optimize.brentq(missing, low, high, xtol=1e-13)))
    return n, critical_after(n)


def _group_sequential(signal: float, information: float, needed: _Needed) -> tuple[float, float]:  # noqa: ARG001 - one signature for all
    if needed.n_looks < 1:
        raise ConfigError(f"n_looks must be at least 1, got {needed.n_looks}.")
    fractions = np.linspace(0.0, 1.0, needed.n_looks + 1)[1:].tolist()
    criticals = boundaries(fractions, alpha=needed.alpha).tolist()

    def missing(drift: float) -> float:
        found = crossing_probability(fractions, criticals, drift=drift)
        return found - needed.wanted_power

    drift = float(optimize.brentq(missing, 0.0, 50.0, xtol=1e-12))
    return (drift / signal) ** 2, criticals[-1]


_SOLVERS: dict[str, Callable[[float, float, _Needed], tuple[float, float]]] = {
    "fixed_horizon": _fixed_horizon,
    "always_valid": _always_valid,
    "group_sequential": _group_sequential,
}


def _drift(needed: _Needed, critical: float) -> float:
    """The expected z that exceeds `critical` with the wanted power, either way."""

    def missing(drift: float) -> float:
        return power(drift, standard_error=1.0, critical=critical) - needed.wanted_power

    return float(optimize.brentq(missing, 0.0, critical + 40.0, xtol=1e-13))


def _fractions(shares: Sequence[float]) -> list[float]:
    if len(shares) < 2 or not all(share > 0.0 for share in shares):  # noqa: PLR2004 - two sides
        raise ConfigError(f"shares must be two positive numbers or more, got {list(shares)}.")
    return [share / sum(shares) for share in shares]


def _require_positive(value: float, what: str) -> None:
    if not 0.0 < value < math.inf:
        raise ConfigError(f"{what} must be positive, got {value}.")


def _normal_quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"wanted_power must lie strictly between 0 and 1, got {level}.")
    return float(special.ndtri(level))
