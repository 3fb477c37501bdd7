"""Whether more or less of a metric is better, judged by its name."""

import re
from collections.abc import Sequence

_LESS_IS_BETTER = frozenset(
    {"loss", "losses", "logloss", "nll", "perplexity", "brier", "crps", "regret"}
    | {"error", "errors", "mse", "mae", "rmse", "mape", "smape", "wape", "mase"}
    | {"failure", "failures", "timeout", "timeouts"}
    | {"latency", "latencies", "distance"}
    | {"drawdown", "drawdowns", "dd", "maxdd", "mdd", "maxdrawdown"}
    | {"vol", "volatility", "var", "cvar", "shortfall"}
    | {"cost", "costs", "fee", "fees", "slippage", "turnover"}
)
# As in `error_reduction` and scikit-learn's `neg_mean_squared_error`: more of it is less harm.
_TURNS_IT_ROUND = frozenset(
    {"reduction", "improvement", "improvements", "gain", "gains"}
    | {"saved", "savings", "avoided", "neg", "explained"}
)


def is_lower_better(metric: str) -> bool:
    """Whether, by common usage, the smaller value of a metric of this name is the better one.

    Decided by the words of the name: `max_dd`, `ValLoss` and `latency_p99_ms` are; `volume` and
    `sharpe` are not. `drawdown`, `var` and their like are taken as positive sizes. In a ratio, a
    `return_over_error` or a `cost_per_trade`, what is divided decides. A caller who knows better
    says so where it matters.
    """
    # Both readings, because a capital inside a word is no new word in `VaR_95`.
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", metric)
    return any(_is_lower_better(_words(name)) for name in (metric, parted))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _is_lower_better(words: Sequence[str]) -> bool:
    if not _TURNS_IT_ROUND.isdisjoint(words):
        return False
    return not _LESS_IS_BETTER.isdisjoint(_divided(words))


def _divided(words: Sequence[str]) -> Sequence[str]:
    """The words of what is divided in a ratio; all words of anything else."""
    for index, word in enumerate(words):
        if word in {"over", "per"}:
            return words[:index]
    # `profit_loss_ratio` is a profit over a loss.
    return words[:1] if words and words[-1] == "ratio" else words
