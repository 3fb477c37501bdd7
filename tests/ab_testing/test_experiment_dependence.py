"""Experiments whose outcomes depend on each other: users who return, accounts that take turns."""

import asyncio

import numpy as np
import pytest

from modelyard import ABTest, Metric, ModelVariant
from modelyard.ab_testing.recording.units import UnitsByEpoch
from modelyard.stats.autocorrelation import Autocorrelation, deciding_lag
from modelyard.stats.moments import moments_of

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


@pytest.mark.slow
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
def test_a_user_who_returns_is_one_user_for_every_kind(options, should_change):
    tests = [outcomes_of(seed, should_change=should_change, **options) for seed in range(N_RUNS)]
    assert sum(test.get_winner() is not None for test in tests) == 0
    statistics = tests[0].compare_variants("v1", "v2")["statistics"]
    n_units = statistics["n_units_a"] + statistics["n_units_b"]
    # A user who has to move is one on either side.
    assert N_USERS <= n_units <= N_USERS + 10
    assert statistics["effective_n_a"] + statistics["effective_n_b"] <= 2.0 * N_USERS


def test_a_user_who_returns_after_a_change_of_weights_is_one_user():
    statistics = outcomes_of(0, should_change=True).compare_variants("v1", "v2")["statistics"]
    assert N_USERS <= statistics["n_units_a"] + statistics["n_units_b"] <= N_USERS + 10
    assert statistics["effective_n_a"] + statistics["effective_n_b"] <= 2.0 * N_USERS


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
    assert units.clusters().n_again == 0
    assert not units.clusters().products
    assert again.clusters().n_again == 500
    assert again.clusters().n_units == 500
    products = again.clusters().products[0, 1]
    assert abs(products.xx) < 100  # of 1,000, were each user's two values the same
    assert products.yy == 500


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_outcome_belongs_to_the_user_for_whom_its_variant_was_asked():
    test = outcomes_of(0, should_change=False, with_user=False)
    found = test.compare_variants("v1", "v2")["statistics"]
    assert found["n_units_a"] + found["n_units_b"] == N_USERS


def units_of(test):
    return [result.unit for result in test._ledger.history()]


def test_only_the_first_outcome_with_a_metric_after_asking_belongs_to_the_user():
    test = ABTest("t", variants(), "r")
    test.record_result("v1", {"r": 0.0})
    name = test.select_variant("u").name
    other = "v1" if name == "v2" else "v2"
    test.record_result(other, {"r": 0.0})
    test.record_result(name, {"r": 0.0})
    test.record_result(name, {"latency": 0.0})
    test.record_result(name, {"r": 0.0, "x": 0.0})
    test.predict(1.0, "w", variant_name=name)
    test.record_result(name, {"r": 0.0}, user_id="v")
    test.record_result(name, {"r": 0.0})
    assert units_of(test) == [None, None, "u", "u", None, "v", "w"]


def test_tasks_that_take_turns_keep_their_users_apart():
    test = ABTest("t", variants(), "r")
    first = test.select_variant("u0").name
    same = next(u for u in map(str, range(50)) if test.select_variant(u).name == first)

    async def serve(user, may_record):
        name = test.select_variant(user).name
        await may_record.wait()
        test.record_result(name, {"r": 0.0})

    async def both():
        may_record = asyncio.Event()
        tasks = [asyncio.create_task(serve(user, may_record)) for user in ("u0", same)]
        await asyncio.sleep(0)  # each asks before any records
        may_record.set()
        await asyncio.gather(*tasks)

    asyncio.run(both())
    assert sorted(units_of(test)) == sorted(["u0", same])


def test_a_testers_outcome_does_not_count_without_saying_whose_it_is():
    test = ABTest("t", variants(), "r", forced={"qa": "v2"})
    test.record_result(test.select_variant("qa").name, {"r": 0.0})
    assert test.get_variant_stats()["v2"]["sample_count"] == 0


