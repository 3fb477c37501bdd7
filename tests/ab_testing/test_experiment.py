"""`ABTest`: assignment, recording, verdicts."""

import json
import logging
import threading

import numpy as np
import pytest
import torch
from scipy import stats

from modelyard._core.clock import ManualClock
from modelyard._core.errors import (
    ConfigError,
    ExperimentStoppedError,
    RequestNotFoundError,
    VariantNotFoundError,
)
from modelyard.ab_testing import ABTest, ModelVariant
from modelyard.routing import slot_of


def experiment(**options) -> ABTest:
    variants = [ModelVariant("a", lambda x: x), ModelVariant("b", lambda x: x + 1)]
    return ABTest("t", variants, "sharpe_ratio", **options)


def record(test, a, b, metric="sharpe_ratio"):
    for name, values in (("a", a), ("b", b)):
        for value in values:
            test.record_result(name, {metric: value})


# Assignment


def test_the_same_user_gets_the_same_variant_by_the_documented_formula():
    test = experiment(salt="2024")
    for i in range(200):
        name = test.select_variant(f"user_{i}").name
        assert name == test.select_variant(f"user_{i}").name
        assert name == ("a" if slot_of("t", "2024", f"user_{i}") < 5000 else "b")


def test_changed_weights_move_only_the_users_who_must():
    test = experiment()
    before = [test.select_variant(str(i)).name for i in range(5000)]
    test.update_traffic_weights({"a": 0.9, "b": 0.1})
    after = [test.select_variant(str(i)).name for i in range(5000)]
    moved = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    assert set(moved) == {("b", "a")}
    assert len(moved) / 5000 == pytest.approx(0.4, abs=0.03)


def test_without_a_user_the_split_follows_the_weights_and_one_warning(caplog):
    test = experiment(seed=1)
    with caplog.at_level(logging.WARNING):
        names = [test.select_variant().name for _ in range(2000)]
    assert names.count("a") == pytest.approx(1000, abs=100)
    assert len(caplog.records) == 1
    assert "alternate" in caplog.text


def test_users_and_an_explicit_random_split_raise_no_warning(caplog):
    experiment().select_variant("user")
    experiment(assignment="random", seed=0).select_variant()
    assert not caplog.records


def test_a_time_block_holds_one_variant_and_blocks_differ():
    clock = ManualClock()
    test = experiment(assignment="time_block", block_s=60.0, clock=clock)
    seen = []
    for _ in range(40):
        name = test.select_variant("whoever").name
        clock.advance(30)
        assert test.select_variant().name == name
        clock.advance(30)
        seen.append(name)
    assert set(seen) == {"a", "b"}


# Predicting


def test_any_callable_object_with_predict_or_module_answers():
    class Model:
        def predict(self, data):
            return data * 2

    linear = torch.nn.Linear(3, 1)
    test = ABTest("t", [ModelVariant("m", Model()), ModelVariant("n", linear)], "x")
    assert test.predict(4, variant_name="m") == (8, "m")
    prediction, name = test.predict(np.ones((1, 3)), variant_name="n")
    assert name == "n"
    assert not prediction.requires_grad
    assert test.predict_all(torch.ones(1, 3)).keys() == {"m", "n"}


def test_unknown_variants_are_named():
    test = experiment()
    for call in (
        lambda: test.predict(1, variant_name="c"),
        lambda: test.record_result("c", {"x": 1.0}),
        lambda: test.compare_variants("a", "c"),
        lambda: test.update_traffic_weights({"a": 1.0, "b": 1.0, "c": 1.0}),
    ):
        with pytest.raises(VariantNotFoundError, match=r"'c'.*There are: a, b"):
            call()


# Recording


