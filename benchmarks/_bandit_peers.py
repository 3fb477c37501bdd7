"""The bandits of other libraries, run by their own Python. Not imported by anything:

python _bandit_peers.py <seeds of the quick> <seeds of the slow>

Plays every problem of `_bandit_problems` and prints regrets and times as JSON. Every policy has
the defaults of its library, except where a problem would make it play at random (UCB with a
scaler of rewards, Thompson sampling with a normal posterior or a threshold at 0).
"""

import json
import sys
import time
import warnings

import numpy as np
from _bandit_problems import HORIZON, PROBLEMS, regret_of, rewards_of

warnings.filterwarnings("ignore")


def _river():
    import scipy.special
    from river import bandit, preprocessing, proba, stats, utils

    # river 0.19 asks for it by the name it had in older releases of SciPy.
    scipy.special.btdtri = scipy.special.betaincinv

    def policy(make):
        def new(n_variants, seed):
            made, variants = make(seed), list(range(n_variants))
            return lambda: made.pull(variants), made.update

        return new

    def scaler():
        return preprocessing.TargetStandardScaler(None)

    return {
        "river epsilon-greedy 0.1": policy(lambda s: bandit.EpsilonGreedy(0.1, seed=s)),
        "river UCB": policy(lambda s: bandit.UCB(1, burn_in=1, seed=s)),
        "river UCB, rewards scaled": policy(
            lambda s: bandit.UCB(1, reward_scaler=scaler(), burn_in=1, seed=s)
        ),
        "river UCB, rolling mean of 500": policy(
            lambda s: bandit.UCB(1, reward_obj=utils.Rolling(stats.Mean(), 500), burn_in=1, seed=s)
        ),
        "river Thompson, Beta": policy(lambda s: bandit.ThompsonSampling(proba.Beta(), seed=s)),
        "river Thompson, normal": policy(
            lambda s: bandit.ThompsonSampling(proba.Gaussian(), burn_in=2, seed=s)
        ),
        "river Bayes-UCB": policy(lambda s: bandit.BayesUCB(seed=s)),
        "river Exp3 0.1": policy(lambda s: bandit.Exp3(0.1, seed=s)),
    }


def _mabwiser():
    from mabwiser.mab import MAB, LearningPolicy

    def policy(make):
        def new(n_variants, seed):
            made = MAB(list(range(n_variants)), make(), seed=seed)
            first = []

            def pull():
                return made.predict() if len(first) == n_variants else len(first)

            def update(variant, reward):
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
        "MABWiser softmax": policy(LearningPolicy.Softmax),
    }


def _play(new, problem, seed):
    """Regret of one game, and seconds for each choice with its reward."""
    rewards = rewards_of(problem, seed)
    pull, update = new(rewards.shape[1], seed)
    rows, chosen = rewards.tolist(), np.empty(HORIZON, int)
    started = time.perf_counter()
    for step, row in enumerate(rows):
        chosen[step] = variant = pull()
        update(variant, row[variant])
    return regret_of(problem, chosen), (time.perf_counter() - started) / HORIZON


def main(n_quick, n_slow):
    found = {}
    policies = [(n_quick, _river()), (n_slow, _mabwiser())]
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


_FOR_WINS = ("river Thompson, Beta", "river Bayes-UCB", "river Exp3 0.1")

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