@pytest.mark.slow
def test_what_a_covariate_leaves_of_users_who_return_may_be_all_their_own():
    def experiment(seed, *, lasting, shift=0.0):
        rng = np.random.default_rng(seed)
        test = ABTest("t", variants(), "r", seed=0, metrics=[Metric("r", covariate="x")])
        effects = lasting * rng.normal(size=400)
        for round_ in range(4):
            if round_ == 2:
                test.update_traffic_weights({"v1": 0.6, "v2": 0.4})
            for user in range(400):
                name, x = test.select_variant(f"u{user}").name, 3.0 * rng.normal()
                value = effects[user] + x + 0.2 * rng.normal() + shift * (name == "v2")
                test.record_result(name, {"r": value, "x": x}, user_id=f"u{user}")
        return test

    equal = [experiment(seed, lasting=0.5) for seed in range(N_RUNS)]
    assert sum(test.get_winner() is not None for test in equal) == 0
    statistics = equal[0].compare_variants("v1", "v2")["statistics"]
    assert statistics["effective_n_a"] < 300
    # Where users have nothing of their own, each outcome counts.
    statistics = experiment(0, lasting=0.0).compare_variants("v1", "v2")["statistics"]
    assert statistics["effective_n_a"] > 0.8 * statistics["n_a"]
    assert experiment(0, lasting=0.0, shift=0.1).get_winner() == "v2"


def test_a_covariate_that_one_variant_never_has_is_no_verdict():
    test = ABTest("t", variants(), "r", seed=0, metrics=[Metric("r", covariate="x")])
    for _ in range(2):
        for user in range(300):
            name = test.select_variant(f"u{user}").name
            metrics = {"r": float(user), "x": 1.0} if name == "v1" else {"r": float(user)}
            test.record_result(name, metrics, user_id=f"u{user}")
    assert test.get_winner() is None
    assert test.compare_variants("v1", "v2")["result"]["recommendation_code"] == "collect_more"


def test_a_drift_of_all_and_a_change_of_weights_make_no_winner_of_users_who_return():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r", seed=0)
    for drift, weights in ((0.0, {"v1": 0.9, "v2": 0.1}), (1.0, {"v1": 0.5, "v2": 0.5})):
        test.update_traffic_weights(weights)
        for user in range(2000):
            name = test.select_variant(f"u{user}").name
            test.record_result(name, {"r": drift + rng.normal()}, user_id=f"u{user}")
    assert test.get_winner() is None


def test_one_user_who_comes_twice_does_not_hide_that_values_follow_one_another():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r")
    walks = rng.normal(size=(2, 400)).cumsum(axis=1)
    for i in range(400):
        for j, name in enumerate(("v1", "v2")):
            test.record_result(name, {"r": walks[j, i]}, user_id=f"{name}-{max(1, i)}")
    statistics = test.compare_variants("v1", "v2")["statistics"]
    assert statistics["n_units_a"] == 399
    assert statistics["effective_n_a"] < 40


@pytest.mark.parametrize("draw", ["rare", "heavy", "normal"])
@pytest.mark.parametrize("n", [100, 1000])
def test_independent_values_are_seldom_taken_for_dependent(draw, n):
    draws = {
        "rare": lambda rng: (rng.random(n) < 0.01).astype(float),
        "heavy": lambda rng: rng.lognormal(0.0, 2.0, n),
        "normal": lambda rng: rng.normal(size=n),
    }
    n_found = 0
    for seed in range(100):
        x = draws[draw](np.random.default_rng(seed))
        stream = Autocorrelation()
        for value in x:
            stream.add(float(value))
        n_found += deciding_lag(stream.correlogram(moments_of(x))) > 0
    assert n_found <= 3


def test_large_values_of_users_who_return_have_the_error_of_small_ones():
    def error(level):
        rng = np.random.default_rng(0)
        test = ABTest("t", variants(), "r", seed=0)
        effects = rng.normal(size=200)
        for _ in range(5):
            for user in range(200):
                name = test.select_variant(f"u{user}").name
                test.record_result(name, {"r": level + effects[user]}, user_id=f"u{user}")
        lower, upper = test.compare_variants("v1", "v2")["statistics"][
            "confidence_interval_always_valid"
        ]
        return upper - lower

    assert error(1e9) == pytest.approx(error(0.0), rel=1e-3)
