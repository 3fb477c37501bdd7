"""Whether more or less of a metric is better, judged by its name.

A name is read as the English compound that it is: `error_detection_rate` is about detection and
`accuracy_loss` about a loss, so the last word that says something decides. What follows `after`,
`net of`, `per`, `over` and their like only qualifies what stands before.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal

_LESS_IS_BETTER = frozenset(
    {"loss", "losses", "losing", "loser", "losers", "lost", "logloss", "valloss", "trainloss"}
    | {"nll", "perplexity", "brier", "crps", "pinball", "regret", "penalty", "penalties"}
    | {"error", "errors", "err", "errorrate", "mse", "mae", "rmse", "mape", "smape", "wape"}
    | {"mase", "msle", "rmsle", "wer", "cer", "ece", "fpr", "fnr", "residual", "residuals", "gap"}
    | {"failure", "failures", "failed", "fail", "fails", "timeout", "timeouts", "crash", "crashes"}
    | {"exception", "exceptions", "defect", "defects", "miss", "misses", "missed", "rejected"}
    | {
        "reject",
        "rejects",
        "rejection",
        "rejections",
        "violation",
        "violations",
        "breach",
        "breaches",
        "churn",
    }
    | {"latency", "latencies", "delay", "delays", "lag", "jitter", "downtime", "outage", "outages"}
    | {"distance", "divergence", "drift", "slowdown", "ttft", "wait", "waiting", "staleness"}
    | {"drawdown", "drawdowns", "dd", "maxdd", "mdd", "maxdrawdown", "cdar", "ulcer", "pain"}
    | {"vol", "volatility", "var", "cvar", "shortfall", "risk", "downside", "underwater", "ruin"}
    | {"variance", "semivariance", "deviation", "semideviation", "std", "stdev"}
    | {"cost", "costs", "fee", "fees", "slippage", "turnover", "expense", "expenses"}
    | {"commission", "commissions", "tax", "taxes", "liquidation", "liquidations"}
    | {"psi", "kl", "bce", "fdr"}
)
# Time and space that are taken: less is better, where no other word says what it is a time of.
_TAKEN = frozenset(
    {"elapsed", "duration", "durations", "runtime", "memory", "rss", "ms", "ns", "msec", "millis"}
    | {"milliseconds", "microseconds", "seconds", "kb", "mb", "gb", "bytes"}
)
# So they are at the end of a name after what takes a time; else `us` is a country, and `s` may be
# what something is counted in, as in `tok_s`.
_TAKEN_AT_THE_END = frozenset({"us", "s", "sec", "secs", "second"})
_TAKES_TIME = frozenset(
    {"inference", "infer", "predict", "prediction", "forward", "backward", "call", "compute"}
    | {"request", "response", "step", "load", "save", "run", "decision", "tick", "order", "query"}
    | {"batch", "epoch", "train", "training", "fit", "eval", "test", "export", "compile", "build"}
    | {"startup", "warmup", "queue", "execution", "processing"}
    | {"p", "mean", "avg", "average", "median", "max", "min", "total", "time"}
)
# A time of these is as it was wanted.
_AS_WANTED = frozenset({"hold", "holding", "held", "horizon", "interval", "window", "lookback"})
# Of these a number below zero is one whose sign was turned, as some libraries turn a drawdown's.
_SIZES = frozenset(
    {"drawdown", "drawdowns", "dd", "maxdd", "mdd", "maxdrawdown", "cdar", "underwater"}
    | {"var", "cvar", "shortfall"}
)
_MORE_IS_BETTER = frozenset(
    {"return", "returns", "ret", "pnl", "profit", "profits", "profitability", "income", "revenue"}
    | {"earnings", "yield", "premium", "carry", "alpha", "cagr", "reward", "rewards", "utility"}
    | {"sharpe", "sortino", "calmar", "omega", "expectancy", "edge", "ic", "icir", "win", "wins"}
    | {"accuracy", "acc", "auc", "auroc", "precision", "recall", "r2", "f1", "correlation", "corr"}
    | {"coverage", "detection", "performance", "efficiency", "effectiveness", "benefit"}
    | {"benefits", "skill", "success", "successes", "uptime", "availability", "throughput"}
    | {"goodput", "bandwidth", "speedup", "upside"}
    | {"recovery", "resilience", "robustness", "stability", "survival", "tolerance", "control"}
    | {"protection", "headroom", "budget", "compliance", "attainment", "adherence", "met"}
)
# Wherever they stand, what they belong to got better: `loss_avoided`, `explained_var`.
_FOR_THE_BETTER = frozenset(
    {"improvement", "improvements", "gain", "gains", "saved", "saving", "savings", "avoided"}
    | {"prevented", "averted", "recovered", "eliminated", "explained", "earned", "collected"}
)
# Less of what stands before: harm, unless the name says otherwise.
_LESS_HARM = frozenset({"reduction", "reductions", "decrease", "mitigation"})
# The same of something good: an `accuracy_drop`.
_LESS_GOOD = frozenset({"drop", "decline", "decay", "degradation", "deterioration"})
# As in scikit-learn's `neg_mean_squared_error`: of what follows, the opposite.
_OPPOSITE = frozenset({"neg", "negative", "inverse", "inv"})

# What they bring only qualifies what stands before.
_ASIDE = frozenset(
    {"after", "before", "post", "pre", "net", "gross", "ex", "excluding", "excl", "without"}
    | {"including", "incl", "less", "minus", "plus"}
    | {"over", "per", "to", "vs", "versus", "against", "by", "given", "than", "above", "below"}
    | {"since", "until", "between", "beyond", "despite"}
)
# So do these, unless nothing but a measure stands before: a `share_of_errors` is about errors.
_LINK = frozenset(
    {"of", "in", "at", "during", "under", "with", "within", "for", "on", "from", "and", "when"}
)
_MEASURE = frozenset(
    {"n", "num", "number", "count", "total", "sum", "share", "rate", "ratio", "percent", "pct"}
    | {"percentage", "fraction", "probability", "prob", "chance", "value", "level", "margin"}
    | {"mean", "avg", "average", "median", "max", "maximum", "min", "minimum", "worst", "largest"}
    | {"expected", "conditional", "time", "days", "hours", "minutes", "seconds", "bars", "trades"}
)
# What a metric is of, in front of its name: `val_loss_ratio`.
_SPLITS = frozenset(
    {"train", "val", "valid", "validation", "dev", "test", "holdout", "oos", "live", "backtest"}
    | {"model", "strategy", "portfolio", "daily", "weekly", "monthly", "annual", "rolling"}
)
# The word before them only qualifies: `volatility_adjusted_return`.
_QUALIFIED = frozenset(
    {"adjusted", "adj", "weighted", "scaled", "normalised", "normalized", "corrected", "aware"}
    | {"penalised", "penalized", "sensitive", "based", "targeted", "controlled", "neutral"}
    | {"hedged", "constrained"}
)
# The word after them is not there, as the one before `free` is not.
_NONE_OF = frozenset({"no", "non", "zero"})

# What lasts as long as somebody wants it to.
_WANTED = "session|visit|watch|play|listening|engagement|dwell|episode|trade|position"
# Words that say together what none of them says alone.
_PHRASES = tuple(
    (re.compile(rf"\b(?:{phrase})\b"), meaning)
    for phrase, meaning in (
        (r"ex (?:ante|post)", ""),
        (r"draw downs?", "drawdown"),
        (r"timed? outs?", "timeout"),
        (r"(?:profits?|gains?|wins?) (?:and |or )?loss(?:es)?|p (?:and )?l", "pnl"),
        (r"(?:returns?|rewards?|profits?) (?:max )?(?:risk|drawdown|dd|maxdd)", "return"),
        (r"risk (?:to )?(?:rewards?|returns?)", "reward"),
        (r"(?:std|stdev) (?:returns?|rewards?|pnl)", "std"),
        (r"hit (?:rate|ratio)|true (?:positives?|negatives?)", "accuracy"),
        (r"false (?:positives?|negatives?|alarms?)|bounce rate", "error"),
        (r"cross entropy|(?:neg|negative) log likelihood", "nll"),
        (r"market impact|(?:spread|funding) paid", "cost"),
        (r"margin calls?|stop outs?", "loss"),
        (r"(?:capital|equity|earnings|value|money|portfolio) at risk", "risk"),
        (r"(?:model|file|disk|package|download) size", "memory"),
        (r"(?:compute|fill|fit|training|wall|cpu|gpu|load|processing|decision) time", "elapsed"),
        (r"(?:k|m|g)?b (?:per )?(?:s|sec|second)", ""),
        (r"(?:bytes|[kmg]b) (?:processed|served|handled)", "throughput"),
        (
            rf"(?:{_WANTED}) (?:duration|time|seconds|minutes)(?: (?:ms|s|sec|seconds|minutes))?",
            "",
        ),
        (r"under water", "underwater"),
        (r"^es$", "shortfall"),
        (r"(?:response|inference|execution|recovery) (?:time|days|bars|duration)", "latency"),
        (r"time to (?:recovery|recover|first)", "latency"),
    )
)


# What something is told for one of, after the last slash: `req/s`, `ms/token`.
_PER = (
    r"(?:s|sec|secs|second|m|min|minute|h|hr|hour|d|day|week|month|year|step|token|tok|request|req"
    r"|sample|image|img|trade|order|share|user|core|epoch|batch)"
)


def is_lower_better(metric: str, values: Iterable[float | None] = ()) -> bool:
    """Whether, by common usage, the smaller value of a metric of this name is the better one.

    Decided by the words of the name: `max_dd`, `ValLoss` and `latency_p99_ms` are; `volume` and
    `sharpe` are not. `drawdown`, `var` and their like are taken as positive sizes. In a ratio, a
    `return_over_error` or a `cost_per_trade`, what is divided decides; in `pnl_after_costs` and
    `return_net_of_fees` what stands before; `error_free_rate` and `loss_avoided` are about no
    error and no loss. A name that says nothing counts as one of which more is better. A caller
    who knows better says so where it matters.

    Args:
        metric: Its name.
        values: Some of its values, if there are any: where they tell that a drawdown's sign is
            turned, the larger number is the better one.
    """
    return direction_of_name(metric) == "less" and not is_sign_turned(metric, values)


def is_sign_turned(metric: str, values: Iterable[float | None]) -> bool:
    """Whether a size, as a drawdown or a shortfall is one, is recorded in numbers below zero."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known or max(known) > 0.0 or min(known) >= 0.0:
        return False
    return direction_of_name(metric) == "less" and not _SIZES.isdisjoint(_words(metric))