def test_what_is_not_finite_is_counted_and_never_averaged():
    test = experiment()
    for value in (1.0, float("nan"), 3.0, float("inf"), None):
        test.record_result("a", {"sharpe_ratio": value, "y": 1})
    variant = test.get_variant_stats()["a"]
    assert variant["sample_count"] == 5
    assert variant["metrics"]["sharpe_ratio"]["mean"] == 2.0
    assert variant["metrics"]["sharpe_ratio"]["non_finite"] == 3
    json.dumps(test.get_variant_stats(), allow_nan=False)


@pytest.mark.parametrize("metrics", [{}, None, {"x": "high"}, {"x": [1, 2]}])
def test_metrics_that_are_no_numbers_are_refused(metrics):
    with pytest.raises(ConfigError, match="metric"):
        experiment().record_result("a", metrics)


def test_numpy_and_tensor_scalars_are_numbers():
    test = experiment()
    test.record_result("a", {"x": np.float32(0.5), "y": torch.tensor(2.0)})
    assert test.get_variant_stats()["a"]["metrics"]["y"]["mean"] == 2.0


def test_an_outcome_finds_its_variant_and_counts_once():
    test = experiment()
    _, name = test.predict(1, user_id="u", request_id="r1")
    test.record_outcome("r1", {"sharpe_ratio": 1.0})
    test.record_outcome("r1", {"sharpe_ratio": 1.0})
    assert test.get_variant_stats()[name]["sample_count"] == 1
    with pytest.raises(RequestNotFoundError, match="'r2'"):
        test.record_outcome("r2", {"sharpe_ratio": 1.0})


def test_a_stopped_test_answers_and_compares_but_records_no_more():
    test = experiment()
    record(test, [1.0, 2.0], [2.0, 3.0])
    assert test.stop_test()["status"] == test.status == "stopped"
    assert test.predict(1, user_id="u")[1] in {"a", "b"}
    assert test.compare_variants("a", "b")["statistics"]["n_a"] == 2
    with pytest.raises(ExperimentStoppedError, match="stopped"):
        test.record_result("a", {"sharpe_ratio": 1.0})
    with pytest.raises(ExperimentStoppedError):
        test.update_traffic_weights({"a": 1.0, "b": 1.0})


def test_threads_lose_no_result():
    test = experiment()

    def work():
        for i in range(500):
            test.predict(i, user_id=str(i))
            test.record_result("a", {"sharpe_ratio": float(i)})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    variant = test.get_variant_stats()["a"]
    assert variant["sample_count"] == 2000
    assert variant["metrics"]["sharpe_ratio"]["mean"] == pytest.approx(249.5)


# Verdicts


def test_the_single_look_p_value_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 150), rng.normal(1.5, 2, 130)
    test = experiment()
    record(test, a, b)
    comparison = test.compare_variants("a", "b")
    reference = stats.ttest_ind(b, a, equal_var=False)
    assert comparison["statistics"]["p_value"] == pytest.approx(reference.pvalue, rel=1e-9)
    assert comparison["statistics"]["df"] == pytest.approx(reference.df, rel=1e-9)
    assert comparison["result"]["relative_improvement_percent"] == pytest.approx(
        100 * (b.mean() - a.mean()) / a.mean()
    )
    json.dumps(comparison, allow_nan=False)


def test_a_clear_difference_has_a_winner_and_lower_can_be_better():
    rng = np.random.default_rng(1)
    for metric, winner in (("sharpe_ratio", "b"), ("max_dd", "a")):
        test = experiment()
        record(test, rng.normal(1, 1, 400), rng.normal(2, 1, 400), metric)
        result = test.compare_variants("a", "b", metric)["result"]
        assert result["winner"] == test.get_winner(metric) == winner
        assert result["recommendation_code"] == "strongly_switch"
        assert winner in result["recommendation"]
    assert test.compare_variants("a", "b", "max_dd")["result"]["relative_improvement_percent"] < 0


