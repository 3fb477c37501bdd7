"""Experiments whose outcomes depend on each other: users who return, accounts that take turns."""

import numpy as np
import pytest

from modelyard import ABTest, Metric, ModelVariant
from modelyard.ab_testing.recording.units import UnitsByEpoch

N_USERS = 60
N_RUNS = 12


def variants(*names):
    return [ModelVariant(name, lambda x: x) for name in names or ("v1", "v2")]


def outcomes_of(seed, *, should_change, with_user=True, **options):
    """An experiment on users with a lasting effect, without a difference between variants."""
    rng = np.random.default_rng(seed)
    test = ABTest(f"t{seed}", variants(), "r", seed=0, **options)
    effects = rng.normal(size=N_USERS)
    for round_ in range(20):
        if should_change and round_:
            half = 0.5 + 0.01 * (round_ % 2)
            test.update_traffic_weights({"v1": half, "v2": 1.0 - half})
        for user in range(N_USERS):
            name = test.select_variant(f"u{user}").name
            metrics = {"r": effects[user] + 0.1 * rng.normal(), "n": 1.0}
            test.record_result(name, metrics, user_id=f"u{user}" if with_user else None)
    return test


@pytest.mark.parametrize("should_change", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metrics": [Metric("r", kind="ratio", denominator="n")]},
        {"metrics": [Metric("r", kind="rank")]},
        {"metrics": [Metric("r", kind="quantile", quantile=0.5)]},
        {"metrics": [Metric("r", kind="sharpe")]},
        {"metrics": [Metric("r", covariate="n")]},
    ],
    ids=["mean", "ratio", "rank", "quantile", "sharpe", "covariate"],
)
def test_a_user_who_returns_is_one_user_also_after_a_change_of_weights(options, should_change):
    tests = [outcomes_of(seed, should_change=should_change, **options) for seed in range(N_RUNS)]
    assert sum(test.get_winner() is not None for test in tests) == 0
    statistics = tests[0].compare_variants("v1", "v2")["statistics"]
    n_units = statistics["n_units_a"] + statistics["n_units_b"]
    # A user who has to move is one on either side.
    assert N_USERS <= n_units <= N_USERS + 10
    assert statistics["effective_n_a"] + statistics["effective_n_b"] <= 1.5 * N_USERS


def test_a_real_difference_is_found_among_users_who_return():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r", seed=0)
    for round_ in range(4):
        if round_:
            test.update_traffic_weights({"v1": 0.5 + 0.1 * round_, "v2": 0.5 - 0.1 * round_})
        for user in range(400):
            name = test.select_variant(f"u{user}").name
            test.record_result(name, {"r": rng.normal() + (name == "v2")}, user_id=f"u{user}")
    assert test.get_winner() == "v2"


def test_users_without_an_effect_of_their_own_lose_little_by_returning():
    rng = np.random.default_rng(1)
    units, again = UnitsByEpoch(0.0), UnitsByEpoch(0.0)
    for epoch in (0, 1):
        for user in range(500):
            units.add(epoch, f"{epoch}-{user}", value := float(rng.normal()))
            again.add(epoch, f"{user}", value)
    assert units.returning().n_again == 0
    assert not units.returning().products
    assert again.returning().n_again == 500
    products = again.returning().products[0, 1]
    assert abs(products.xx) < 100  # of 1,000, were each user's two values the same
    assert products.yy == 500


@pytest.mark.parametrize("n_accounts", [1, 2, 5])
def test_rolling_ratios_of_accounts_that_take_turns_make_no_winner(n_accounts):
    def rolling(rng, n, window=20):
        returns = rng.normal(size=n + window)
        blocks = np.lib.stride_tricks.sliding_window_view(returns, window)[:n]
        return blocks.mean(axis=1) / blocks.std(axis=1)

    n_false = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        test = ABTest("t", variants(), "sharpe")
        streams = {
            (name, account): rolling(rng, 400)
            for name in ("v1", "v2")
            for account in range(n_accounts)
        }
        for day in range(400):
            for account in range(n_accounts):
                for name in ("v1", "v2"):
                    test.record_result(name, {"sharpe": streams[name, account][day]})
        n_false += test.get_winner() is not None
    assert n_false == 0
    warnings = test.compare_variants("v1", "v2")["warnings"]
    assert any("follow one another" in text for text in warnings)


def test_outcomes_without_a_user_count_as_the_users_that_were_assigned():
    tests = [outcomes_of(seed, should_change=False, with_user=False) for seed in range(N_RUNS)]
    assert sum(test.get_winner() is not None for test in tests) == 0
    found = tests[0].compare_variants("v1", "v2")
    n = found["statistics"]["effective_n_a"] + found["statistics"]["effective_n_b"]
    assert n <= N_USERS
    assert any("user_id" in text for text in found["warnings"])


def test_one_outcome_for_each_assigned_user_counts_whole():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r", seed=0)
    for user in range(400):
        test.record_result(test.select_variant(f"u{user}").name, {"r": rng.normal()})
    found = test.compare_variants("v1", "v2")
    assert found["statistics"]["effective_n_a"] == found["statistics"]["n_a"]
    assert not any("user_id" in text for text in found["warnings"])
