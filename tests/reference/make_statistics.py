"""Makes the statistics' reference numbers with scipy: `python tests/reference/make_statistics.py`.

`sequential.json` needs GrowthBook's `gbstats`, which is no dependency: it is made only where that
is installed, and kept as it is elsewhere.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
SHAPES = [(5, 7), (50, 50), (400, 30)]


def samples(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of samples with other sizes, spreads and offsets."""
    rng = np.random.default_rng(seed)
    pairs = [(rng.normal(size=n), rng.normal(0.4, 1.7, size=m)) for n, m in SHAPES]
    pairs.append((1e6 + rng.standard_t(3, size=80), 1e6 + rng.standard_t(3, size=90)))
    pairs.append((rng.integers(0, 4, 60).astype(float), rng.integers(1, 5, 40).astype(float)))
    return pairs


def significance() -> list[dict[str, Any]]:
    """Welch's test and the paired t-test."""
    cases = []
    for a, b in samples(1):
        test = stats.ttest_ind(b, a, equal_var=False)
        low, high = test.confidence_interval(0.9)
        k = min(len(a), len(b))
        related = stats.ttest_rel(b[:k], a[:k])
        cases.append(
            {
                "a": a.tolist(),
                "b": b.tolist(),
                "t_statistic": test.statistic,
                "df": test.df,
                "p_value": test.pvalue,
                "interval_90": [low, high],
                "paired_t_statistic": related.statistic,
                "paired_p_value": related.pvalue,
            }
        )
    return cases


def distances() -> list[dict[str, Any]]:
    """Wasserstein-1 and the two-sample Kolmogorov-Smirnov test."""
    cases = []
    for a, b in samples(2):
        test = stats.ks_2samp(a, b)
        cases.append(
            {
                "a": a.tolist(),
                "b": b.tolist(),
                "wasserstein": stats.wasserstein_distance(a, b),
                "ks_statistic": test.statistic,
                "ks_exact_p_value": test.pvalue,
            }
        )
    return cases


def sequential() -> list[dict[str, Any]]:
    """GrowthBook's sequential t-test on balanced experiments."""
    from gbstats.frequentist.tests import (
        SequentialConfig,
        SequentialTwoSidedTTest,
    )
    from gbstats.models.statistics import SampleMeanStatistic

    rng = np.random.default_rng(3)
    cases = []
    for n, effect, tuned in [(100, 0.3, 500), (500, 0.1, 5000), (2000, 0.0, 1000)]:
        a, b = rng.normal(1, 1, n), rng.normal(1 + effect, 1.5, n)
        sides = [SampleMeanStatistic(n, x.sum(), np.square(x).sum()) for x in (a, b)]
        config = SequentialConfig(
            alpha=0.05, difference_type="absolute", sequential_tuning_parameter=tuned
        )
        result = SequentialTwoSidedTTest(*sides, config).compute_result()
        cases.append(
            {
                "n": n,
                "n_tuned": tuned,
                "mean": [x.mean() for x in (a, b)],
                "m2": [np.square(x - x.mean()).sum() for x in (a, b)],
                "p_value": result.p_value,
                "interval": result.ci,
            }
        )
    return cases


def write(name: str, cases: list[dict[str, Any]]) -> None:
    """Keep the cases beside this script."""
    (HERE / f"{name}.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    write("significance", significance())
    write("distances", distances())
    try:
        write("sequential", sequential())
    except ModuleNotFoundError as error:
        print(f"sequential.json kept as it is: {error}")  # noqa: T201 - a script's one line
