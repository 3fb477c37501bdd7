"""The rules of an update strategy, checked when they are given."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from numbers import Real
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from modelyard._core.errors import ConfigError
from modelyard.stats.direction import is_lower_better
from modelyard.update_strategy.windows import UpdateWindow, window_of, zone_of

_DIRECTIONS = ("higher", "lower")
_LISTS = ("steps", "update_windows", "approval_steps")
_CRON_FIELDS = 5
# From any moment on a schedule either fires within the leap years that follow, or never.
_SOME_MOMENT = datetime(2024, 1, 1, tzinfo=UTC)
_PERCENT = 100.0
_FRACTIONS = (
    "performance_threshold",
    "rollback_threshold",
    "error_rate_threshold",
    "confidence_level",
)
_POSITIVE = (
    "drift_threshold",
    "min_samples",
    "step_min_samples",
    "max_consecutive_rollbacks",
    "latency_margin",
    "key_metric_margin",
)
_WHOLE = ("min_samples", "step_min_samples", "max_consecutive_rollbacks")
_NOT_NEGATIVE = (
    "cooldown_hours",
    "rollback_cooldown_hours",
    "transition_minutes",
    "shadow_minutes",
    "bake_minutes",
    "latency_floor_ms",
)


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
        schedule: Cron expression of five fields (UTC) by which an update is due; None for none.
        transition_minutes: How long a smooth transition takes at the least.
        steps: Share of traffic of the new version at each step, in percent, rising to 100. Only
            below 100 the stable version answers beside it: with [100] nothing is compared.
        step_min_samples: Answers of the new version needed at each step, and of the stable one to
            compare with. The deployment's window must hold as many; 95th percentiles are compared
            from ten times as many on.
        latency_floor_ms: A latency up to this is never too slow, whatever the baseline: twice a
            twentieth of a millisecond is noise of the machine.
        allow_uncalibrated_drift: Whether drift counts before the monitor has calibrated itself.
        rollback_cooldown_hours: Time after a rollback in which no update is due.
        max_consecutive_rollbacks: After so many rollbacks in a row nothing is due until somebody
            begins a rollout himself.
        update_windows: When a rollout may begin and take steps, such as `mon-fri 22:00-04:00`;
            empty means always. They delay no rollback.
        timezone: Whose clock the windows go by, such as `Asia/Shanghai`.
        shadow_minutes: How long the candidate first answers copies of requests, whose answers
            nobody gets; 0 for not at all.
        approval_steps: Shares in percent that somebody must approve before the candidate gets
            them, the first one too. An update without steps asks nobody.
        bake_minutes: How long after its promotion a version is still watched and goes back by
            itself, the one before kept loaded; where something measures it.
        error_margin: How much higher the candidate's error rate may be than the stable version's,
            counted by all users; None means `error_rate_threshold`.
        latency_margin: How much longer its median latency may be, as a part of the other's.
        confidence_level: 1 - the accepted chance of a false answer in judging a rollout.
        require_key_metric: Whether a step also waits until the key metric is shown to be no worse
            by `key_metric_margin`; a Sharpe ratio may take years for it.
        key_metric_margin: How much worse it may be, as a part of the stable version's.
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
    rollback_cooldown_hours: float = 72.0
    max_consecutive_rollbacks: int = 3
    update_windows: tuple[str, ...] = ()
    timezone: str = "UTC"
    shadow_minutes: float = 0.0
    approval_steps: tuple[float, ...] = ()
    bake_minutes: float = 10.0
    error_margin: float | None = None
    latency_margin: float = 0.5
    confidence_level: float = 0.95
    require_key_metric: bool = False
    key_metric_margin: float = 0.1

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise ConfigError(f"{name} must lie strictly between 0 and 1, got {value}.")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}.")
        if math.isinf(self.latency_margin):
            raise ConfigError("latency_margin must be finite: it is what latencies are held to.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if self.error_margin is not None and not 0.0 < self.error_margin < 1.0:
            raise ConfigError(
                f"error_margin must lie strictly between 0 and 1, got {self.error_margin}."
            )
        _check_steps(self.steps)
        self._check_plan()

    def _check_plan(self) -> None:
        """What windows, approvals and the key metric are about must be there."""
        for text in self.update_windows:
            window_of(text)
        zone_of(self.timezone)
        unknown = [share for share in self.approval_steps if share not in self.steps]
        if unknown:
            raise ConfigError(
                f"approval_steps must be among the steps {list(self.steps)}, got {unknown}."
            )
        if self.require_key_metric and self.key_metric is None:
            raise ConfigError("require_key_metric needs key_metric, the metric's name.")

    def _check_kinds(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            if not isinstance(value, tuple | list):
                raise ConfigError(f"{name} must be a list, got {value!r}.")
        for name in ("auto_rollback", "allow_uncalibrated_drift", "require_key_metric"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        if self.key_metric_direction not in {None, *_DIRECTIONS}:
            raise ConfigError(
                f"key_metric_direction must be 'higher' or 'lower', "
                f"got {self.key_metric_direction!r}."
            )
        self._check_numbers()
        if self.key_metric is not None and not (
            isinstance(self.key_metric, str) and self.key_metric
        ):
            raise ConfigError(f"key_metric must be the name of a metric, got {self.key_metric!r}.")
        if self.schedule is not None:
            _check_schedule(self.schedule)

    def _check_numbers(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if _is_bool(value) or not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number, got {value!r}.")
        for name in (*_FRACTIONS, *_POSITIVE, *_NOT_NEGATIVE, "error_margin"):
            value = getattr(self, name)
            if not _is_number(value) and not (name == "error_margin" and value is None):
                raise ConfigError(f"{name} must be a number, got {value!r}.")
        for name in ("steps", "approval_steps"):
            if not all(map(_is_number, getattr(self, name))):
                raise ConfigError(f"{name} must be numbers, got {list(getattr(self, name))!r}.")

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
        for name in given.keys() & set(_LISTS):
            if isinstance(given[name], str) or not isinstance(given[name], Iterable):
                raise ConfigError(f"{name} must be a list, got {given[name]!r}.")
            given[name] = tuple(given[name])
        return cls(**given)

    def direction(self, values: Iterable[float | None] = ()) -> float:
        """1 where a larger key metric is better, else -1.

        Args:
            values: Some of its values: a drawdown recorded below zero is the better the larger.
        """
        if self.key_metric_direction is not None:
            return 1.0 if self.key_metric_direction == "higher" else -1.0
        return -1.0 if is_lower_better(self.key_metric or "", values) else 1.0

    @property
    def shares(self) -> tuple[float, ...]:
        """The new version's share at each step, 0 to 1."""
        return tuple(step / _PERCENT for step in self.steps)

    @property
    def largest_excess(self) -> float:
        """How much higher the error rate of all users may become, 0 to 1."""
        return self.error_rate_threshold if self.error_margin is None else self.error_margin

    @property
    def windows(self) -> tuple[UpdateWindow, ...]:
        """When a rollout may go forward."""
        return tuple(window_of(text) for text in self.update_windows)

    @property
    def zone(self) -> ZoneInfo:
        """Whose clock the windows go by."""
        return zone_of(self.timezone)

    @property
    def step_s(self) -> float:
        """Seconds each step lasts at the least."""
        return self.transition_minutes * 60.0 / len(self.steps)


def _is_bool(value: Any) -> bool:
    """Whether it is a truth value, which is an int to Python and no number of anything."""
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not _is_bool(value)


def _check_schedule(schedule: Any) -> None:
    is_cron = isinstance(schedule, str) and bool(croniter.is_valid(schedule))
    if not is_cron or len(schedule.split()) not in {1, _CRON_FIELDS}:  # one: @daily
        raise ConfigError(
            f"schedule {schedule!r} is no cron expression of five fields such as '0 3 * * 1-5'."
        )
    try:
        croniter(schedule, _SOME_MOMENT).get_next(datetime)
    except CroniterError as error:
        raise ConfigError(
            f"schedule {schedule!r} never comes round: there is no such day."
        ) from error


def _check_steps(steps: tuple[float, ...]) -> None:
    is_rising = all(a < b for a, b in itertools.pairwise(steps))
    if not steps or not is_rising or steps[0] <= 0 or steps[-1] != _PERCENT:
        raise ConfigError(f"steps must rise to 100, such as [10, 50, 100]; got {list(steps)}.")
