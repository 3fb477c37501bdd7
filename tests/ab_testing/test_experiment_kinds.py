"""What a metric is summed up as: proportions, ratios, quantiles, ranks, Sharpe ratios, CUPED."""

import logging

import numpy as np
import pytest
from scipy import stats

from modelyard._core.errors import ConfigError
from modelyard.ab_testing import ABTest, Metric, ModelVariant


def experiment(primary="m", **options) -> ABTest:
    variants = [ModelVariant("a", lambda x: x), ModelVariant("b", lambda x: x)]
    return ABTest("t", variants, primary, cycle_s=0.0, **options)


def record(test, a, b, metric="m"):
    for name, values in (("a", a), ("b", b)):
        for value in values:
            test.record_result(name, {metric: float(value)})


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.mark.slow
def test_shares_of_ones_are_compared_by_the_pooled_test(rng):
    a, b = rng.random(2000) < 0.05, rng.random(2000) < 0.11
    test = experiment(metric_type="proportion")
    record(test, a, b)
    found = test.compare_variants("a", "b")
    table = [[a.sum(), (~a).sum()], [b.sum(), (~b).sum()]]
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert found["statistics"]["p_value"] == pytest.approx(expected, rel=1e-9)
    assert found["result"]["winner"] == "b"


def test_a_ratio_divides_sums_not_outcomes():
    test = experiment(
        "profit", metrics=[Metric(name="profit", kind="ratio", denominator="trades")]
    )
    for profit, trades in ((10.0, 1.0), (0.0, 9.0)):
        test.record_result("a", {"profit": profit, "trades": trades})
        test.record_result("b", {"profit": 2.0 * profit, "trades": trades})
    found = test.compare_variants("a", "b")["statistics"]
    assert (found["mean_a"], found["mean_b"]) == (1.0, 2.0)


@pytest.mark.slow
def test_a_ratios_false_winners_are_rare_where_numerator_and_denominator_move_together(rng):
    n_false = 0
    for _ in range(60):
        test = experiment(
            "profit", metrics=[Metric(name="profit", kind="ratio", denominator="trades")]
        )
        for name in ("a", "b"):
            trades = rng.poisson(5.0, 300) + 1.0
            profit = trades * 0.3 + rng.normal(size=300)
            for x, y in zip(profit, trades, strict=True):
                test.record_result(name, {"profit": x, "trades": y})
        n_false += test.get_winner() is not None
    assert n_false <= 3


def test_a_value_without_its_denominator_is_left_out_and_told(rng):
    test = experiment("p", metrics=[Metric(name="p", kind="ratio", denominator="n")])
    for _ in range(100):
        test.record_result("a", {"p": rng.normal(), "n": 2.0})
        test.record_result("b", {"p": rng.normal(), "n": 2.0})
    test.record_result("b", {"p": 1.0})
    assert any("left out" in text for text in test.compare_variants("a", "b")["warnings"])


def test_a_quantile_finds_a_tail_that_the_mean_hides(rng):
    metric = Metric(name="latency", kind="quantile", quantile=0.95)
    test = experiment("latency", metrics=[metric])
    a = rng.exponential(1.0, 3000)
    b = np.where(rng.random(3000) < 0.1, 8.0, 0.3) + rng.random(3000) * 0.01
    record(test, a, b, "latency")
    found = test.compare_variants("a", "b")
    assert found["statistics"]["mean_a"] == pytest.approx(np.quantile(a, 0.95), rel=0.02)
    assert found["result"]["winner"] == "a"
    assert found["lower_is_better"]


def test_ranks_are_not_fooled_by_one_huge_value(rng):
    test = experiment(metric_type="rank")
    a, b = rng.normal(size=500), rng.normal(0.5, 1.0, size=500)
    a[0] = 1e9
    record(test, a, b)
    found = test.compare_variants("a", "b")
    expected = stats.mannwhitneyu(b, a, method="asymptotic").pvalue
    assert found["statistics"]["p_value"] == pytest.approx(expected, rel=1e-6)
    assert found["result"]["winner"] == "b"
    assert found["result"]["relative_improvement_percent"] is None


