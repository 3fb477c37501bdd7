"""Bandits: what is lost while learning, beside other libraries; the same at any scale; the time.

Functions that give tables. The peers (river, MABWiser) are run by the Python that the environment
variable PEERS names, or left out:

    python -m venv peers && peers/bin/pip install river mabwiser
    PEERS=peers/bin/python python -c "import _bandits; print(_bandits.regret())"

Together they take about six minutes on one core. Everything is drawn from seeds.
"""

import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from _bandit_problems import PROBLEMS, STATIONARY, regret_of, rewards_of
from _tables import table

from modelyard.ab_testing import MultiArmedBandit
from modelyard.stats.moments import Moments
from modelyard.stats.significance import t_test, unpaired

N_SEEDS = 100
N_SEEDS_FEW = 25  # of what is slow, or not advised for the problem
N_SEEDS_RIVER = 12
N_SEEDS_MABWISER = 3

# What the documentation advises: for variants that stay as they are, and for those that change.
ADVISED = "ada_ucb"
ADVISED_CHANGING = "ucb, window of 1000"
_WAYS: dict[str, dict[str, Any]] = {
    "ada_ucb": {"algorithm": "ada_ucb"},
    "thompson_sampling": {"algorithm": "thompson_sampling"},
    "kl_ucb": {"algorithm": "kl_ucb"},
    "ucb": {"algorithm": "ucb"},
    "ucb_tuned": {"algorithm": "ucb_tuned"},
    "epsilon_greedy, 0.1": {"algorithm": "epsilon_greedy"},
    "ucb, window of 1000": {"algorithm": "ucb", "window": 1000},
    "ucb, discount of 0.998": {"algorithm": "ucb", "discount": 0.998},
    "thompson_sampling, window of 1000": {"algorithm": "thompson_sampling", "window": 1000},
    "thompson_sampling, discount of 0.998": {"algorithm": "thompson_sampling", "discount": 0.998},
}
_MANY_SEEDS = ("ada_ucb", "thompson_sampling", "ucb", "ucb, window of 1000")
_FORGETFUL = tuple(name for name in _WAYS if "window" in name or "discount" in name)
_UNITS = {
    "as they are": (1.0, 0.0),
    "x 0.01": (0.01, 0.0),
    "x 100": (100.0, 0.0),
    "+ 5": (1.0, 5.0),
}


def regret() -> str:
    """Reward lost in 10,000 choices on five problems: mean and standard error over seeds."""
    rows = []
    for name, way in _WAYS.items():
        n_seeds = N_SEEDS if name in _MANY_SEEDS else N_SEEDS_FEW
        cells = [
            _mean_and_error(
                [regret_of(problem, _play(way, problem, seed)) for seed in range(n_seeds)]
            )
            if _is_shown(name, problem)
            else ""
            for problem in PROBLEMS
        ]
        rows.append([f"modelyard {name}", str(n_seeds), *cells])
        print(rows[-1], file=sys.stderr, flush=True)
    for name, found in _peers().items():
        regrets = found["regrets"]
        n_seeds = max(len(values) for values in regrets.values())
        cells = [
            _mean_and_error(regrets[problem]) if problem in regrets else "" for problem in PROBLEMS
        ]
        rows.append([name, str(n_seeds), *cells])
    return table(("policy", "#seeds", *(f"#{problem}" for problem in PROBLEMS)), rows)


def invariance() -> str:
    """Mean regret, in the rewards' unit, and choices that differ, where rewards have another."""
    rows = []
    for name, way in _WAYS.items():
        for problem in ("won or lost, 0.1 to 0.9", "returns, normal"):
            plays = {
                unit: [_play(way, problem, seed, change) for seed in range(2)]
                for unit, change in _UNITS.items()
            }
            cells = []
            for chosen in plays.values():
                lost = np.mean([regret_of(problem, one) for one in chosen])
                n_other = sum(
                    int(np.sum(one != first))
                    for one, first in zip(chosen, plays["as they are"], strict=True)
                )
                cells.append(f"{lost:.4g} ({n_other})")
            rows.append([name, problem, *cells])
    return table(("policy", "rewards", *(f"#{unit}" for unit in _UNITS)), rows)


