"""Whether more or less of a metric is better, judged by its name."""

import re

_LESS_IS_BETTER = frozenset(
    {"loss", "error", "errors", "latency", "drawdown", "dd", "mse", "mae", "rmse", "mape"}
    | {"vol", "volatility", "cost", "costs", "turnover", "distance"}
)


def is_lower_better(metric: str) -> bool:
    """Whether, by common usage, the smaller value of a metric of this name is the better one.

    Decided by the words of the name: `max_dd`, `forecast_error` and `latency_p99_ms` are; `volume`
    and `sharpe` are not. A caller who knows better says so where it matters.
    """
    words = re.split(r"[^a-z]+", metric.lower())
    return not _LESS_IS_BETTER.isdisjoint(words)
