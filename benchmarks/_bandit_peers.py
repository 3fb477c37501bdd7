"""The bandits of other libraries, run by their own Python; not imported by anything.

    python _bandit_peers.py <seeds of river> <seeds of MABWiser>

Plays every problem of `_bandit_problems` and prints regrets and seconds as JSON. Policies have the
defaults of their libraries; where these cannot do with a problem (rewards of a hundredth, returns
that are neither won nor lost) there is a second one with what their manuals advise.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _bandit_problems import HORIZON, PROBLEMS, regret_of, rewards_of

warnings.filterwarnings("ignore")

# Makes a player for so many variants and a seed: how it chooses, and how it learns.
Player = Callable[[int, int], tuple[Callable[[], int], Callable[[int, float], Any]]]


def _river() -> dict[str, Player]:
    import scipy.special  # noqa: PLC0415 - only the peers' Python has both
    from river import bandit, preprocessing, proba, stats  # noqa: PLC0415

    # river 0.19 asks for it by the name it had in older releases of SciPy.
    scipy.special.btdtri = scipy.special.betaincinv

    def policy(make: Callable[[int], Any]) -> Player:
        def new(n_variants: int, seed: int) -> Any:
            made, variants = make(seed), list(range(n_variants))
            return lambda: made.pull(variants), made.update

        return new

    def scaler() -> Any:
        return preprocessing.TargetStandardScaler(None)

    return {
        "river epsilon-greedy 0.1": policy(lambda s: bandit.EpsilonGreedy(0.1, seed=s)),
        "river UCB": policy(lambda s: bandit.UCB(1, burn_in=1, seed=s)),
        "river UCB, rewards scaled": policy(
            lambda s: bandit.UCB(1, reward_scaler=scaler(), burn_in=1, seed=s)
        ),
        "river UCB, exponential mean 0.01": policy(
            lambda s: bandit.UCB(1, reward_obj=stats.EWMean(0.01), burn_in=1, seed=s)
        ),
        "river Thompson, Beta": policy(lambda s: bandit.ThompsonSampling(proba.Beta(), seed=s)),
        "river Thompson, normal": policy(
            lambda s: bandit.ThompsonSampling(proba.Gaussian(), burn_in=2, seed=s)
        ),
        "river Bayes-UCB": policy(lambda s: bandit.BayesUCB(seed=s)),
    }


def _mabwiser() -> dict[str, Player]:
    from mabwiser.mab import MAB, LearningPolicy  # noqa: PLC0415 - only the peers' Python has it

    def policy(make: Callable[[], Any]) -> Player:
        def new(n_variants: int, seed: int) -> Any:
            made = MAB(list(range(n_variants)), make(), seed=seed)
            first: list[float] = []

            def pull() -> int:
                return made.predict() if len(first) == n_variants else len(first)

            def update(variant: int, reward: float) -> None:
                if len(first) == n_variants:
                    made.partial_fit([variant], [reward])
                    return
                # It wants something of every variant before it chooses.
                first.append(reward)
                if len(first) == n_variants:
                    made.fit(list(range(n_variants)), first)

            return pull, update

        return new

    return {
        "MABWiser epsilon-greedy": policy(LearningPolicy.EpsilonGreedy),
        "MABWiser UCB1": policy(LearningPolicy.UCB1),
        "MABWiser Thompson": policy(
            lambda: LearningPolicy.ThompsonSampling(binarizer=lambda _, reward: int(reward > 0))
        ),
    }


def _play(new: Player, problem: str, seed: int) -> tuple[float, float]:
    """Regret of one game, and seconds for each choice with its reward."""
    rewards = rewards_of(problem, seed)
    pull, update = new(rewards.shape[1], seed)
    rows, chosen = rewards.tolist(), np.empty(HORIZON, int)
    started = time.perf_counter()
    for step, row in enumerate(rows):
        chosen[step] = variant = pull()
        update(variant, row[variant])
    return regret_of(problem, chosen), (time.perf_counter() - started) / HORIZON


def main(n_river: int, n_mabwiser: int) -> None:
    """Play and print."""
    found: dict[str, Any] = {}
    policies = [(n_river, _river()), (n_mabwiser, _mabwiser())]
    for n_seeds, group in policies:
        for name, new in group.items():
            found[name] = {"regrets": {}, "seconds": []}
            for problem in PROBLEMS:
                # A Beta posterior is for rewards that are won or lost.
                if problem.startswith("returns") and name in _FOR_WINS:
                    continue
                games = [_play(new, problem, seed) for seed in range(n_seeds)]
                found[name]["regrets"][problem] = [regret for regret, _ in games]
                found[name]["seconds"] += [seconds for _, seconds in games]
            print(name, file=sys.stderr, flush=True)
    print(json.dumps(found))


_FOR_WINS = ("river Thompson, Beta", "river Bayes-UCB")

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
