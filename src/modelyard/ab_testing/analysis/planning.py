"""How many outcomes an experiment needs, worked out before it is begun."""

from typing import TypedDict

from modelyard._core.errors import ConfigError
from modelyard.ab_testing.analysis.rules import checked_inference
from modelyard.stats.power import Plan, plan, plan_proportion, plan_sharpe


class Planned(TypedDict):
    """What an experiment needs; samples are outcomes, for Sharpe ratios periods."""

    effect: float
    power: float
    confidence_level: float
    inference: str
    samples_control: int
    samples_treatment: int
    samples_total: int
    days: float | None


def planned(
    effect: float,
    *,
    std: float | None = None,
    base_rate: float | None = None,
    sharpe: float | None = None,
    correlation: float | None = None,
    periods_per_year: float = 252.0,
    power: float = 0.8,
    confidence_level: float = 0.95,
    share: float = 0.5,
    inference: str = "always_valid",
    per_day: float | None = None,
) -> Planned:
    """Outcomes and days needed to find an effect.

    Args:
        effect: True difference: of means (with `std`), shares (`base_rate`) or Sharpe ratios of a
            year (`sharpe`).
        std: Standard deviation of one outcome.
        base_rate: The control's share of ones, 0 to 1.
        sharpe: The control's Sharpe ratio, annualised.
        correlation: Of both variants' returns, where both are measured on the same periods.
        periods_per_year: Returns in a year.
        power: Chance to find the effect, 0 to 1.
        confidence_level: 1 - the accepted chance of a false winner.
        share: The treatment's share of the traffic, 0 to 1.
        inference: As in `VerdictRules`.
        per_day: Outcomes a day, both variants together.

    Raises:
        ConfigError: Not exactly one of `std`, `base_rate` and `sharpe`, or a value out of range.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"share must lie strictly between 0 and 1, got {share!r}.")
    if per_day is not None and not per_day > 0.0:
        raise ConfigError(f"per_day must be above 0, got {per_day!r}.")
    rule = checked_inference(inference)
    shares = (1.0 - share, share)
    if [std, base_rate, sharpe].count(None) != 2:  # noqa: PLR2004 - all but one
        raise ConfigError("Give one of std (means), base_rate (shares) and sharpe (returns).")
    if std is not None:
        found = plan(
            effect,
            std=std,
            shares=shares,
            wanted_power=power,
            confidence_level=confidence_level,
            inference=rule,
        )
    elif base_rate is not None:
        found = plan_proportion(
            base_rate,
            effect,
            shares=shares,
            wanted_power=power,
            confidence_level=confidence_level,
            inference=rule,
        )
    else:
        control = sharpe or 0.0
        found = plan_sharpe(
            control,
            control + effect,
            correlation=correlation,
            periods_per_year=periods_per_year,
            wanted_power=power,
            confidence_level=confidence_level,
            inference=rule,
        )
    return _told(found, power, confidence_level, inference, per_day)


def _told(
    found: Plan, power: float, confidence_level: float, inference: str, per_day: float | None
) -> Planned:
    return {
        "effect": found.effect,
        "power": power,
        "confidence_level": confidence_level,
        "inference": inference,
        "samples_control": found.n_per_variant[0],
        "samples_treatment": found.n_per_variant[1],
        "samples_total": found.n_total,
        "days": None if per_day is None else found.n_total / per_day,
    }