def contradicts_name(metric: str, values: Iterable[float | None], *, maximize: bool) -> bool:
    """Whether the name says that the other way is better than the one that is asked for."""
    direction = direction_of_name(metric)
    return direction is not None and is_lower_better(metric, values) == maximize


def direction_of_name(metric: str) -> Literal["less", "more"] | None:
    """Of what more, or less, is better by its name; None where the name says nothing."""
    is_less = _is_less_by_name(metric)
    return None if is_less is None else "less" if is_less else "more"


def _is_less_by_name(metric: str) -> bool | None:
    words = _subject(_words(metric))
    is_less = _is_less_by_words(words)
    if is_less is None and _is_taken(words):
        return True
    return is_less


def _is_taken(words: Sequence[str]) -> bool:
    """Whether it is a time or a space that something takes, as far as its units tell."""
    if not _AS_WANTED.isdisjoint(words):
        return False
    if not _TAKEN.isdisjoint(words):
        return True
    # `inference_us_p99` ends in its unit, too.
    ends = [i for i, word in enumerate(words) if word not in _MEASURE and word != "p"]
    if not ends or words[ends[-1]] not in _TAKEN_AT_THE_END or not ends[-1]:
        return False
    return words[ends[-1] - 1] in _TAKES_TIME


def _is_less_by_words(words: list[str]) -> bool | None:
    if not _FOR_THE_BETTER.isdisjoint(words):
        return False
    if words and words[-1] == "ratio":
        words = _divided(words)
    is_less = _is_less(words)
    if not _OPPOSITE.isdisjoint(words):
        return not is_less
    return is_less


