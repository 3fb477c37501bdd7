"""One figure over time."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.summaries import WindowSummary


class PointDict(TypedDict):
    """A figure of one window, or of an hour's or day's windows put together.

    `at` is when it ended, `n` how many predictions it is made of; `value` is None where it was
    not known.
    """

    at: str
    started_at: str
    value: float | None
    n: int
    span: str


def points_of(metric: str, windows: Iterable[WindowSummary]) -> list[PointDict]:
    """One figure of each window, in the order given.

    Args:
        metric: Names joined by dots, such as `latency.p99_ms` or `metrics.sharpe.mean`; of a
            metric and of drift the last name may be left out.
        windows: Where from.

    Raises:
        ConfigError: No window has a figure of this name; the message lists those there are.
    """
    kept = list(windows)
    figures = [one.figures() for one in kept]
    path = metric.split(".") if metric else []
    values = [_value(one, path) for one in figures]
    if kept and all(value is _MISSING for value in values):
        names = sorted({name for one in figures for name in _names(one)})
        near = difflib.get_close_matches(metric, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"No figure {metric!r} in the history.{hint} There are: {', '.join(names)}."
        )
    return [
        {
            "at": one.ended_at,
            "started_at": one.started_at,
            "value": None if value is _MISSING else value,
            "n": one.health.n_predictions,
            "span": one.span,
        }
        for one, value in zip(kept, values, strict=True)
    ]


_MISSING: Any = object()


def _value(figures: Any, path: Sequence[str]) -> Any:
    found = figures
    for name in path:
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return _MISSING
    if isinstance(found, Mapping) and "mean" in found and path[:1] == ["metrics"]:
        found = found["mean"]
    if found is None:
        return None
    return float(found) if isinstance(found, int | float) else _MISSING


def _names(figures: Mapping[str, Any], before: str = "") -> list[str]:
    names: list[str] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            names += _names(value, f"{before}{name}.")
        elif isinstance(value, list):
            names += [f"{before}{name}.{i}" for i in range(len(value))]
        else:
            names.append(f"{before}{name}")
    return names
