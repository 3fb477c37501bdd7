"""What is compared: metrics, how each is summed up, and which way is better."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any, Literal, get_args

from modelyard._core.errors import ConfigError
from modelyard.stats.direction import is_lower_better

MetricKind = Literal["mean", "proportion", "ratio", "quantile", "rank", "sharpe"]
KINDS: tuple[str, ...] = get_args(MetricKind)
# Kinds that need every value, not only sums of them.
KEEPS_VALUES = frozenset({"quantile", "rank", "sharpe"})


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of an experiment.

    Attributes:
        name: As in the `metrics` that are recorded.
        kind: `mean`: of the values. `proportion`: of ones among values of 0 and 1. `ratio`: sum of
            the values over the sum of `denominator`, such as profit per trade. `quantile`: the
            values' `quantile`. `rank`: the chance that a value of one variant exceeds one of the
            other (Mann-Whitney), for values whose mean says little. `sharpe`: the values are
            returns, and their Sharpe ratios are compared.
        lower_is_better: Whether less is better; judged by the name where it is None.
        denominator: For `ratio`: name of the recorded value that is divided by.
        quantile: For `quantile`: which, 0 to 1; 0.99 of a latency, say.
        periods_per_year: For `sharpe`: annualises the ratio, 252 for daily returns.
        covariate: Name of a recorded value that was known before the experiment, such as the same
            metric in the month before: what it explains is taken out (CUPED). For `mean` only.
        margin: Makes the metric a guardrail: nobody wins who may be worse on it by this much or
            more, in the metric's unit, 0 or more.

    Raises:
        ConfigError: An attribute breaks its rule, or one of another kind was given.
    """

    name: str = field(kw_only=False)
    kind: MetricKind = "mean"
    lower_is_better: bool | None = None
    denominator: str | None = None
    quantile: float = 0.5
    periods_per_year: float = 1.0
    covariate: str | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"A metric needs a name, got {self.name!r}.")
        if self.kind not in KINDS:
            raise ConfigError(
                f"kind of metric {self.name!r} must be one of {', '.join(KINDS)}; "
                f"got {self.kind!r}."
            )
        self._check_companions()
        numbers: tuple[Any, ...] = (self.quantile, self.periods_per_year, self.margin)
        for value in numbers:
            if value is not None and not isinstance(value, Real):
                raise self._error("numbers are wanted", value)
        if not 0.0 < self.quantile < 1.0:
            raise self._error("quantile must lie strictly between 0 and 1", self.quantile)
        if not 0.0 < self.periods_per_year < math.inf:
            raise self._error("periods_per_year must be above 0", self.periods_per_year)
        if self.margin is not None and not 0.0 <= self.margin < math.inf:
            raise self._error("margin must be a number of 0 or more", self.margin)

    @property
    def companion(self) -> str | None:
        """The other recorded value that it needs, if any."""
        return self.denominator if self.kind == "ratio" else self.covariate

    @property
    def keeps_values(self) -> bool:
        """Whether sums are not enough for it."""
        return self.kind in KEEPS_VALUES

    def is_lower_better_at(self, means: Iterable[float | None] = ()) -> bool:
        """Whether less is better; of drawdowns recorded below zero, by their means, it is not."""
        if self.lower_is_better is not None:
            return self.lower_is_better
        return self.kind != "sharpe" and is_lower_better(self.name, means)

    def to_plain(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return asdict(self)

    def _check_companions(self) -> None:
        if (self.kind == "ratio") != (self.denominator is not None):
            raise self._error('denominator goes with kind="ratio"', self.denominator)
        if self.covariate is not None and self.kind != "mean":
            raise self._error('covariate goes with kind="mean"', self.covariate)
        if self.companion == self.name:
            raise self._error("it cannot be its own denominator or covariate", self.companion)

    def _error(self, rule: str, value: Any) -> ConfigError:
        return ConfigError(f"Metric {self.name!r}: {rule}, got {value!r}.")


class MetricBook:
    """The declared metrics; one that was not declared is a mean, judged by its name.

    Args:
        declared: Metrics of different names.
        primary: Name of what decides.
        primary_kind: Its kind where it is not declared.
        lower_is_better: Metrics of which less is better, and no others of those that do not say
            it themselves.

    Raises:
        ConfigError: Two of one name, or one text as `lower_is_better`.
    """

    def __init__(
        self,
        declared: Iterable[Metric],
        *,
        primary: str,
        primary_kind: MetricKind,
        lower_is_better: Iterable[str] | None,
    ) -> None:
        metrics = (declared,) if isinstance(declared, Metric) else tuple(declared)
        handed_in: tuple[Any, ...] = metrics
        for metric in handed_in:
            if not isinstance(metric, Metric):
                raise ConfigError(f"metrics must be a list of Metric, got {metric!r} in it.")
        self._by_name = {metric.name: metric for metric in metrics}
        if len(self._by_name) < len(metrics):
            names = [metric.name for metric in metrics]
            raise ConfigError(f"Two metrics of one name: {names}.")
        self._lower = None if lower_is_better is None else checked_names(lower_is_better)
        known = self._by_name.get(primary)
        if known is None:
            self._by_name[primary] = Metric(name=primary, kind=primary_kind)
        elif primary_kind not in ("mean", known.kind):
            raise ConfigError(
                f"metric_type is {primary_kind!r}, but the metric {primary!r} says "
                f"{known.kind!r}. Leave metric_type out."
            )
        self.primary = primary

    def __getitem__(self, name: str) -> Metric:
        """The metric of this name."""
        return self._by_name.get(name) or Metric(name=name)

    def is_lower_better(self, name: str, means: Iterable[float | None] = ()) -> bool:
        """Whether less of a metric is better, where these are its means, as far as known."""
        metric = self[name]
        if metric.lower_is_better is not None or self._lower is None:
            return metric.is_lower_better_at(means)
        return name in self._lower

    @property
    def declared(self) -> list[Metric]:
        """The declared ones and the primary one."""
        return list(self._by_name.values())

    @property
    def guardrails(self) -> list[Metric]:
        """Those with a margin, the primary one left out: it is the one that decides."""
        return [
            metric
            for metric in self.declared
            if metric.margin is not None and metric.name != self.primary
        ]

    @property
    def companions(self) -> Callable[[str], str | None]:
        """Says which other value a metric is recorded with."""
        by_name = {m.name: m.companion for m in self.declared if m.companion is not None}
        return by_name.get

    @property
    def proportions(self) -> frozenset[str]:
        """Names of the metrics whose values are 0 or 1."""
        return frozenset(m.name for m in self.declared if m.kind == "proportion")

    @property
    def needs_values(self) -> frozenset[str]:
        """Names of the metrics for which sums are not enough."""
        return frozenset(metric.name for metric in self.declared if metric.keeps_values)

    def to_plain(self) -> dict[str, Any]:
        """What makes the book anew, as plain values."""
        return {
            "metrics": [metric.to_plain() for metric in self.declared],
            "lower_is_better": None if self._lower is None else sorted(self._lower),
        }


def metrics_from(plain: Iterable[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """The metrics that `to_plain` described."""
    return tuple(Metric(**attributes) for attributes in plain)


def checked_names(names: Iterable[str]) -> frozenset[str]:
    """Names of metrics.

    Raises:
        ConfigError: One text, whose letters would be taken for names.
    """
    if isinstance(names, str):
        raise ConfigError(
            f"lower_is_better must be a list of metrics, got {names!r}. Give [{names!r}]."
        )
    return frozenset(names)
