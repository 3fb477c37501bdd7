"""False winners, power and stopping times of experiments that are looked at a hundred times.

Each run draws the outcomes of two variants and looks at them a hundred times, as `ABTest` does
after the same outcomes; the first runs of each kind are recorded in an `ABTest`, whose
`get_winner` must say the same at every look.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from _tables import table
from numpy.typing import NDArray

from modelyard.ab_testing import ABTest, ModelVariant
from modelyard.ab_testing.analysis.comparing import MIN_EFFECTIVE_SAMPLES
from modelyard.ab_testing.analysis.dependence import thinned
from modelyard.stats.autocorrelation import effective_share, is_autocorrelated
from modelyard.stats.group_sequential import boundaries
from modelyard.stats.moments import Moments
from modelyard.stats.power import plan
from modelyard.stats.sequential import always_valid
from modelyard.stats.sharpe_difference import paired_sharpe_contrast, sharpe_contrast
from modelyard.stats.significance import Contrast, in_standard_errors, t_test, unpaired

SEED = 8
N_LOOKS = 100
N_PLANNED_LOOKS = 5
N_CHECKED_RUNS = 3
MIN_SAMPLES = 100
EFFECTS = (0.1, 0.2, 0.5)
# gbstats' default; its sequential test is a mixture SPRT, and with this number `always_valid`
# gives its numbers (`tests/stats/test_experiment_references.py`).
GBSTATS_TUNED = 5000
# An experiment that has found nothing is given up at so many times the samples of a t-test.
PATIENCE = 2

_NOTE = (
    "A hundred looks, evenly spaced. *modelyard*: an `ABTest` as it comes, which gives no "
    f"verdict below {MIN_SAMPLES} outcomes each. *Planned*: `n_tuned` as `modelyard ab plan` says "
    f"and `min_samples={MIN_EFFECTIVE_SAMPLES}`. gbstats' sequential test is computed by the "
    f"formula that the tests hold equal to it, tuned at its default of {GBSTATS_TUNED} outcomes. "
    "The t-test that looks every time finds most because it finds differences that are not there."
)

Values = NDArray[np.float64]
Pair = tuple[Values, Values]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is known at one look.

    Attributes:
        n: Outcomes of each variant.
        plain: The difference, every outcome taken as a value of its own.
        effective: The same with its dependence counted.
        effective_n: Independent outcomes that would say as much as those of either variant.
    """

    n: int
    plain: Contrast
    effective: Contrast
    effective_n: int


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of outcomes.

    Attributes:
        name: In words.
        draw: Outcomes of both variants, in order.
        n: Outcomes of each variant in the end.
        kind: `mean` or `sharpe`.
        is_paired: Whether both variants see the same states.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Pair]
    n: int = 5000
    kind: str = "mean"
    is_paired: bool = False


Run = Sequence[Look]
Rule = Callable[[Run], int | None]


def looks(n_runs: int) -> str:
    """Both tables, as Markdown.

    Raises:
        AssertionError: An `ABTest` said something else than the simulation.
    """
    return f"{false_winners(n_runs)}\n\n{powers(n_runs)}\n\n{_NOTE}"


def false_winners(n_runs: int) -> str:
    """How many experiments without a difference get a winner, by data and by rule."""
    rules: dict[str, Rule] = {
        "modelyard": _always_valid(20.0 * MIN_SAMPLES),
        "gbstats, sequential": _gbstats,
        f"O'Brien-Fleming, {N_PLANNED_LOOKS} looks": _planned_looks,
        "t-test, one look": _at_the_end,
        "t-test, every look": _naive,
    }
    rows = []
    for case in _cases():
        found = dict.fromkeys(rules, 0)
        for run in _runs(case, n_runs):
            for name, rule in rules.items():
                found[name] += rule(run) is not None
        rows.append([case.name, str(case.n), *(_percent(found[name], n_runs) for name in rules)])
        print(rows[-1], flush=True)
    return table(
        ("no difference between", "#outcomes each", *(f"#{name}" for name in rules)), rows
    )


def powers(n_runs: int) -> str:
    """What a true difference costs each rule: the chance to find it, and after how long."""
    rows = []
    for effect in EFFECTS:
        n_fixed = plan(effect, std=1.0, inference="fixed_horizon").n_per_variant[0]
        horizon = PATIENCE * n_fixed
        case = Case(name=f"{effect} sigma", draw=partial(_normal, shift=effect), n=horizon)
        rules = _rules_with_power(effect, n_fixed)
        stops: dict[str, list[float]] = {name: [] for name in rules}
        for run in _runs(case, n_runs):
            for name, rule in rules.items():
                stop = rule(run)
                stops[name].append(np.inf if stop is None else stop)
        for name, found in stops.items():
            rows.append(
                [
                    case.name,
                    name,
                    _percent(sum(stop <= n_fixed for stop in found), n_runs),
                    _percent(sum(np.isfinite(found)), n_runs),
                    _median(found),
                ]
            )
            print(rows[-1], flush=True)
    columns = (
        "true difference",
        "rule",
        "#found by the time of the t-test",
        f"#found in {PATIENCE} times that",
        "#median outcomes each",
    )
    return table(columns, rows)


