"""Experiments under hard use: odd values, retries, several processes, changes in the middle."""

import json

import numpy as np
import pytest

from modelyard import ABTest, ManualClock, Metric, ModelVariant
from modelyard._core.errors import ConfigError, ExperimentStoppedError
from modelyard.ab_testing import comparer
from modelyard.storage import open_store


def variants(*names):
    return [ModelVariant(name, lambda x: x) for name in names or ("v1", "v2")]


def code_of(test):
    return test.compare_variants("v1", "v2")["result"]["recommendation_code"]


def fill(test, n=400, *, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        name = ("v1", "v2")[i % 2]
        test.record_result(name, {"r": rng.normal() + shift * (name == "v2")})


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


# Values


@pytest.mark.parametrize(
    ("metric", "lost"),
    [
        (Metric("p", kind="ratio", denominator="n"), {"n": float("nan")}),
        (Metric("p", covariate="n"), {"n": float("nan")}),
        (Metric("p", covariate="n"), "n"),
        (Metric("p"), {"p": None}),
    ],
    ids=["denominator", "covariate", "no covariate", "not finite"],
)
def test_a_variant_that_loses_its_worst_outcomes_does_not_win(metric, lost):
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "p", metrics=[metric])
    for i in range(2000):
        name, value = ("v1", "v2")[i % 2], float(rng.normal())
        outcome = {"p": value, "n": 1.0, "other": 1.0}
        if name == "v2" and value < -0.5:
            outcome = {k: v for k, v in outcome.items() if k != lost} | (
                lost if isinstance(lost, dict) else {}
            )
        test.record_result(name, outcome)
    assert test.get_winner() is None
    assert code_of(test) == "check_data"


def test_a_metric_that_one_variants_outcomes_have_more_often_is_told():
    test = ABTest("t", variants(), "p")
    for i in range(2000):
        outcome = {"p": 1.0} if i % 2 or i % 4 else {"other": 1.0}
        test.record_result(("v1", "v2")[i % 2], outcome)
    warnings = test.compare_variants("v1", "v2")["warnings"]
    assert any("50.0% of the outcomes of v1 and 100.0% of those of v2" in t for t in warnings)


def test_few_values_that_are_not_finite_on_one_side_are_let_pass():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r")
    for i in range(20_000):
        value = None if i % 2 and i % 303 == 0 else rng.normal() + i % 2
        test.record_result(("v1", "v2")[i % 2], {"r": value})
    assert test.get_winner() == "v2"


def test_a_metric_recorded_with_half_of_the_outcomes_of_both_can_win():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "p")
    for i in range(2000):
        name = ("v1", "v2")[i % 2]
        outcome = {"p": rng.normal() + (name == "v2")} if i % 4 < 2 else {"other": 1.0}
        test.record_result(name, outcome)
    assert test.get_winner() == "v2"


@pytest.mark.parametrize("is_paired", [False, True])
def test_rounding_is_no_difference_and_a_constant_that_differs_is_one(is_paired):
    def winner(of_a, of_b):
        test = ABTest("t", variants(), "r", paired=is_paired)
        for i in range(200):
            if is_paired:
                test.record_paired({"v1": {"r": of_a(i)}, "v2": {"r": of_b(i)}})
            else:
                test.record_result("v1", {"r": of_a(i)})
                test.record_result("v2", {"r": of_b(i)})
        return test.get_winner()

    assert winner(lambda i: 0.3, lambda i: 0.1 + 0.2) is None
    assert winner(lambda i: 0.3, lambda i: 0.4) == "v2"
    if is_paired:
        assert winner(lambda i: i / 7, lambda i: i / 7 * 3 / 3.0 + 0.3 - 0.2 - 0.1) is None


@pytest.mark.slow
@pytest.mark.parametrize("value", [1e61, -1e200, 10**400, 1e300])
def test_a_value_beyond_all_measure_counts_as_not_finite_and_ends_nothing(store, value):
    test = ABTest("t", variants(), "r", store=store)
    fill(test, 2000, shift=1.0)
    test.record_result("v1", {"r": value})
    assert test.get_winner() == "v2"
    assert test.get_variant_stats()["v1"]["metrics"]["r"]["non_finite"] == 1
    test.flush()
    again = ABTest.load("t", store=store)
    assert again.get_winner() == "v2"
    again.record_result("v1", {"r": 0.0})


def test_an_experiment_that_was_stored_with_such_a_value_is_mended_by_loading(store):
    test = ABTest("t", variants(), "r", store=store)
    fill(test, 2000, shift=1.0)
    result = test._ledger._waiting[0]
    test._ledger._waiting.append(
        type(result)(variant="v1", epoch=0, metrics={"r": 1e200}, at=result.at)
    )
    test.flush()
    assert ABTest.load("t", store=store).get_winner() == "v2"


@pytest.mark.parametrize("scale", [1e-300, 1e-70])
def test_values_too_small_to_square_are_zero(scale):
    test = ABTest("t", variants(), "r")
    for i in range(400):
        test.record_result(("v1", "v2")[i % 2], {"r": scale * (1 + i % 2)})
    assert test.get_winner() is None


