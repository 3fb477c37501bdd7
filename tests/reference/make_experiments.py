"""Makes `experiments.json` with other libraries: `python tests/reference/make_experiments.py`.

Needs scipy, statsmodels and GrowthBook's gbstats in one environment of their own (none of the
last two is a dependency): `pip install gbstats statsmodels`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
from gbstats.frequentist.tests import (
    FrequentistConfig,
    SequentialConfig,
    SequentialTwoSidedTTest,
    TwoSidedTTest,
)
from gbstats.models.statistics import (
    RatioStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
)
from gbstats.utils import check_srm
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

HERE = Path(__file__).parent
# n_a, n_b, true difference, spread of b.
SIZES = [(40, 40, 0.6, 1.0), (500, 500, 0.3, 1.7), (900, 300, 0.0, 0.5)]
COUNTS = [(45, 100, 60, 110), (5, 1000, 14, 900), (0, 50, 3, 60), (19, 20, 20, 20)]
# effect in standard deviations, power, alpha, n_b over n_a.
PLANS = [(0.1, 0.8, 0.05, 1.0), (0.25, 0.9, 0.01, 1.0), (0.05, 0.5, 0.1, 0.25)]


def mean_statistic(values: np.ndarray) -> SampleMeanStatistic:
    """What gbstats takes for a mean."""
    return SampleMeanStatistic(len(values), values.sum(), np.square(values).sum())


def means() -> list[dict[str, Any]]:
    """Welch, Cohen's d (from Student's t), lift, always-valid interval, chance to win."""
    rng = np.random.default_rng(1)
    cases = []
    for n_a, n_b, effect, spread in SIZES:
        a, b = rng.normal(2.0, 1.0, n_a), rng.normal(2.0 + effect, spread, n_b)
        welch, student = stats.ttest_ind(b, a, equal_var=False), stats.ttest_ind(b, a)
        sides = mean_statistic(a), mean_statistic(b)
        lift = TwoSidedTTest(*sides, FrequentistConfig(difference_type="relative"))
        anytime = {}
        for kind in ("absolute", "relative"):
            config = SequentialConfig(difference_type=kind, sequential_tuning_parameter=1500)
            found = SequentialTwoSidedTTest(*sides, config).compute_result()
            anytime[kind] = {"interval": found.ci, "p_value": found.p_value}
        config = EffectBayesianConfig(difference_type="absolute")
        bayesian = EffectBayesianABTest(*sides, config).compute_result()
        cases.append(
            {
                "a": a.tolist(),
                "b": b.tolist(),
                "t_statistic": welch.statistic,
                "df": welch.df,
                "p_value": welch.pvalue,
                "interval": list(welch.confidence_interval(0.95)),
                "cohens_d": student.statistic * np.sqrt(1 / n_a + 1 / n_b),
                "lift": lift.point_estimate,
                "lift_error": float(np.sqrt(lift.variance)),
                "n_tuned": 1500,
                "anytime": anytime if n_a == n_b else None,
                "chance_to_win": bayesian.chance_to_win,
                "expected_loss": bayesian.risk,
                "brunner_munzel": stats.brunnermunzel(a, b).statistic,
                "brunner_munzel_p_value": stats.brunnermunzel(a, b).pvalue,
            }
        )
    return cases


def proportions() -> list[dict[str, Any]]:
    """The pooled z-test and Newcombe's interval."""
    cases = []
    for a, n_a, b, n_b in COUNTS:
        z, p_value = proportions_ztest([b, a], [n_b, n_a])
        interval = confint_proportions_2indep(b, n_b, a, n_a, method="newcomb", compare="diff")
        cases.append(
            {"counts": [a, n_a, b, n_b], "z": z, "p_value": p_value, "interval": list(interval)}
        )
    return cases


def pairs() -> list[dict[str, Any]]:
    """Ratio metrics, and CUPED as the analysis of covariance that it is.

    gbstats estimates its slope without regard to sides, so it is asked at the regression's slope.
    """
    rng = np.random.default_rng(2)
    cases = []
    for n_a, n_b, effect in [(60, 80, 0.0), (700, 500, 0.2)]:
        sides = []
        for n, shift in ((n_a, 0.0), (n_b, effect)):
            y = rng.gamma(4.0, 1.0, n)
            sides.append((0.8 * y + rng.normal(1.0 + shift, 1.0, n), y))
        n = n_a + n_b
        design = np.column_stack(
            [np.ones(n), np.r_[np.zeros(n_a), np.ones(n_b)], np.r_[sides[0][1], sides[1][1]]]
        )
        coefficients = np.linalg.lstsq(design, np.r_[sides[0][0], sides[1][0]], rcond=None)[0]
        adjusted = [
            RegressionAdjustedStatistic(
                len(x), mean_statistic(x), mean_statistic(y), float(x @ y), float(coefficients[2])
            )
            for x, y in sides
        ]
        ratios = [
            RatioStatistic(len(x), mean_statistic(x), mean_statistic(y), float(x @ y))
            for x, y in sides
        ]
        absolute = TwoSidedTTest(*ratios, FrequentistConfig(difference_type="absolute"))
        relative = TwoSidedTTest(*ratios, FrequentistConfig(difference_type="relative"))
        cases.append(
            {
                "a": [side.tolist() for side in sides[0]],
                "b": [side.tolist() for side in sides[1]],
                "ratio_difference": absolute.point_estimate,
                "ratio_error": float(np.sqrt(absolute.variance)),
                "ratio_interval": absolute.confidence_interval,
                "ratio_lift": relative.point_estimate,
                "ratio_lift_error": float(np.sqrt(relative.variance)),
                "cuped_difference": float(coefficients[1]),
                "cuped_variance": sum(float(side.variance) / side.n for side in adjusted),
                "cuped_difference_gbstats": adjusted[1].mean - adjusted[0].mean,
            }
        )
    return cases


def plans() -> list[dict[str, Any]]:
    """Sample sizes of a z-test, before rounding up; ratio is n_b over n_a."""
    cases = []
    for effect, power, alpha, ratio in PLANS:
        n_a = NormalIndPower().solve_power(
            effect_size=effect, power=power, alpha=alpha, ratio=ratio, alternative="two-sided"
        )
        cases.append(
            {"effect": effect, "power": power, "alpha": alpha, "ratio": ratio, "n_a": float(n_a)}
        )
    return cases


def corrections() -> list[dict[str, Any]]:
    """Holm and Benjamini-Hochberg."""
    rng = np.random.default_rng(4)
    cases = []
    for n in (1, 5, 40):
        p_values = rng.random(n) ** 3
        p_values[: n // 3] = np.round(p_values[: n // 3], 2)
        cases.append(
            {
                "p_values": p_values.tolist(),
                "holm": multipletests(p_values, method="holm")[1].tolist(),
                "benjamini_hochberg": multipletests(p_values, method="fdr_bh")[1].tolist(),
            }
        )
    return cases


def sample_ratios() -> list[dict[str, Any]]:
    """The chi-square test of counts against shares."""
    cases = [([500, 520], [0.5, 0.5]), ([5300, 4700], [1, 1]), ([10, 20, 75], [0.1, 0.2, 0.7])]
    return [
        {"counts": counts, "shares": shares, "p_value": float(check_srm(counts, shares))}
        for counts, shares in cases
    ]


if __name__ == "__main__":
    found = {
        "means": means(),
        "proportions": proportions(),
        "pairs": pairs(),
        "plans": plans(),
        "corrections": corrections(),
        "sample_ratios": sample_ratios(),
    }
    (HERE / "experiments.json").write_text(json.dumps(found, default=float) + "\n")