def test_before_any_data_everything_answers():
    test = experiment()
    comparison = test.compare_variants("a", "b")
    assert comparison["statistics"]["p_value"] == 1.0
    assert comparison["result"]["relative_improvement_percent"] == 0.0
    assert comparison["result"]["recommendation_code"] == "collect_more"
    assert test.get_winner() is None
    assert test.interval_history("a", "b")["n"] == []
    assert test.get_variant_stats()["a"]["sample_count"] == 0
    json.dumps(comparison, allow_nan=False)


def test_the_text_says_so_when_one_look_and_many_looks_disagree():
    test = experiment()
    rng = np.random.default_rng(3)
    a = rng.normal(size=200)
    record(test, a, rng.permutation(a) + 0.23)
    comparison = test.compare_variants("a", "b")
    assert (
        comparison["statistics"]["p_value"]
        < 0.05
        < comparison["statistics"]["p_value_always_valid"]
    )
    assert comparison["result"]["winner"] is None
    assert "looked at once" in comparison["result"]["recommendation"]


def test_a_metric_that_was_never_recorded_is_named():
    test = experiment()
    test.record_result("a", {"cagr": 1.0})
    with pytest.raises(ConfigError, match=r"'profit'.*cagr"):
        test.get_winner("profit")
    with pytest.raises(ConfigError, match="itself"):
        test.compare_variants("a", "a")


def test_changing_weights_between_good_and_bad_days_fakes_no_difference():
    rng = np.random.default_rng(5)
    test = experiment()
    test.update_traffic_weights({"a": 0.9, "b": 0.1})
    record(test, rng.normal(10, 1, 900), rng.normal(10, 1, 100))
    test.update_traffic_weights({"a": 0.1, "b": 0.9})
    record(test, rng.normal(0, 1, 100), rng.normal(0, 1, 900))
    variants = test.get_variant_stats()
    pooled = [variants[name]["metrics"]["sharpe_ratio"]["mean"] for name in "ab"]
    assert pooled[0] - pooled[1] > 7
    comparison = test.compare_variants("a", "b")
    assert comparison["weight_epochs"] == 3
    assert comparison["result"]["winner"] is None
    assert abs(comparison["statistics"]["mean_b"] - comparison["statistics"]["mean_a"]) < 0.3


def test_with_three_variants_the_winner_beats_both_others():
    rng = np.random.default_rng(6)
    variants = [ModelVariant(name, lambda x: x) for name in "abc"]
    test = ABTest("t", variants, "m")
    for name, mean in (("a", 0.0), ("b", 1.0), ("c", 1.0)):
        for value in rng.normal(mean, 1, 300):
            test.record_result(name, {"m": value})
    assert test.get_winner() is None
    for value in rng.normal(3.0, 1, 900):
        test.record_result("c", {"m": value})
    assert test.get_winner() == "c"


@pytest.mark.slow
def test_looking_at_every_step_finds_false_winners_in_at_most_five_percent():
    rng = np.random.default_rng(7)
    false = 0
    for _ in range(60):
        test = experiment(min_samples=50)
        false += _has_winner_at_any_look(test, rng.normal(size=(600, 2)))
    assert false <= 3


@pytest.mark.slow
def test_a_stream_of_rolling_ratios_fakes_no_winner_and_is_warned_about(caplog):
    rng = np.random.default_rng(8)
    false = naive = 0
    for _ in range(30):
        test = experiment()
        false += _has_winner_at_any_look(test, np.stack([_rolling(rng), _rolling(rng)], axis=1))
        naive += test.compare_variants("a", "b")["statistics"]["p_value"] < 0.05
    assert naive > 10
    assert false <= 1
    assert "follow one another" in caplog.text
    assert test.compare_variants("a", "b")["statistics"]["effective_n_a"] < 100


def _rolling(rng, n=1000, window=20):
    returns = rng.normal(size=n + window - 1)
    windows = np.lib.stride_tricks.sliding_window_view(returns, window)
    return windows.mean(axis=1) / windows.std(axis=1)