@pytest.mark.parametrize("value", ["0.5", b"1"])
def test_text_is_no_number(value):
    with pytest.raises(ConfigError, match="must be a number"):
        ABTest("t", variants(), "r").record_result("v1", {"r": value})


def test_the_effect_beside_adjusted_means_is_theirs():
    rng = np.random.default_rng(3)
    test = ABTest("t", variants(), "r", metrics=[Metric("r", covariate="pre")])
    for i in range(4000):
        name, pre = ("v1", "v2")[i % 2], rng.normal(0.5 * (i % 2 == 0), 3.0)
        test.record_result(name, {"r": pre + rng.normal() + 0.2 * (i % 2), "pre": pre})
    statistics = test.compare_variants("v1", "v2")["statistics"]
    assert statistics["mean_b"] > statistics["mean_a"]
    assert 0.0 < statistics["cohens_d"] < 0.2


# Requests


def test_a_request_has_one_outcome_whoever_is_said_to_have_answered(store):
    test = ABTest("t", variants(), "r", store=store)
    test.record_result("v1", {"r": 1.0}, request_id="x")
    test.record_result("v2", {"r": 2.0}, request_id="x")
    test.record_result("v1", {"r": 1.0}, request_id=5)
    test.flush()
    again = ABTest.load("t", store=store)
    again.record_result("v1", {"r": 1.0}, request_id=5)
    for it in (test, again):
        stats = it.get_variant_stats()
        assert (stats["v1"]["sample_count"], stats["v2"]["sample_count"]) == (2, 0)


@pytest.mark.parametrize("options", [{"forced": {"qa": "v2"}}, {"holdout_share": 0.5}])
@pytest.mark.parametrize("asked", [None, "v2"])
def test_an_outcome_that_does_not_count_may_be_given_again(options, asked):
    test = ABTest("t", variants(), "r", **options)
    users = ["qa"] if "forced" in options else [f"u{i}" for i in range(20)]
    user = next(u for u in users if u == "qa" or test.is_held_out(u))
    test.predict(1.0, user, variant_name=asked, request_id="1")
    for _ in range(2):
        test.record_outcome("1", {"r": 1.0})
    assert sum(stats["sample_count"] for stats in test.get_variant_stats().values()) == 0


def test_a_request_keeps_the_epoch_in_which_it_was_assigned():
    test = ABTest("t", variants(), "r")

    def change(x):
        if test._ledger.assignment.epoch == 0:
            test.update_traffic_weights({"v1": 1.0, "v2": 0.0})
        return x

    test._variants["v2"] = ModelVariant("v2", change)
    user = next(f"u{i}" for i in range(50) if test.select_variant(f"u{i}").name == "v2")
    test.predict(1.0, user, request_id="1")
    test.record_outcome("1", {"r": 1.0})
    assert list(test._ledger.snapshot().unit_counts) == [("v2", 0)]


@pytest.mark.parametrize("with_user", [False, True])
def test_late_outcomes_after_a_change_of_weights_are_no_lopsided_split(store, with_user):
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r", seed=0, store=store)
    chosen = {f"u{i}": test.select_variant(f"u{i}").name for i in range(400)}
    test.update_traffic_weights({"v1": 0.9, "v2": 0.1})
    for user, name in chosen.items():
        test.record_result(name, {"r": rng.normal()}, user_id=user if with_user else None)
    test.update_traffic_weights({"v1": 1.0, "v2": 0.0})
    test.record_result("v2", {"r": 1.0}, user_id="u1" if with_user else None)
    assert code_of(test) == "continue_testing"
    test.flush()
    assert code_of(ABTest.load("t", store=store)) == "continue_testing"


def test_the_same_users_under_every_variant_are_told_to_be_paired():
    test = ABTest("t", variants(), "r")
    for i, value in enumerate(np.random.default_rng(0).normal(size=200)):
        for name in ("v1", "v2"):
            test.record_result(name, {"r": value}, user_id=f"u{i}")
    assert "paired=True" in test.compare_variants("v1", "v2")["result"]["recommendation"]


# Several processes


def test_planned_looks_are_the_same_in_every_process(store):
    settings = {"inference": "fixed_horizon", "planned_samples": 200}
    rng = np.random.default_rng(0)
    clock = ManualClock()
    a = ABTest("t", variants(), "r", store=store, clock=clock, **settings)
    b = ABTest("t", variants(), "r", store=store, clock=clock, resume=True, **settings)
    for i in range(1000):
        # The one sees the good days of v2, the other the bad ones.
        name = ("v1", "v2")[i % 2]
        a.record_result(name, {"r": rng.normal() + (name == "v2")})
        b.record_result(name, {"r": rng.normal() - (name == "v2")})
        if i % 50 == 49:
            clock.advance(2.0)
    a.flush()
    b.flush()
    tests = [a, b, ABTest.load("t", store=store, clock=clock)]
    decisions = {json.dumps(test.compare_variants("v1", "v2")["decision"]) for test in tests}
    assert len(decisions) == 1
    assert len({test.get_winner() for test in tests}) == 1