def _rules_with_power(effect: float, n_fixed: int) -> dict[str, Rule]:
    planned = plan(effect, std=1.0)
    return {
        "modelyard": _always_valid(20.0 * MIN_SAMPLES),
        "modelyard, planned": _always_valid(planned.n_total, min_samples=MIN_EFFECTIVE_SAMPLES),
        "gbstats, sequential": _gbstats,
        f"O'Brien-Fleming, {N_PLANNED_LOOKS} looks": partial(_planned_looks, until=n_fixed),
        "t-test, one look": partial(_at_the_end, until=n_fixed),
        "t-test, every look": partial(_naive, min_samples=MIN_EFFECTIVE_SAMPLES),
    }


# ── rules: outcomes of each variant at the look that finds a winner, or None ─────────────────────


def _always_valid(n_tuned: float, *, min_samples: int = MIN_SAMPLES) -> Rule:
    """What `ABTest` does."""
    few = min(min_samples, MIN_EFFECTIVE_SAMPLES)

    def rule(run: Run) -> int | None:
        for look in run:
            if look.n < min_samples or look.effective_n < few:
                continue
            if always_valid(look.effective, n_tuned=n_tuned).p_value < 0.05:
                return look.n
        return None

    return rule


def _gbstats(run: Run) -> int | None:
    for look in run:
        if always_valid(look.plain, n_tuned=GBSTATS_TUNED).p_value < 0.05:
            return look.n
    return None


def _naive(run: Run, *, min_samples: int = MIN_SAMPLES) -> int | None:
    for look in run:
        if look.n >= min_samples and t_test(look.plain).p_value < 0.05:
            return look.n
    return None


def _at_the_end(run: Run, *, until: int | None = None) -> int | None:
    last = _up_to(run, until)[-1]
    return last.n if t_test(last.plain).p_value < 0.05 else None


def _planned_looks(run: Run, *, until: int | None = None) -> int | None:
    """At evenly spaced looks; the values are taken as independent, as a table of bounds does."""
    reached = _up_to(run, until)
    at = [round(len(reached) * (i + 1) / N_PLANNED_LOOKS) - 1 for i in range(N_PLANNED_LOOKS)]
    planned = [reached[i] for i in at]
    bounds = boundaries([look.n / planned[-1].n for look in planned])
    for look, bound in zip(planned, bounds, strict=True):
        if abs(in_standard_errors(look.plain)) > bound:
            return look.n
    return None


def _up_to(run: Run, until: int | None) -> Run:
    return run if until is None else [look for look in run if look.n <= until]


# ── runs ────────────────────────────────────────────────────────────────────────────────────────


def _runs(case: Case, n_runs: int) -> Iterator[Run]:
    for i in range(n_runs):
        a, b = case.draw(np.random.default_rng([SEED, i]), case.n)
        run = _run(case, a, b)
        if i < N_CHECKED_RUNS:
            _check(case, a, b, run)
        yield run


def _ends(n: int) -> list[int]:
    """Outcomes of each variant at each look; fewer looks where there are fewer outcomes."""
    return sorted({round(n * (i + 1) / N_LOOKS) for i in range(N_LOOKS)} - {0, 1})


def _run(case: Case, a: Values, b: Values) -> Run:
    ends = _ends(case.n)
    if case.kind == "sharpe":
        return [_sharpe_look(case, a[:n], b[:n]) for n in ends]
    return [
        _mean_look(n, *sides)
        for n, *sides in zip(ends, _streams(a, ends), _streams(b, ends), strict=True)
    ]


def _sharpe_look(case: Case, a: Values, b: Values) -> Look:
    contrast = paired_sharpe_contrast(a, b) if case.is_paired else sharpe_contrast(a, b)
    return Look(n=len(a), plain=contrast, effective=contrast, effective_n=len(a))


def _mean_look(n: int, a: tuple[Moments, float], b: tuple[Moments, float]) -> Look:
    shares = [effective_share(r) if is_autocorrelated(r, n) else 1.0 for _, r in (a, b)]
    plain = unpaired(a[0], b[0])
    effective = (
        plain
        if min(shares) >= 1.0
        else unpaired(thinned(a[0], shares[0]), thinned(b[0], shares[1]))
    )
    return Look(n=n, plain=plain, effective=effective, effective_n=int(n * min(shares)))


