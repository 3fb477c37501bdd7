"""`AlertRule`: any figure of a monitor, or arithmetic over them, with a limit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.ids import checked_name
from modelyard.monitor.alerting.alerts import Severity, checked_severity
from modelyard.monitor.alerting.expressions import Expression, UnknownFigureError
from modelyard.monitor.alerting.readings import Limit, Reading, State, critical_limit
from modelyard.monitor.alerting.thresholds import MIN_PREDICTIONS, WATCHED_NAMES
from modelyard.monitor.arguments import whole_number


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """Raise an alert when a figure is over a limit, or under it.

    Attributes:
        name: Of the alert: letters, digits, `.`, `_`, `-`; not one of the thresholds'.
        metric: A figure of the summary such as `latency.p95_ms`, or arithmetic over figures
            (`+ - * /`, `min`, `max`, `abs`), such as
            `prediction.std / baseline.prediction.std`. While a figure in it is not known, or a
            division is by zero, nothing is opened and nothing resolved.
        above: Limit that must not be exceeded, in the figure's unit; this or `below`.
        below: Limit that must not be fallen below.
        severity: Of a breach: `info`, `warning` or `critical`.
        critical: Limit from which on a breach is critical. Without it a warning becomes critical
            a factor of two further in the bad direction: twice `above`, half of `below`; under
            0 it is half of `above`, twice `below`; for a limit of 0 never.
        min_samples: Predictions in the window below which nothing is known; of a metric or a
            figure of the performance its own `n`. Give 0 for a rule on such an `n` itself.
        consecutive: Evaluations in breach in a row before an alert opens; 1 is at once, None is
            what the monitor does (two).

    Raises:
        ConfigError: A value breaks its rule, or `metric` is no arithmetic over known figures.

    Example:
        >>> rule = AlertRule(name="slow", metric="latency.p95_ms", above=50.0)
        >>> figures = {"latency": {"p95_ms": 120.0}, "n_window": 1000}
        >>> reading = rule.reading(figures)
        >>> reading.state.value, reading.severity.value
        ('breach', 'critical')
    """

    name: str
    metric: str
    above: float | None = None
    below: float | None = None
    severity: str = "warning"
    critical: float | None = None
    min_samples: int = MIN_PREDICTIONS
    consecutive: int | None = None
    _expression: Expression = field(init=False, repr=False, compare=False)
    _limit: Limit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_name(self.name, what="rule name")
        if self.name in WATCHED_NAMES:
            raise ConfigError(
                f"rule name {self.name!r} is one of the monitor's own: "
                f"{', '.join(sorted(WATCHED_NAMES))}. Choose another one, or set its limit by "
                "alert_thresholds=."
            )
        whole_number(self.min_samples, what=f"Rule {self.name!r}: min_samples", least=0)
        if self.consecutive is not None:
            whole_number(self.consecutive, what=f"Rule {self.name!r}: consecutive", least=1)
        # The frozen class allows no other way to keep what is worked out once.
        object.__setattr__(self, "_expression", Expression(self.metric))
        object.__setattr__(self, "_limit", self._checked_limit())

    def reading(self, figures: Mapping[str, Any]) -> Reading:
        """How the figure stands to the limit; never raises.

        Args:
            figures: The monitor's summary, with the baseline's figures under `baseline`.
        """
        limit = self._limit
        try:
            value = self._known_value(figures)
        except UnknownFigureError as error:
            return Reading(
                name=self.name,
                state=State.UNKNOWN,
                severity=limit.severity,
                threshold=limit.value,
                message=f"{self.name}: {error}",
                n_consecutive=self.consecutive,
            )
        state = limit.state_of(value)
        stands = limit.describe() if state is State.BREACH else f"limit {limit.value:.4g}"
        return Reading(
            name=self.name,
            state=state,
            severity=limit.severity_of(value),
            value=value,
            threshold=limit.value,
            message=f"{self.name}: {self.metric} is {value:.4g}, {stands}.",
            n_consecutive=self.consecutive,
        )

    def _known_value(self, figures: Mapping[str, Any]) -> float:
        value = self._expression.value(figures)
        n_samples, of_what = min(_samples_behind(path, figures) for path in self._expression.paths)
        if n_samples < self.min_samples:
            raise UnknownFigureError(
                f"{n_samples} {of_what}; the rule needs {self.min_samples} (min_samples)."
            )
        return value

    def _checked_limit(self) -> Limit:
        severity = checked_severity(self.severity)
        if severity is None or (self.above is None) == (self.below is None):
            raise ConfigError(
                f"Rule {self.name!r} needs a severity and one of above= and below=; got severity "
                f"{self.severity!r}, above {self.above!r} and below {self.below!r}."
            )
        is_upper = self.above is not None
        value = self._finite("above" if is_upper else "below")
        critical = None if self.critical is None else self._finite("critical")
        if critical is None and severity is Severity.WARNING:
            critical = critical_limit(value, is_upper=is_upper)
        limit = Limit(value=value, is_upper=is_upper, severity=severity, critical=critical)
        if critical is not None and (critical < value if is_upper else critical > value):
            raise ConfigError(
                f"Rule {self.name!r}: critical={critical} lies on the good side of the limit "
                f"{value}, where there is no breach. Set it beyond the limit."
            )
        return limit

    def _finite(self, field_name: str) -> float:
        value = getattr(self, field_name)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(
                f"Rule {self.name!r}: {field_name} must be a finite number, got {value!r}."
            )
        return number


def checked_rules(rules: Sequence[AlertRule]) -> tuple[AlertRule, ...]:
    """The rules themselves.

    Raises:
        ConfigError: Something that is no rule, or two of one name.
    """
    names = set()
    for rule in rules:
        if not isinstance(rule, AlertRule):
            raise ConfigError(f"alert_rules holds AlertRule objects, got {rule!r}.")
        if rule.name in names:
            raise ConfigError(f"Two alert rules are named {rule.name!r}: a name is one alert.")
        names.add(rule.name)
    return tuple(rules)


def _samples_behind(path: Sequence[str | int], figures: Mapping[str, Any]) -> tuple[int, str]:
    """How many values a figure was made from, and what they are."""
    if path[0] not in {"metrics", "performance"}:
        return int(figures.get("n_window") or 0), "predictions in the window"
    figure: Any = figures
    for key in path[:-1]:
        figure = figure[key]
    name = ".".join(map(str, path[1 if path[0] == "metrics" else 0 : -1]))
    what = f"metric {name!r}" if path[0] == "metrics" else name
    return int(figure.get("n") or 0), f"values of {what}"
