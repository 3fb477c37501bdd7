"""The rules of an update strategy, checked when they are given."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from croniter import croniter

from modelyard._core.errors import ConfigError
from modelyard.stats.direction import is_lower_better

_DIRECTIONS = ("higher", "lower")
_PERCENT = 100.0


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """The rules of an update strategy.

    Attributes:
        performance_threshold: An update is due when the key metric has fallen below this part of
            its baseline.
        drift_threshold: An update is due when a drift score is over this, in standard deviations.
        error_rate_threshold: An update is due when the error rate is over this; rolled back is
            what is over twice this.
        min_samples: Predictions before anything can make an update due.
        cooldown_hours: Time after an update in which none is due.
        auto_rollback: Whether a rollout that breaks a limit is rolled back by itself; without it,
            it is paused.
        rollback_threshold: Rolled back is what has its key metric below this part of the baseline.
        key_metric: Name of the metric that counts, as given to the monitor; None for none.
        key_metric_direction: "higher" or "lower" is better; None judges by the name.
        schedule: Cron expression (UTC) by which an update is due; None for none.
        transition_minutes: How long a smooth transition takes at the least.
        steps: Share of traffic of the new version at each step, in percent, rising to 100.
        step_min_samples: Answers of the new version needed at each step.
        latency_floor_ms: A latency up to this is never too slow, whatever the baseline: twice a
            twentieth of a millisecond is noise of the machine.
        allow_uncalibrated_drift: Whether drift counts before the monitor has calibrated itself.
    """

    performance_threshold: float = 0.8
    drift_threshold: float = 0.3
    error_rate_threshold: float = 0.05
    min_samples: int = 1000
    cooldown_hours: float = 24.0
    auto_rollback: bool = True
    rollback_threshold: float = 0.7
    key_metric: str | None = None
    key_metric_direction: str | None = None
    schedule: str | None = None
    transition_minutes: float = 5.0
    steps: tuple[float, ...] = (10.0, 50.0, 100.0)
    step_min_samples: int = 50
    latency_floor_ms: float = 0.5
    allow_uncalibrated_drift: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("performance_threshold", "rollback_threshold", "error_rate_threshold"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name} must lie strictly between 0 and 1, got {value}.")
        for name in ("drift_threshold", "min_samples", "step_min_samples"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")
        for name in ("cooldown_hours", "transition_minutes"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        _check_steps(self.steps)

    def _check_kinds(self) -> None:
        for name in ("auto_rollback", "allow_uncalibrated_drift"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if self.key_metric_direction not in {None, *_DIRECTIONS}:
            raise ConfigError(
                f"key_metric_direction must be 'higher' or 'lower', "
                f"got {self.key_metric_direction!r}."
            )
        for name in ("min_samples", "step_min_samples"):
            value = getattr(self, name)
            # True is an int to Python, and no count.
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number, got {value!r}.")
        if self.key_metric is not None and not isinstance(self.key_metric, str):
            raise ConfigError(f"key_metric must be the name of a metric, got {self.key_metric!r}.")
        if self.schedule is not None and not _is_cron(self.schedule):
            raise ConfigError(
                f"schedule {self.schedule!r} is no cron expression such as '0 3 * * 1-5'."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> "UpdateSettings":
        """Settings from a dict; what is not named keeps its default.

        Raises:
            ConfigError: An unknown key or a value that breaks its rule.
        """
        given = dict(config or {})
        known = {field.name for field in fields(cls)}
        unknown = sorted(given.keys() - known)
        if unknown:
            raise ConfigError(
                f"Unknown setting {unknown[0]!r}. Known are: {', '.join(sorted(known))}."
            )
        try:
            if "steps" in given:
                given["steps"] = tuple(given["steps"])
            return cls(**given)
        except TypeError as error:
            raise ConfigError(f"A setting has the wrong type: {error}.") from error

    @property
    def direction(self) -> float:
        """1 where a larger key metric is better, else -1."""
        if self.key_metric_direction is not None:
            return 1.0 if self.key_metric_direction == "higher" else -1.0
        return -1.0 if is_lower_better(self.key_metric or "") else 1.0

    @property
    def shares(self) -> tuple[float, ...]:
        """The new version's share at each step, 0 to 1."""
        return tuple(step / _PERCENT for step in self.steps)

    @property
    def step_s(self) -> float:
        """Seconds each step lasts at the least."""
        return self.transition_minutes * 60.0 / len(self.steps)


def _is_cron(schedule: Any) -> bool:
    return isinstance(schedule, str) and bool(croniter.is_valid(schedule))


def _check_steps(steps: tuple[float, ...]) -> None:
    is_rising = all(a < b for a, b in itertools.pairwise(steps))
    if not steps or not is_rising or steps[0] <= 0 or steps[-1] != _PERCENT:
        raise ConfigError(f"steps must rise to 100, such as [10, 50, 100]; got {list(steps)}.")