def test_returns_are_compared_by_their_sharpe_ratios(rng):
    test = experiment("return", metrics=[Metric(name="return", kind="sharpe")])
    a, b = rng.normal(0.0, 0.01, 2000), rng.normal(0.003, 0.01, 2000)
    record(test, a, b, "return")
    found = test.compare_variants("a", "b")
    assert found["statistics"]["mean_b"] == pytest.approx(b.mean() / b.std(ddof=0))
    assert found["result"]["winner"] == "b"
    assert "Sharpe ratios" in found["result"]["recommendation"]


def test_a_larger_mean_at_a_larger_risk_is_no_better_sharpe(rng):
    a, b = rng.normal(0.002, 0.01, 3000), rng.normal(0.004, 0.04, 3000)
    by_mean, by_sharpe = experiment("return"), experiment("return", metric_type="sharpe")
    record(by_mean, a, b, "return")
    record(by_sharpe, a, b, "return")
    assert by_mean.compare_variants("a", "b")["result"]["relative_improvement_percent"] > 0
    assert by_sharpe.compare_variants("a", "b")["result"]["relative_improvement_percent"] < 0


def test_pairs_of_returns_decide_with_far_fewer_of_them(rng):
    market = rng.normal(0.0, 0.01, 400)
    a, b = market + rng.normal(0, 0.001, 400), market + 0.0005 + rng.normal(0, 0.001, 400)
    alone = experiment("return", metric_type="sharpe")
    record(alone, a, b, "return")
    pairs = experiment("return", metric_type="sharpe", paired=True)
    for x, y in zip(a, b, strict=True):
        pairs.record_paired({"a": {"return": x}, "b": {"return": y}})
    assert alone.get_winner() is None
    assert pairs.get_winner() == "b"
    turned = pairs.compare_variants("b", "a")["statistics"]
    straight = pairs.compare_variants("a", "b")["statistics"]
    assert turned["p_value"] == pytest.approx(straight["p_value"])
    assert turned["confidence_interval"][0] == pytest.approx(-straight["confidence_interval"][1])


def test_what_was_known_before_is_taken_out():
    rng = np.random.default_rng(1)
    metric = Metric(name="m", covariate="before")
    plain, adjusted = experiment(), experiment(metrics=[metric])
    for name, shift in (("a", 0.0), ("b", 0.06)):
        before = rng.normal(size=1500)
        after = shift + before + rng.normal(0, 0.3, size=1500)
        for x, y in zip(before, after, strict=True):
            for test in (plain, adjusted):
                test.record_result(name, {"m": y, "before": x})
    assert plain.get_winner() is None
    assert adjusted.get_winner() == "b"


def test_many_outcomes_of_few_users_are_worth_the_users(rng):
    test = experiment(min_samples=10)
    for name in ("a", "b"):
        for user in range(40):
            level = rng.normal()
            for _ in range(50):
                user_id = f"{name}{user}"
                test.record_result(name, {"m": level + 0.1 * rng.normal()}, user_id=user_id)
    found = test.compare_variants("a", "b")["statistics"]
    assert (found["n_a"], found["n_units_a"]) == (2000, 40)
    assert 20 <= found["effective_n_a"] <= 40
    widths = [
        np.diff(found[key])[0]
        for key in ("confidence_interval", "confidence_interval_always_valid")
    ]
    assert widths[1] > 7 * widths[0]


@pytest.mark.slow
def test_users_with_many_outcomes_fake_no_winner(rng):
    n_false = 0
    for _ in range(40):
        test = experiment(min_samples=10)
        for name in ("a", "b"):
            for user in range(40):
                level = rng.normal()
                for _ in range(10):
                    user_id = f"{name}{user}"
                    test.record_result(name, {"m": level + rng.normal()}, user_id=user_id)
        n_false += test.get_winner() is not None
    assert n_false <= 2


