import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.distances import (
    kolmogorov_smirnov,
    kolmogorov_smirnov_p,
    sort_columns,
    wasserstein,
)
from modelyard.stats.quantiles import midpoint_sketch, quantiles

CASES = json.loads((Path(__file__).parents[1] / "reference/distances.json").read_text())
SAMPLE = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20)


def column(values):
    return sort_columns(np.array(values, dtype=float)[:, None])


@pytest.mark.parametrize("case", CASES)
def test_distances_agree_with_scipy(case):
    a, b = column(case["a"]), column(case["b"])
    assert wasserstein(a, b)[0] == pytest.approx(case["wasserstein"], rel=1e-9)
    assert kolmogorov_smirnov(a, b)[0] == pytest.approx(case["ks_statistic"], rel=1e-9)


@pytest.mark.parametrize(
    "case", [case for case in CASES if min(map(len, (case["a"], case["b"]))) >= 40]
)
def test_large_sample_p_value_is_near_the_exact_one(case):
    # Ties make the exact test conservative; the limit distribution stays on the same side.
    p = kolmogorov_smirnov_p(np.array([case["ks_statistic"]]), len(case["a"]), len(case["b"]))[0]
    assert p == pytest.approx(case["ks_exact_p_value"], rel=0.15, abs=0.02)


@given(SAMPLE, SAMPLE)
def test_distances_are_symmetric_and_zero_only_to_themselves(x, y):
    a, b = column(x), column(y)
    assert wasserstein(a, b)[0] == pytest.approx(wasserstein(b, a)[0], abs=1e-9)
    assert wasserstein(a, a)[0] == 0.0
    assert kolmogorov_smirnov(a, a)[0] == pytest.approx(0.0, abs=1e-12)
    assert kolmogorov_smirnov(a, b)[0] == pytest.approx(kolmogorov_smirnov(b, a)[0], abs=1e-12)


@given(SAMPLE, st.floats(-50, 50, width=32))
def test_a_shift_moves_the_wasserstein_distance_by_itself(x, shift):
    assert wasserstein(column(x), column(np.array(x) + shift))[0] == pytest.approx(
        abs(shift), abs=1e-6
    )


@pytest.mark.parametrize("width", [1, 3])
def test_the_callers_rows_stay_in_their_order(width):
    rows = np.random.default_rng(0).normal(size=(50, width))
    before = rows.copy()
    ordered = sort_columns(rows)
    kolmogorov_smirnov(ordered, ordered)
    assert np.array_equal(rows, before)


def test_both_zeros_are_one_value():
    a, b = column([0.0, -0.0, 0.0]), column([-0.0, 0.0, -0.0, 0.0])
    assert kolmogorov_smirnov(a, b)[0] == pytest.approx(0.0, abs=1e-12)


@given(SAMPLE)
def test_quantiles_equal_numpy(x):
    levels = (0.0, 0.01, 0.5, 0.95, 1.0)
    assert quantiles(np.array(x), levels) == pytest.approx(np.quantile(x, levels), abs=1e-9)


def test_sketches_keep_the_distance():
    rng = np.random.default_rng(0)
    a, b = column(rng.normal(size=1000)), column(rng.normal(0.5, 1.3, size=1000))
    gap = np.abs(midpoint_sketch(a, 50) - midpoint_sketch(b, 50)).mean()
    assert gap == pytest.approx(wasserstein(a, b)[0], rel=0.05)