def _has_winner_at_any_look(test, values):
    found = False
    for i, (a, b) in enumerate(values):
        test.record_result("a", {"sharpe_ratio": a})
        test.record_result("b", {"sharpe_ratio": b})
        found = found or (i % 20 == 19 and test.get_winner() is not None)
    return found


# Paired


def test_paired_differences_decide_with_far_fewer_samples():
    rng = np.random.default_rng(9)
    market = rng.normal(size=(400, 1))
    values = market + rng.normal([0.0, 0.1], 0.1, size=(400, 2))
    paired, unpaired = experiment(paired=True), experiment()
    for a, b in values:
        paired.record_paired({"a": {"sharpe_ratio": a}, "b": {"sharpe_ratio": b}})
    record(unpaired, values[:, 0], values[:, 1])
    statistics = paired.compare_variants("a", "b")["statistics"]
    reference = stats.ttest_rel(values[:, 1], values[:, 0])
    assert statistics["p_value"] == pytest.approx(reference.pvalue, rel=1e-9)
    assert statistics["n_a"] == 400
    assert paired.get_winner() == "b"
    assert unpaired.get_winner() is None
    backwards = paired.compare_variants("b", "a")["statistics"]
    assert backwards["t_statistic"] == pytest.approx(-statistics["t_statistic"])


def test_a_pair_with_a_missing_side_is_no_pair():
    test = experiment(paired=True)
    test.record_paired({"a": {"m": 1.0}, "b": {"m": float("nan")}}, request_id="x")
    test.record_paired({"a": {"m": 1.0}, "b": {"m": 2.0}}, request_id="y")
    test.record_paired({"a": {"m": 1.0}, "b": {"m": 2.0}}, request_id="y")
    assert test.compare_variants("a", "b", "m")["statistics"]["n_a"] == 1
    assert test.get_variant_stats()["a"]["sample_count"] == 2


def test_paired_and_unpaired_recording_do_not_mix():
    with pytest.raises(ConfigError, match="record_paired"):
        experiment(paired=True).record_result("a", {"m": 1.0})
    with pytest.raises(ConfigError, match="paired=True"):
        experiment().record_paired({"a": {"m": 1.0}, "b": {"m": 1.0}})
    with pytest.raises(ConfigError, match="two variants"):
        experiment(paired=True).record_paired({"a": {"m": 1.0}})


# History and export


@pytest.mark.parametrize("n", [60, 1500])
def test_the_interval_history_narrows_around_the_difference(n):
    rng = np.random.default_rng(10)
    test = experiment()
    for a, b in rng.normal([0.0, 0.5], size=(n, 2)):
        test.record_result("a", {"sharpe_ratio": a})
        test.record_result("b", {"sharpe_ratio": b})
    history = test.interval_history("a", "b", points=50)
    assert 20 <= len(history["n"]) <= 50
    assert history["n"] == sorted(history["n"])
    assert history["n"][-1] == 2 * n
    widths = np.subtract(history["upper"], history["lower"])
    assert widths[-1] < widths[0] / 2
    final = test.compare_variants("a", "b")["statistics"]["confidence_interval_always_valid"]
    assert [history["lower"][-1], history["upper"][-1]] == final


def test_the_export_is_complete_json_and_makes_its_folder(tmp_path):
    test = experiment()
    rng = np.random.default_rng(11)
    record(test, rng.normal(0, 1, 120), rng.normal(2, 1, 120))
    path = test.export_results(tmp_path / "out" / "result.json")
    report = json.loads((tmp_path / "out" / "result.json").read_text())
    assert path == str(tmp_path / "out" / "result.json")
    assert report["winner"] == "b"
    assert report["variants"]["a"]["sample_count"] == 120
    assert sum(count for _, count in report["assignment"]["runs"]) == 10_000
    assert report["comparisons"][0]["result"]["winner"] == "b"
    assert report["interval_history"]["a vs b"]["n"][-1] == 240


# Arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confidence_level": 95}, "means 95 %"),
        ({"min_samples": 0}, "min_samples"),
        ({"n_tuned": -1}, "n_tuned"),
        ({"assignment": "coin"}, "time_block"),
        ({"block_s": 0}, "block_s"),
        ({"durability": "maybe"}, "sync"),
    ],
)
def test_arguments_that_break_a_rule_say_which(options, said):
    with pytest.raises(ConfigError, match=said):
        experiment(**options)


@pytest.mark.parametrize(
    "variants",
    [[], [ModelVariant("a", abs)], [ModelVariant("a", abs), ModelVariant("a", abs)]],
)
def test_an_experiment_needs_two_variants(variants):
    with pytest.raises(ConfigError, match="two or more variants"):
        ABTest("t", variants, "m")


def test_names_that_leave_their_folder_are_refused():
    with pytest.raises(ConfigError):
        ModelVariant("../a", abs)
    with pytest.raises(ConfigError, match="callable"):
        ModelVariant("a", 3)
    with pytest.raises(ConfigError, match="No weight for b"):
        experiment().update_traffic_weights({"a": 1.0})


# Direction


@pytest.mark.parametrize(
    "metric", ["val_loss", "latency_p99_ms", "forecast_error", "val_rmse", "mape", "cost_bps"]
)
def test_the_variant_with_less_of_a_bad_thing_wins_by_the_metrics_name(metric):
    rng = np.random.default_rng(0)
    variants = [ModelVariant("a", abs), ModelVariant("b", abs)]
    test = ABTest("t", variants, metric)
    record(test, rng.normal(1, 0.1, 300), rng.normal(2, 0.1, 300), metric)
    assert test.compare_variants("a", "b")["result"]["winner"] == "a"
    assert test.get_winner() == "a"


def test_given_metrics_of_which_less_is_better_are_used_as_they_are():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.1, 300), rng.normal(2, 0.1, 300)
    for given, winner in ((["sharpe_ratio"], "a"), ([], "b"), (None, "b")):
        test = experiment(lower_is_better=given)
        record(test, a, b)
        assert test.get_winner() == winner


def test_one_text_as_the_metrics_of_which_less_is_better_is_refused():
    with pytest.raises(ConfigError, match="list"):
        experiment(lower_is_better="loss")


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "half"])
def test_a_variant_with_an_impossible_weight_is_refused_at_once(weight):
    with pytest.raises(ConfigError, match="traffic_weight"):
        ModelVariant("a", abs, traffic_weight=weight)


# Missing values


@pytest.mark.parametrize("paired", [False, True])
def test_a_variant_whose_bad_outcomes_are_not_finite_does_not_win(paired):
    rng = np.random.default_rng(0)
    test = experiment(paired=paired)
    for a, b in rng.normal(0.0, 1.0, (600, 2)):
        survivor = b if b > -0.5 else float("nan")
        if paired:
            test.record_paired({"a": {"sharpe_ratio": a}, "b": {"sharpe_ratio": survivor}})
        else:
            record(test, [a], [survivor])
    comparison = test.compare_variants("a", "b")
    assert comparison["statistics"]["p_value_always_valid"] < 0.05
    assert comparison["statistics"]["missing_share_b"] == pytest.approx(0.31, abs=0.05)
    assert comparison["result"]["winner"] is None
    assert comparison["result"]["recommendation_code"] == "check_data"
    assert "not finite" in comparison["result"]["recommendation"]
    assert "not finite" in comparison["warnings"][0]
    assert test.get_winner() is None


def test_one_value_in_a_thousand_that_is_not_finite_leaves_the_winner():
    rng = np.random.default_rng(0)
    test = experiment()
    record(test, rng.normal(0, 1, 1000), [float("nan"), *rng.normal(1, 1, 999)])
    assert test.get_winner() == "b"
    assert test.compare_variants("a", "b")["result"]["winner"] == "b"