def test_users_that_become_known_late_are_counted_from_then_on(rng):
    test = experiment(min_samples=10)
    for i in range(100):
        user_id = None if i < 50 else f"u{i % 5}"
        test.record_result("a", {"m": rng.normal()}, user_id=user_id)
        test.record_result("b", {"m": rng.normal()})
    found = test.compare_variants("a", "b")["statistics"]
    assert (found["n_units_a"], found["n_units_b"]) == (55, 100)
    assert found["mean_a"] == pytest.approx(test.get_variant_stats()["a"]["metrics"]["m"]["mean"])


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"kind": "median"}, "must be one of"),
        ({"kind": "ratio"}, "denominator"),
        ({"denominator": "n"}, "denominator"),
        ({"kind": "rank", "covariate": "x"}, "covariate"),
        ({"kind": "ratio", "denominator": "m"}, "its own"),
        ({"quantile": 1.0}, "quantile"),
        ({"periods_per_year": 0.0}, "periods_per_year"),
        ({"margin": -1.0}, "margin"),
        ({"name": ""}, "needs a name"),
        ({"quantile": "half"}, "numbers"),
        ({"margin": "wide"}, "numbers"),
    ],
)
def test_a_metric_that_makes_no_sense_says_why(attributes, said):
    with pytest.raises(ConfigError, match=said):
        Metric(**{"name": "m", **attributes})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": [Metric(name="m"), Metric(name="m")]}, "one name"),
        ({"metrics": [Metric(name="m", kind="rank")], "metric_type": "sharpe"}, "metric_type"),
        ({"metrics": ["m"]}, "list of Metric"),
        ({"min_samples": "5"}, "min_samples"),
        ({"metric_type": "rank", "paired": True}, "cannot be paired"),
        ({"metrics": [Metric(name="m", covariate="x")], "paired": True}, "cannot be paired"),
    ],
)
def test_metrics_that_do_not_go_together_say_why(options, said):
    with pytest.raises(ConfigError, match=said):
        experiment(**options)


def test_an_outcome_without_the_primary_metric_is_told_once(caplog):
    test = experiment("sharpe")
    with caplog.at_level(logging.WARNING):
        test.record_result("a", {"sharp": 1.0})
        test.record_result("a", {"sharp": 1.0})
    assert ["'sharpe'" in record.message for record in caplog.records] == [True]


def test_all_metrics_are_compared_and_adjusted_for_their_number(rng):
    test = experiment()
    for name in ("a", "b"):
        for _ in range(1000):
            values = {f"m{i}": rng.normal() for i in range(4)}
            values["m"] = rng.normal(0.5 * (name == "b"))
            test.record_result(name, values)
    for correction in ("holm", "benjamini_hochberg"):
        lines = {line["metric"]: line for line in test.compare_all(correction=correction)}
        assert len(lines) == 5
        assert lines["m"]["better"] == "b"
        assert all(x["adjusted_p_value"] >= x["p_value_always_valid"] for x in lines.values())
        assert not any(lines[f"m{i}"]["is_significant"] for i in range(4))
    with pytest.raises(ConfigError, match="correction"):
        test.compare_all(correction="none")


def test_too_few_values_for_an_extreme_quantile_is_no_verdict_and_says_so(rng):
    metric = Metric(name="m", kind="quantile", quantile=0.999)
    test = experiment(metrics=[metric])
    record(test, rng.normal(size=300), rng.normal(5.0, size=300))
    result = test.compare_variants("a", "b")["result"]
    assert result["recommendation_code"] == "collect_more"
    assert "0.999 quantile" in result["recommendation"]


def test_few_returns_get_a_bootstrap_and_many_do_not(rng):
    p_values = {}
    for n in (60, 400):
        test = experiment("return", metric_type="sharpe")
        a, b = rng.normal(0.0, 0.01, n), rng.normal(0.001, 0.01, n)
        record(test, a, b, "return")
        found = test.compare_variants("a", "b")["statistics"]
        t = abs(found["t_statistic"])
        p_values[n] = (found["p_value"], 2 * stats.t.sf(t, found["df"]))
    assert 0.0 < abs(p_values[60][0] - p_values[60][1]) < 0.1
    assert p_values[400][0] == pytest.approx(p_values[400][1])


def test_how_much_a_covariate_takes_out_is_told(rng):
    test = experiment(metrics=[Metric(name="m", covariate="before")])
    for name in ("a", "b"):
        for x in rng.normal(size=300):
            test.record_result(name, {"m": x + rng.normal(), "before": x})
    found = test.compare_variants("a", "b")["statistics"]["variance_reduction"]
    assert found == pytest.approx(0.5, abs=0.12)


def test_a_proportion_takes_ones_and_noughts_and_what_is_missing():
    test = experiment(metric_type="proportion")
    for value in (0, 1, True, None):
        test.record_result("a", {"m": value})
    with pytest.raises(ConfigError, match="0 or 1"):
        test.record_result("a", {"m": 0.5})
    assert test.get_variant_stats()["a"]["metrics"]["m"]["non_finite"] == 1
