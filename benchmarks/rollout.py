"""Rollouts: which candidates become production, which go back, and who notices.

Writes the tables between the markers in `docs/benchmarks.md`:

    python benchmarks/rollout.py             # everything, 10 minutes on one core
    python benchmarks/rollout.py outcomes    # a part: outcomes, harm, real, router

Rollouts are simulated, 1,000 for each case, from seeds: the production's rules look at simulated
answers. `real` has a `Deployment` and an `UpdateStrategy` answer the same requests and compares.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _rollout_cases import bad_cases, equal_cases
from _rollout_others import Flagger, by_thresholds
from _rollout_ours import METRIC, Ending, Run
from _rollout_real import real_moves
from _rollout_router import failed_while_swapping, router_us
from _rollout_traffic import Case, Traffic, traffic_of
from _tables import machine, table, write

from modelyard.stats.power import power
from modelyard.stats.sequential import critical_at
from modelyard.update_strategy.guard import TUNED_STEPS
from modelyard.update_strategy.settings import UpdateSettings

N_RUNS = 1000
SEED = 9
N_SWAPS = 1000
_RULES = UpdateSettings()
_PAID = UpdateSettings(key_metric=METRIC)
_FLAGGER = Flagger(success_rate=0.99, p99_ms=500.0, drop=None)
_FLAGGER_LIKE_OURS = Flagger(success_rate=0.95, p99_ms=None, drop=0.30)
_ENDINGS = ("promoted", "rolled_back", "paused")


def main(parts: list[str]) -> None:
    """Measure the parts named and write their tables."""
    for part in parts:
        text = _PARTS[part]()
        print(text, flush=True)
        write(f"rollout_{part}", f"Measured on {machine()}.\n\n{text}")


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def _outcomes() -> str:
    columns = (
        "candidate",
        "wanted",
        "#promoted",
        "#rolled back",
        "#paused",
        "#after (median)",
        "#answers of the candidate by then",
        "#one look at full windows",
    )
    rows = []
    for case in (*equal_cases(), *bad_cases()):
        rows.append(_outcome(case))
        print(rows[-1], flush=True)
    return table(columns, rows)


def _outcome(case: Case) -> list[str]:
    endings = [
        Run(traffic_of(case, seed=_seed(run)), _rules(case)).ending() for run in range(N_RUNS)
    ]
    counts = Counter(ending.status for ending in endings)
    decided = [ending for ending in endings if ending.status in _ENDINGS]
    return [
        case.name,
        case.aim,
        *(_percent(counts[status]) for status in _ENDINGS),
        f"{np.median([ending.at_s for ending in decided]):.0f} s",
        f"{np.median([ending.n_candidate for ending in decided]):.0f}",
        f"{_power(case):.0%}" if case.loss else "",
    ]


def _harm() -> str:
    rules = ("modelyard", "thresholds", "Flagger", "Flagger, our limits")
    rows = []
    for case in (*equal_cases(), *bad_cases()):
        rows.append(_harm_of(case))
        print(rows[-1], flush=True)
    columns = (
        "candidate",
        *(f"#rolled back: {rule}" for rule in rules),
        *(f"#bad answers: {rule}" for rule in (rules[0], "without stable behind", *rules[1:])),
    )
    return table(columns, rows)


def _harm_of(case: Case) -> list[str]:
    """Share rolled back, and mean number of bad answers more than by the stable version alone."""
    sums = [_Sum() for _ in range(5)]
    for run in range(N_RUNS):
        traffic = traffic_of(case, seed=_seed(run))
        ours = Run(traffic, _rules(case)).ending()
        plain = by_thresholds(traffic)
        flagger, like_ours = _FLAGGER.ending(traffic), _FLAGGER_LIKE_OURS.ending(traffic)
        sums[0].add(ours, _more_bad(traffic, ours, is_rescued=True))
        for place, ending in enumerate((ours, plain, flagger, like_ours), start=1):
            sums[place].add(ending, _more_bad(traffic, ending, is_rescued=False))
    backs = [sums[place].n_back for place in (0, 2, 3, 4)]
    return [
        case.name,
        *(_percent(n) for n in backs),
        *(f"{round(one.n_bad / N_RUNS)}" for one in sums),
    ]


def _real() -> str:
    """Whether the real thing takes the moves of the simulation, at the same times."""
    n_same = n_moves = 0
    cases = [*equal_cases(), *bad_cases()]
    for case in cases:
        traffic = traffic_of(case, seed=_seed(N_RUNS))
        simulated = Run(traffic, _rules(case), as_often=True).ending().moves
        real = real_moves(traffic, _rules(case))
        is_same = _told(simulated) == _told(real)
        print(case.name, "as simulated" if is_same else (simulated, real), flush=True)
        n_same += is_same
        n_moves += len(real)
    return (
        f"{n_same} of {len(cases)} rollouts by a real `Deployment` and `UpdateStrategy`, one for "
        f"each case, took the same moves as the simulation at the same requests, for the same "
        f"reasons ({n_moves} moves)."
    )


def _router() -> str:
    rows = [[what, f"{us:.1f} us"] for what, us in router_us().items()]
    n_requests, n_failed = failed_while_swapping(N_SWAPS)
    rows.append(
        [f"failed while the shares changed {N_SWAPS:,} times", f"{n_failed} of {n_requests:,}"]
    )
    return table(("what a request costs beside optimizer and monitor", "#measured"), rows)


_PARTS: dict[str, Callable[[], str]] = {
    "outcomes": _outcomes,
    "harm": _harm,
    "real": _real,
    "router": _router,
}


# ── how ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Sum:
    """Rollouts that went back, and bad answers, of all rollouts together."""

    n_back: int = 0
    n_bad: int = 0

    def add(self, ending: Ending, n_bad: int) -> None:
        self.n_back += ending.status == "rolled_back"
        self.n_bad += n_bad


def _more_bad(traffic: Traffic, ending: Ending, *, is_rescued: bool) -> int:
    """Bad answers, less those that the stable version alone would have given.

    Bad is an error, an answer slower than 99 % of the stable version's, and each of a candidate
    whose key metric is worse.
    """
    new = traffic.candidate(ending.promoted_s, bake_s=_RULES.bake_minutes * 60.0)
    old = traffic.stable
    is_slow = old.latencies_ms > traffic.slow_ms
    is_bad_of_old, is_bad = old.errors | is_slow, new.errors | (new.latencies_ms > traffic.slow_ms)
    if is_rescued:
        waited_ms = new.latencies_ms + np.where(new.errors, old.latencies_ms, 0.0)
        is_bad = (new.errors & old.errors) | (waited_ms > traffic.slow_ms)
    if traffic.case.loss:
        is_bad = np.ones(len(is_bad), bool)
    routed = ending.routed
    return int(is_bad[routed].sum()) - int(is_bad_of_old[routed].sum())


def _power(case: Case) -> float:
    """Chance that one look at two full windows finds the loss, by the normal approximation."""
    n = 1000
    error = case.spread * (2.0 / n) ** 0.5
    critical = critical_at(2 * n, n_tuned=TUNED_STEPS * _RULES.step_min_samples)
    # It has to be beyond chance, and over 30 % as measured.
    needed = max(critical, (1.0 - _RULES.rollback_threshold) / error)
    return power(case.loss, standard_error=error, critical=needed)


def _rules(case: Case) -> UpdateSettings:
    return _PAID if case.spread else _RULES


def _seed(run: int) -> int:
    return SEED * 1_000_000 + run


def _told(moves: object) -> list[tuple[float, str, str]]:
    return [(round(at_s, 3), move, reason) for at_s, move, reason in moves]  # type: ignore[attr-defined]


def _percent(n: int) -> str:
    return f"{100.0 * n / N_RUNS:.1f} %"


if __name__ == "__main__":
    main(sys.argv[1:] or list(_PARTS))
