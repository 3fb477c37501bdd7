"""What a rule sees at one evaluation, and how a value compares with a limit."""

import math
from dataclasses import dataclass
from enum import StrEnum

from modelyard.monitor.alerting.alerts import Severity

# An alert is held while its value is within this share of the limit: without a margin, a value
# that wanders about the limit opens and resolves an alert at every evaluation.
HOLD_SHARE = 0.1
# "Critical" is over twice the limit, or under half of one that must not be fallen below.
CRITICAL_FACTOR = 2.0


class State(StrEnum):
    """How a value stands to its limit.

    `calm` ends an alert, `breach` makes one; `held` (just inside the limit) and `unknown` (too
    little data) do neither.
    """

    CALM = "calm"
    HELD = "held"
    BREACH = "breach"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One rule at one evaluation.

    Attributes:
        name: Of the rule; unique among the rules of a monitor.
        state: How the value stands to the limit.
        severity: How urgent; of use in a breach only.
        value: As measured; NaN where it is unknown.
        threshold: The limit; NaN where there is none.
        message: A sentence with the numbers, or why the value is unknown.
        n_consecutive: Evaluations in breach before an alert opens; 1 is at once, None is what
            the book does.
        began_at: When the change began, ISO 8601, if known.
    """

    name: str
    state: State
    severity: Severity = Severity.WARNING
    value: float = math.nan
    threshold: float = math.nan
    message: str = ""
    n_consecutive: int | None = None
    began_at: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A value that must not be exceeded, or not be fallen below.

    Attributes:
        value: The limit itself is still allowed.
        is_upper: Whether it must not be exceeded.
        severity: Of a breach.
        critical: From beyond here on it is critical; None for never.
        hold_share: Share of the limit within which an alert is held, 0 to 1.
    """

    value: float
    is_upper: bool
    severity: Severity = Severity.WARNING
    critical: float | None = None
    hold_share: float = HOLD_SHARE

    def state_of(self, value: float) -> State:
        """How a value stands to the limit; NaN is unknown."""
        if math.isnan(value):
            return State.UNKNOWN
        if self._is_beyond(value, self.value):
            return State.BREACH
        margin = self.hold_share * abs(self.value)
        inside = self.value - margin if self.is_upper else self.value + margin
        return State.HELD if self._is_beyond(value, inside) else State.CALM

    def severity_of(self, value: float) -> Severity:
        """How urgent a breach by this value is."""
        if self.critical is not None and self._is_beyond(value, self.critical):
            return Severity.CRITICAL
        return self.severity

    def describe(self) -> str:
        """`over the limit of 100` or `under the limit of 0.5`, for a message."""
        return f"{'over' if self.is_upper else 'under'} the limit of {self.value:.4g}"

    def _is_beyond(self, value: float, limit: float) -> bool:
        return value > limit if self.is_upper else value < limit


def critical_limit(limit: float, *, is_upper: bool) -> float | None:
    """Where a breach becomes critical unless it is said otherwise.

    A factor of two further in the bad direction: `above=100` at 200, `below=10` at 5, and with
    the sign turned `above=-10` at -5, `below=-1` at -2. Twice 0 is 0, so a limit of 0 has none.
    """
    if limit == 0.0:
        return None
    is_outward = is_upper == (limit > 0.0)
    return limit * CRITICAL_FACTOR if is_outward else limit / CRITICAL_FACTOR