def _divided(words: Sequence[str]) -> list[str]:
    """What stands first in a ratio, as in `cost_income_ratio`; nothing where it says nothing."""
    told = [word for word in words if word not in _MEASURE | _SPLITS]
    known = [word for word in told if word in _LESS_IS_BETTER | _MORE_IS_BETTER][:1]
    # Of `quality_cost_ratio` it says nothing that the cost is divided by.
    return known if known and (known == told[:1] or known[0] in _MORE_IS_BETTER) else []


def _words(metric: str) -> list[str]:
    # A capital inside of them is no new word.
    name = metric.replace("VaR", "Var").replace("PnL", "Pnl")
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    # In `volume_500ms` a time is only what it is measured over.
    name = re.sub(rf"/(?={_PER}$)", " per ", name)
    name = re.sub(r"(?<![a-z0-9])[0-9]+(?:ms|us|s|sec|m|min|h|d)(?![a-z0-9])", "", name)
    text = " ".join(re.findall(r"r2|f1|[a-z]+", name))
    for phrase, meaning in _PHRASES:
        text = phrase.sub(meaning, text)
    return text.split()


def _subject(words: Sequence[str]) -> list[str]:
    """The words that a name is about, what qualifies them left out."""
    words = _without_absent(_without_qualifiers(words))
    if words and words[0] in _ASIDE:
        words = _after_aside(words)
    for index, word in enumerate(words):
        if word in _ASIDE and index:
            return words[:index]
        if word in _LINK:
            before, after = words[:index], words[index + 1 :]
            # `drop in accuracy` is an accuracy drop.
            return before if _has_content(before) else [*_subject(after), *before]
    return words


