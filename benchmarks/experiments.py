"""Experiments and bandits: false winners, power, who moves, regret, and what a call costs.

Writes the tables between the markers in `docs/benchmarks.md`. Peers need other versions than the
project pins, so they are run by a Python of their own, or left out:

    python benchmarks/experiments.py                 # everything
    python benchmarks/experiments.py looks           # a part: looks, split, bandits, speed
    python -m venv peers && peers/bin/pip install gbstats mabwiser river
    PEERS=peers/bin/python python benchmarks/experiments.py bandits

Everything is drawn from seeds. Times are medians, taken in one run.
"""

import os
import sys
import timeit
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _bandits
import numpy as np
from _experiment_looks import looks
from _tables import machine, table, write

from modelyard.ab_testing import ABTest, ModelVariant
from modelyard.ab_testing.analysis.checks import check_ratio
from modelyard.routing import SlotTable, slot_of

N_RUNS = 2000
N_RATIO_RUNS = 1000
N_RATIO_LOOKS = 100
N_USERS = 100_000


def main(parts: list[str]) -> None:
    """Measure the parts named and write their tables."""
    for part in parts or list(_PARTS):
        text = f"Measured on {machine()}.\n\n{_PARTS[part]()}"
        write(f"experiments_{part}", text)
        print(text)


def _split() -> str:
    return f"{_moves()}\n\n{_lopsided()}"


def _moves() -> str:
    """How many users another variant answers after a change, beside what must be."""
    changes: list[tuple[str, Mapping[str, float], Mapping[str, float]]] = [
        ("weights .5/.5 to .9/.1", {"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}),
        ("weights .34/.33/.33 to .5/.3/.2", _three(0.34, 0.33, 0.33), _three(0.5, 0.3, 0.2)),
        ("a third of three variants added", {"a": 1.0, "b": 1.0}, _three(1.0, 1.0, 1.0)),
        ("the first of three dropped", _three(1.0, 1.0, 1.0), {"b": 1.0, "c": 1.0}),
        ("the first of four dropped", {**_three(1, 1, 1), "d": 1.0}, {"b": 1, "c": 1, "d": 1}),
    ]
    rows = []
    for name, before, after in changes:
        first = SlotTable.from_weights(before)
        second = first.reassigned(after)
        slots = [slot_of("movement", "", f"user_{i}") for i in range(N_USERS)]
        moved = np.mean([first.owners[slot] != second.owners[slot] for slot in slots])
        rows.append(
            [
                name,
                _percent(_must_move(before, after)),
                _percent(float(moved)),
                _percent(_moved_by_ranges(before, after)),
            ]
        )
    return table(("change", "#must move", "#move", "#move with ranges"), rows)


def _three(a: float, b: float, c: float) -> dict[str, float]:
    return {"a": a, "b": b, "c": c}


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _must_move(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    old, new = _shares(before), _shares(after)
    return sum(max(0.0, old[name] - new.get(name, 0.0)) for name in old)


def _moved_by_ranges(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Where each variant owns one range of [0, 1), in order: the usual scheme."""
    points = (np.arange(N_USERS) + 0.5) / N_USERS
    owners = []
    for weights in (before, after):
        shares = _shares(weights)
        ends = np.cumsum(list(shares.values()))
        names = np.array(list(shares))
        owners.append(names[np.searchsorted(ends, points, side="right").clip(max=len(names) - 1)])
    return float(np.mean(owners[0] != owners[1]))


def _lopsided() -> str:
    """How often a split is called lopsided at any of 100 looks, by what one side loses."""
    rng = np.random.default_rng(0)
    rows = []
    for lost in (0.0, 0.02, 0.05, 0.1):
        ours, naive = 0, 0
        for _ in range(N_RATIO_RUNS):
            arrived = rng.random(20_000) < 0.5
            kept = arrived | (rng.random(20_000) >= lost)
            ours_now, naive_now = _called(arrived, kept)
            ours += ours_now
            naive += naive_now
        rows.append(
            [
                f"{lost:.0%} of one side's outcomes",
                _percent(ours / N_RATIO_RUNS),
                _percent(naive / N_RATIO_RUNS),
            ]
        )
    columns = ("lost", "#withheld (100 looks)", "#chi-square below .001 at any look")
    return table(columns, rows)


def _called(arrived: np.ndarray, kept: np.ndarray) -> tuple[bool, bool]:
    a, b = np.cumsum(arrived & kept), np.cumsum(~arrived & kept)
    ours = naive = False
    for at in np.linspace(0, len(arrived) - 1, N_RATIO_LOOKS + 1).astype(int)[1:]:
        counts = {("a", 0): int(a[at]), ("b", 0): int(b[at])}
        check = check_ratio(counts, [{"a": 0.5, "b": 0.5}], counted="outcome")
        ours = ours or check.is_mismatch
        naive = naive or (check.result is not None and check.result.p_value < 0.001)
    return ours, naive


def _speed() -> str:
    variants = [ModelVariant(name, lambda x: x) for name in ("a", "b")]
    test = ABTest("model_comparison", variants, "m")
    users = [f"user_{i}" for i in range(20_000)]
    for user in users:
        test.select_variant(user)
        test.record_result("a", {"m": 1.0 + len(user) % 3})
        test.record_result("b", {"m": 1.5 + len(user) % 5})
    rows = [
        ["slot of a user (the documented formula)", _us(lambda u: slot_of("t", "", u), users)],
        ["`select_variant(user)`, the split counted", _us(test.select_variant, users)],
        ["`record_result`", _us(lambda _: test.record_result("a", {"m": 1.0}), users)],
        ["`compare_variants`", _us(lambda _: test.compare_variants("a", "b"), users[:200])],
        ["`get_winner`", _us(lambda _: test.get_winner(), users[:200])],
    ]
    return table(("call", "#time"), rows)


def _us(call: Callable[[str], object], users: list[str]) -> str:
    def loop() -> None:
        for user in users:
            call(user)

    return f"{float(np.median(timeit.repeat(loop, number=1, repeat=5))) / len(users) * 1e6:.2f} us"


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


_PARTS: dict[str, Callable[[], str]] = {
    "looks": lambda: looks(n_runs=N_RUNS),
    "split": _split,
    "bandits": lambda: "\n\n".join(make() for make in _bandits.TABLES.values()),
    "speed": _speed,
}


if __name__ == "__main__":
    main(sys.argv[1:])