def test_planned_looks_count_outcomes_with_the_primary_metric_and_tell_their_own_numbers():
    rng = np.random.default_rng(0)
    test = ABTest("t", variants(), "r", inference="fixed_horizon", planned_samples=100)
    for i in range(2000):
        name = ("v1", "v2")[i % 2]
        decides = {"r": rng.normal() + (name == "v2")} if i % 10 < 2 else {"other": 1.0}
        test.record_result(name, decides)
    result = test.compare_variants("v1", "v2")["result"]
    assert "n = 100 and 100" in result["recommendation"]
    assert result["winner"] == "v2"


def test_a_process_that_does_not_know_a_variant_cannot_take_it_away(store):
    a = ABTest("t", variants(), "r", store=store)
    b = ABTest("t", variants(), "r", store=store, resume=True)
    a.add_variant(ModelVariant("v3", lambda x: x))
    with pytest.raises(ConfigError, match="v3"):
        b.update_traffic_weights({"v1": 0.7, "v2": 0.3})
    b.add_variant(ModelVariant("v4", lambda x: x))
    a.flush()
    assert a.names == ("v1", "v2", "v3", "v4")
    b.remove_variant("v1")
    a.flush()
    assert a.names == ("v2", "v3", "v4")


def test_start_up_code_of_before_a_variant_came_or_went_goes_on(store):
    a = ABTest("t", variants(), "r", store=store)
    a.add_variant(ModelVariant("v3", lambda x: x))
    assert ABTest("t", variants(), "r", store=store, resume=True).names == ("v1", "v2", "v3")
    a.remove_variant("v1")
    assert ABTest("t", variants(), "r", store=store, resume=True).names == ("v2", "v3")
    with pytest.raises(ConfigError, match="variants"):
        ABTest("t", variants("v1", "v9"), "r", store=store, resume=True)


def test_another_salt_is_refused(store):
    ABTest("t", variants(), "r", store=store, salt="a")
    ABTest("t", variants(), "r", store=store, salt="a", resume=True)
    ABTest("t", variants(), "r", store=store, resume=True)
    with pytest.raises(ConfigError, match="salt"):
        ABTest("t", variants(), "r", store=store, salt="b", resume=True)


def test_a_process_that_only_serves_hears_of_a_pause_within_a_second(store):
    clock = ManualClock()
    a = ABTest("t", variants(), "r", store=store, clock=clock)
    b = ABTest("t", variants(), "r", store=store, clock=clock, resume=True)
    a.pause()
    clock.advance(1.1)
    assert {b.predict(1.0, f"u{i}")[1] for i in range(30)} == {"v1"}
    assert b.status == "paused"


def test_after_a_stop_elsewhere_not_one_outcome_is_stored_synchronously(store):
    a = ABTest("t", variants(), "r", store=store)
    b = ABTest("t", variants(), "r", store=store, durability="sync", resume=True)
    a.stop_test()
    with pytest.raises(ExperimentStoppedError):
        b.record_result("v1", {"r": 1.0})
    assert ABTest.load("t", store=store).get_variant_stats()["v1"]["sample_count"] == 0


def test_a_report_keeps_nobody_from_recording(tmp_path, monkeypatch):
    test = ABTest("t", variants(), "r")
    fill(test)
    compare, held = comparer.compare, []

    def watched(*args):
        held.append(test._ledger.lock._is_owned())
        return compare(*args)

    monkeypatch.setattr(comparer, "compare", watched)
    test.report(tmp_path / "page.html")
    test.export_results(tmp_path / "out.json")
    assert held
    assert not any(held)


def test_what_a_pause_leaves_out_is_said(caplog):
    test = ABTest("t", variants(), "r")
    test.pause()
    test.record_result("v1", {"r": 1.0})
    assert "is paused" in caplog.text


# Settings


@pytest.mark.parametrize(
    "options",
    [
        {"min_samples": 0.5},
        {"min_samples": True},
        {"min_samples": "100"},
        {"planned_samples": 100},
        {"inference": "group_sequential", "planned_samples": 100, "n_looks": 2.5},
        {"inference": "fixed_horizon", "planned_samples": 10.5},
    ],
)
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(ConfigError):
        ABTest("t", variants(), "r", **options)


def test_one_of_many_comparisons_says_that_it_is():
    test = ABTest("t", variants("v1", "v2", "v3"), "r")
    rng = np.random.default_rng(0)
    for i in range(900):
        name = ("v1", "v2", "v3")[i % 3]
        test.record_result(name, {"r": rng.normal() + 2 * (name == "v2")})
    warnings = test.compare_variants("v1", "v2")["warnings"]
    assert any("get_winner()" in text for text in warnings)


def test_a_metric_of_which_less_is_better_is_told_so():
    test = ABTest("t", variants(), "max_dd")
    rng = np.random.default_rng(0)
    for i in range(400):
        test.record_result(("v1", "v2")[i % 2], {"max_dd": rng.normal() + 2 * (i % 2)})
    assert "(less is better)" in test.compare_variants("v1", "v2")["result"]["recommendation"]