def _after_aside(words: Sequence[str]) -> list[str]:
    """What `after_cost_return` and `net_of_fees_return` are about: a return."""
    if words[0] in {"net", "gross"} and words[1:2] != ["of"]:
        return list(words[1:])  # `net_return`
    if words[0] in {"per", "over", "above", "below"}:
        return list(words[1:])  # `per_trade_cost`
    return list(words[3:] if words[1:2] == ["of"] else words[2:])


def _without_qualifiers(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for index, word in enumerate(words):
        if word not in _QUALIFIED:
            kept.append(word)
        elif kept and (len(kept) > 1 or _has_content(words[index + 1 :])):
            # Nothing else is there in `loss_weighted`: it is a loss.
            kept.pop()
    return kept


def _without_absent(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    is_absent = False
    for word in words:
        if word == "free":
            del kept[-1:]
        elif not is_absent and word not in _NONE_OF:
            kept.append(word)
        is_absent = word in _NONE_OF
    return kept


def _has_content(words: Iterable[str]) -> bool:
    return any(word not in _MEASURE | _LESS_HARM | _LESS_GOOD | _OPPOSITE for word in words)


def _is_less(words: Iterable[str]) -> bool | None:
    """Whether less is better by the last word that says something; None if none does."""
    is_less: bool | None = None
    for word in words:
        if word in _LESS_IS_BETTER:
            is_less = True
        elif word in _MORE_IS_BETTER:
            is_less = False
        elif word in _LESS_HARM:
            is_less = is_less is False
        elif word in _LESS_GOOD:
            is_less = is_less is not True
    return is_less