def speed() -> str:
    """Microseconds for a choice and its reward: the median of many rounds, all in one run."""
    rows = []
    for name, way in _WAYS.items():
        times = [f"{_microseconds(way, n_variants):.2f}" for n_variants in (3, 10)]
        rows.append([f"modelyard {name}", *times])
    rows += [
        [name, "", f"{1e6 * float(np.median(found['seconds'])):.1f}"]
        for name, found in _peers().items()
    ]
    return table(("policy", "#us, 3 variants", "#us, 10 variants (peers: 3 to 10)"), rows)


def inference(n_runs: int = 1000) -> str:
    """What a t-test makes of a bandit's data where two variants are equal, at the 5 % level."""
    rows = []
    for name in ("ucb", "ada_ucb", "thompson_sampling", "epsilon_greedy, 0.1"):
        n_false = n_held = n_bounds = 0
        for seed in range(n_runs):
            p_value, held = _equal_variants(_WAYS[name], seed)
            n_false += p_value < 0.05
            n_held += sum(held)
            n_bounds += len(held)
        rows.append([name, f"{100 * n_false / n_runs:.1f} %", f"{100 * n_held / n_bounds:.1f} %"])
    columns = ("policy", "#false winners of a t-test", "#true means within get_statistics' bounds")
    return table(columns, rows)


# ── how ─────────────────────────────────────────────────────────────────────────────────────────


def _is_shown(name: str, problem: str) -> bool:
    return problem not in STATIONARY or name not in _FORGETFUL


def _play(
    way: dict[str, Any], problem: str, seed: int, change: tuple[float, float] = (1.0, 0.0)
) -> np.ndarray[Any, Any]:
    scale, shift = change
    rewards = (rewards_of(problem, seed) * scale + shift).tolist()
    bandit = MultiArmedBandit([str(i) for i in range(len(rewards[0]))], seed=seed, **way)
    select, update, chosen = bandit.select_variant, bandit.update, []
    for row in rewards:
        name = select()
        index = int(name)
        update(name, row[index])
        chosen.append(index)
    return np.array(chosen)


def _mean_and_error(regrets: list[float]) -> str:
    error = np.std(regrets, ddof=1) / np.sqrt(len(regrets))
    return f"{np.mean(regrets):.3g} ± {error:.2g}"


def _microseconds(way: dict[str, Any], n_variants: int) -> float:
    rewards = np.random.default_rng(0).normal(size=10_000).tolist()
    bandit = MultiArmedBandit([f"variant_{i}" for i in range(n_variants)], seed=0, **way)

    def play() -> None:
        for reward in rewards:
            bandit.update(bandit.select_variant(), reward)

    return float(np.median(timeit.repeat(play, number=1, repeat=9))) / len(rewards) * 1e6


def _equal_variants(way: dict[str, Any], seed: int) -> tuple[float, list[bool]]:
    rewards: dict[str, Moments] = {"a": Moments(), "b": Moments()}
    bandit = MultiArmedBandit(list(rewards), seed=seed, **way)
    for reward in np.random.default_rng(seed).normal(size=1000).tolist():
        name = bandit.select_variant()
        bandit.update(name, reward)
        rewards[name] = rewards[name].with_value(reward)
    stats = bandit.get_statistics()
    held = [
        lower <= 0.0 <= upper
        for lower, upper in zip(
            stats["lower_bounds"].values(), stats["upper_bounds"].values(), strict=True
        )
        if lower is not None and upper is not None
    ]
    return t_test(unpaired(rewards["a"], rewards["b"])).p_value, held


@lru_cache(maxsize=1)
def _peers() -> dict[str, Any]:
    """What the peers lose and how long they take; nothing without a Python of theirs."""
    python = os.environ.get("PEERS")
    if not python:
        return {}
    script = Path(__file__).with_name("_bandit_peers.py")
    command = [python, str(script), str(N_SEEDS_RIVER), str(N_SEEDS_MABWISER)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


TABLES: dict[str, Callable[[], str]] = {
    "regret": regret,
    "invariance": invariance,
    "speed": speed,
    "inference": inference,
}
