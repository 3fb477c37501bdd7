"""One outcome, and what is allowed in it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard._core.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One outcome of one variant.

    Attributes:
        variant: Who gave it; `held_out` where a user was kept out of the experiment.
        epoch: Weight epoch in which the variant was assigned.
        metrics: Values by name; NaN where the value was not finite, or beyond 1e60.
        at: When it was recorded, ISO 8601.
        unit: The user or other unit it belongs to, if known.
        request_id: Counts once for each variant; outcomes of a pair share it.
        first_epoch: Weight epoch in which the unit was first given the variant, where that is
            known and another one; for the check of the split.
    """

    variant: str
    epoch: int
    metrics: Mapping[str, float]
    at: str = ""
    unit: str | None = None
    request_id: str | None = None
    first_epoch: int | None = None


# Beyond this size a square, or a square's square, is no number any more.
LARGEST = 1e60
# Not a name that a variant can have: theirs begin with a letter or a digit.
HELD_OUT = "(held out)"


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats; None, what is not finite and what lies beyond 1e60 become NaN.

    Raises:
        ConfigError: Not a mapping, no metric at all, or a value that is no number.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise ConfigError(f"metrics must be a dict of numbers with at least one, got {metrics!r}.")
    checked = {}
    for name, value in metrics.items():
        try:
            number = math.nan if value is None else float(value)
        except OverflowError:
            number = math.nan  # a whole number of more than 300 digits
        except (TypeError, ValueError) as error:
            raise _no_number(name, value) from error
        if isinstance(value, str | bytes):
            raise _no_number(name, value)
        checked[str(name)] = _usable(number)
    return checked


def _usable(number: float) -> float:
    if abs(number) <= LARGEST:
        return number if abs(number) >= 1.0 / LARGEST else 0.0
    return math.nan


def _no_number(name: Any, value: Any) -> ConfigError:
    return ConfigError(
        f"metric {name!r} must be a number, got {type(value).__qualname__} {value!r}."
    )


def require_binary(metrics: Mapping[str, float], proportions: frozenset[str]) -> None:
    """Check that values of proportions are 0 or 1; NaN, which counts as missing, is let pass.

    Raises:
        ConfigError: One is neither.
    """
    for name in proportions & metrics.keys():
        value = metrics[name]
        if value not in (0.0, 1.0) and math.isfinite(value):
            raise ConfigError(f"metric {name!r} is a proportion: 0 or 1 is wanted, got {value!r}.")


def grouped(results: Iterable[Result]) -> list[list[Result]]:
    """Results that share a request id, together, in the order in which they first appear."""
    groups: dict[str, list[Result]] = {}
    for index, result in enumerate(results):
        groups.setdefault(result.request_id or f"#{index}", []).append(result)
    return list(groups.values())