def _streams(values: Values, ends: Sequence[int]) -> list[tuple[Moments, float]]:
    """Moments and lag-1 autocorrelation of the first n values, for each n."""
    last = np.asarray(ends) - 1
    n = last + 1.0
    centred = values - values[0]
    total, square = np.cumsum(centred), np.cumsum(centred * centred)
    product = np.cumsum(centred[1:] * centred[:-1])
    mean = total[last] / n
    m2 = square[last] - n * mean * mean
    # Both factors about the mean: the sums leave out the last and the first value.
    cross = product[last - 1] - mean * (2.0 * total[last] - centred[last]) + (n - 1) * mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        lag1 = np.where(m2 > 0.0, cross / m2, 0.0)
    found = zip(n.tolist(), (mean + values[0]).tolist(), m2.tolist(), lag1.tolist(), strict=True)
    return [(Moments(int(n), mean, max(m2, 0.0)), r) for n, mean, m2, r in found]


def _check(case: Case, a: Values, b: Values, run: Run) -> None:
    """Record the outcomes in an `ABTest` and compare what it says at every look."""
    variants = [ModelVariant(name, lambda x: x) for name in ("a", "b")]
    test = ABTest("looks", variants, "m", metric_type=case.kind, paired=case.is_paired)
    rule = _always_valid(20.0 * MIN_SAMPLES)
    done = 0
    for look in run:
        for x, y in zip(a[done : look.n].tolist(), b[done : look.n].tolist(), strict=True):
            if case.is_paired:
                test.record_paired({"a": {"m": x}, "b": {"m": y}})
            else:
                test.record_result("a", {"m": x})
                test.record_result("b", {"m": y})
        done = look.n
        says, expected = test.get_winner() is not None, rule([look]) is not None
        if says != expected:
            raise AssertionError(f"{case.name}: at {look.n} outcomes ABTest says {says}.")


# ── outcomes ────────────────────────────────────────────────────────────────────────────────────


def _cases() -> list[Case]:
    return [
        Case(name="normal", draw=_normal),
        Case(name="0/1, one in twenty", draw=lambda rng, n: _both(rng.random((2, n)) < 0.05)),
        Case(name="Student's t, 3 degrees", draw=lambda rng, n: _both(rng.standard_t(3, (2, n)))),
        Case(name="lognormal", draw=lambda rng, n: _both(rng.lognormal(size=(2, n)))),
        Case(name="rolling Sharpe ratio of 50 returns", draw=partial(_rolling, 50), n=20_000),
        Case(name="rolling Sharpe ratio of 252 returns", draw=partial(_rolling, 252), n=20_000),
        Case(name="returns, by their Sharpe ratios", draw=_returns, kind="sharpe"),
        Case(
            name="returns in pairs, by their Sharpe ratios",
            draw=partial(_returns, correlation=0.9),
            kind="sharpe",
            is_paired=True,
        ),
    ]


def _both(rows: NDArray[np.generic]) -> Pair:
    a, b = rows.astype(np.float64)
    return a, b


def _normal(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> Pair:
    a, b = rng.normal(size=(2, n))
    return a, b + shift


def _rolling(window: int, rng: np.random.Generator, n: int) -> Pair:
    """What is recorded when each step gives the Sharpe ratio of the last `window` returns."""
    returns = _returns(rng, n + window - 1)
    return _rolled(returns[0], window), _rolled(returns[1], window)


def _rolled(returns: Values, window: int) -> Values:
    sums = np.cumsum(np.pad(returns, (1, 0)))
    squares = np.cumsum(np.pad(returns * returns, (1, 0)))
    mean = (sums[window:] - sums[:-window]) / window
    variance = (squares[window:] - squares[:-window]) / window - mean * mean
    return np.asarray(mean / np.sqrt(variance))


def _returns(rng: np.random.Generator, n: int, *, correlation: float = 0.0) -> Pair:
    """Daily returns of an annual Sharpe ratio of 1, with fat tails."""
    shocks = rng.standard_t(5, size=(2, n)) * np.sqrt(3.0 / 5.0)
    shocks[1] = correlation * shocks[0] + np.sqrt(1.0 - correlation**2) * shocks[1]
    return _both(0.01 * (shocks + 1.0 / np.sqrt(252.0)))


def _percent(n: int, n_runs: int) -> str:
    return f"{100.0 * n / n_runs:.1f} %"


def _median(stops: Sequence[float]) -> str:
    middle = float(np.median(stops))
    return f"{middle:.0f}" if np.isfinite(middle) else "not reached"
