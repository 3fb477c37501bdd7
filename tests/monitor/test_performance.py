"""How good answers are: realised against scikit-learn's numbers, estimated, and business."""

import json
import math
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import special
from scipy.signal import lfilter
from sklearn import metrics as reference

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.performance.calibration import Calibration
from modelyard.monitor.performance.estimated import estimated
from modelyard.monitor.performance.kinds import PredictionKind, kind_of
from modelyard.monitor.performance.measured import measured_mean, measured_share
from modelyard.monitor.performance.realised import realised
from modelyard.monitor.performance.report import Known, performance_of
from modelyard.monitor.recording.outcomes import Outcomes, pairs_of

CHANCES, NUMBER = PredictionKind.PROBABILITIES, PredictionKind.NUMBER


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def values_of(measured):
    return {name: one.value for name, one in measured.items()}


def test_chances_of_two_classes_are_scored_as_scikit_learn_does(rng):
    truth = rng.integers(0, 2, size=400)
    chance = np.clip(truth * 0.3 + rng.random(400) * 0.7, 0.001, 0.999)
    found = values_of(
        realised(PredictionKind.PROBABILITIES, chance[:, None], truth[:, None].astype(float))
    )
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, chance > 0.5))
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, chance))
    assert found["brier"] == pytest.approx(2 * reference.brier_score_loss(truth, chance))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, chance))


def test_chances_of_several_classes_are_scored_as_scikit_learn_does(rng):
    chances = rng.dirichlet(np.ones(4), size=300)
    truth = np.array([rng.choice(4, p=row) for row in chances])
    found = values_of(realised(PredictionKind.PROBABILITIES, chances, truth[:, None] * 1.0))
    assert found["accuracy"] == pytest.approx(
        reference.accuracy_score(truth, chances.argmax(axis=1))
    )
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, chances))
    assert "roc_auc" not in found


def test_numbers_are_scored_as_scikit_learn_does(rng):
    truth = rng.normal(size=(300, 1))
    said = truth + rng.normal(0.2, 0.5, size=(300, 1))
    found = values_of(realised(PredictionKind.NUMBER, said, truth))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, said))
    assert found["mse"] == pytest.approx(reference.mean_squared_error(truth, said))
    assert found["bias"] == pytest.approx((said - truth).mean())
    assert found["direction"] == pytest.approx((np.sign(said) == np.sign(truth)).mean())
    assert found["correlation"] == pytest.approx(np.corrcoef(said.T, truth.T)[0, 1])


def test_what_does_not_go_together_has_no_score(rng):
    assert realised(PredictionKind.NUMBER, np.ones((3, 2)), np.ones((3, 1))) == {}
    assert realised(PredictionKind.CLASS, np.empty((0, 0)), np.empty((0, 0))) == {}
    beyond = realised(PredictionKind.PROBABILITIES, np.ones((3, 2)) / 2, np.full((3, 1), 7.0))
    assert beyond == {}


@pytest.mark.parametrize("r", [0.0, 0.8])
def test_the_interval_of_a_mean_allows_for_values_that_follow_one_another(r, rng):
    inside = 0
    for _ in range(300):
        x = lfilter([math.sqrt(1 - r * r)], [1, -r], rng.normal(size=600))[100:]
        interval = measured_mean(x).interval
        inside += interval.lower <= 0.0 <= interval.upper
    assert inside >= 0.88 * 300


def ar(rng, r, n):
    return lfilter([math.sqrt(1 - r * r)], [1, -r], rng.normal(size=n + 200))[200:]


def covered(measured, truth, n_runs=200):
    """Share of intervals that hold the truth."""
    intervals = [measured().interval for _ in range(n_runs)]
    return sum(one.lower <= truth <= one.upper for one in intervals) / n_runs


@pytest.mark.slow
@pytest.mark.parametrize(("r", "n"), [(0.0, 20), (0.0, 200), (0.5, 200), (0.95, 1000)])
def test_intervals_of_correlation_area_and_shares_hold_in_time_order_too(r, n, rng):
    def correlation():
        return realised(NUMBER, ar(rng, r, n)[:, None], ar(rng, r, n)[:, None])["correlation"]

    def area():
        chance = special.expit(ar(rng, r, n))[:, None]
        truth = (ar(rng, r, n) > 0.0).astype(float)
        truth[:2] = [0.0, 1.0]  # both classes are there
        return realised(CHANCES, chance, truth[:, None])["roc_auc"]

    def share():
        return measured_share((ar(rng, r, n) > 0.0)[:, None].astype(float))

    assert covered(correlation, 0.0) >= 0.88
    assert covered(area, 0.5) >= 0.88
    assert covered(share, 0.5) >= 0.88


@pytest.mark.parametrize(("share", "n"), [(0.98, 20), (0.98, 50), (0.9, 10), (0.5, 5)])
def test_the_interval_of_a_share_holds_near_its_ends_and_for_few_values(share, n, rng):
    assert covered(lambda: measured_share((rng.random((n, 1)) < share) * 1.0), share) >= 0.89


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_of_a_share_holds_it_and_stays_from_0_to_1(hits):
    found = measured_share(np.array(hits, float)[:, None])
    assert found.value == pytest.approx(np.mean(hits))
    assert 0.0 <= found.interval.lower <= found.value <= found.interval.upper <= 1.0
    assert found.interval.upper - found.interval.lower > 0.0


def test_ten_of_ten_and_six_of_six_are_not_certain():
    assert measured_share(np.ones((10, 1))).interval.lower == pytest.approx(0.7225, abs=1e-4)
    chance = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])[:, None]
    perfect = realised(CHANCES, chance, (chance > 0.5) * 1.0)["roc_auc"]
    assert (perfect.value, perfect.interval.upper) == (1.0, 1.0)
    assert perfect.interval.lower < 0.5
    x = np.arange(12.0)[:, None]
    relation = realised(NUMBER, x, 2.0 * x)["correlation"]
    assert relation.interval.lower < relation.value == pytest.approx(1.0)


def test_outputs_of_one_row_are_not_taken_for_more_evidence(rng):
    """Four outputs that say the same are as many values as one."""
    one = (rng.random((400, 1)) < 0.6) * 1.0
    single, fourfold = measured_share(one), measured_share(np.repeat(one, 4, axis=1))
    assert fourfold.n == 1600
    assert fourfold.interval.lower == pytest.approx(single.interval.lower, abs=0.01)


def test_without_spread_correlation_and_area_are_unknown():
    ones = np.ones((20, 1))
    assert math.isnan(realised(NUMBER, ones, ones * 2.0)["correlation"].value)
    truth = (np.arange(20.0) % 2)[:, None]
    for found in (realised(CHANCES, ones / 2, truth), realised(CHANCES, truth, ones)):
        assert math.isnan(found["roc_auc"].value)
        assert math.isnan(found["roc_auc"].interval.lower)


@pytest.mark.parametrize(
    ("rows", "has_labels", "kind"),
    [
        (np.ones((5, 1)), False, PredictionKind.NUMBER),
        (np.full((5, 4), 0.25), False, PredictionKind.PROBABILITIES),
        (np.array([[0.5, 0.6]]), False, PredictionKind.NUMBER),
        (np.array([[1.5, -0.5]]), False, PredictionKind.NUMBER),
        (np.ones((5, 1)), True, PredictionKind.CLASS),
        (np.empty((0, 0)), False, PredictionKind.NUMBER),
    ],
)
def test_the_kind_of_predictions_is_found(rows, has_labels, kind):
    assert kind_of(rows, has_labels=has_labels) is kind


def test_the_estimate_is_the_accuracy_that_comes_true(rng):
    """Calibrated chances: what is estimated without outcomes is what they then show."""
    inside = 0
    for _ in range(100):
        confidence = rng.uniform(0.5, 1.0, size=800)
        is_right = rng.random(800) < confidence
        (found,) = estimated(confidence[:, None], None).values()
        inside += found.interval.lower <= is_right.mean() <= found.interval.upper
    assert inside >= 90


def test_outcomes_bring_overconfident_chances_in_line(rng):
    confidence = rng.uniform(0.5, 1.0, size=2000)
    true_accuracy = 0.5 + (confidence - 0.5) * 0.4
    truth = (rng.random(2000) < true_accuracy).astype(float)
    predictions = confidence[:, None]
    calibration = Calibration.of(predictions, truth[:, None])
    later = rng.uniform(0.8, 1.0, size=(1000, 1))
    (naive,) = estimated(later, None).values()
    (honest,) = estimated(later, calibration).values()
    assert naive.value == pytest.approx(0.9, abs=0.02)
    assert honest.value == pytest.approx(0.5 + 0.4 * 0.4, abs=0.04)
    assert Calibration.of(predictions[:100], truth[:100, None]) is None


@pytest.mark.parametrize("levels", [[0.8], [0.6, 0.7, 0.8, 0.9]])
def test_confidences_that_come_often_are_estimated_without_bias(levels, rng):
    found = []
    for _ in range(40):
        confidence = rng.choice(levels, size=1000)
        truth = (rng.random(1000) < confidence) * 1.0
        calibration = Calibration.of(confidence[:, None], truth[:, None])
        later = rng.choice(levels, size=(1000, 1))
        found.append(estimated(later, calibration)["accuracy"].value)
    assert np.mean(found) == pytest.approx(np.mean(levels), abs=0.01)


@pytest.mark.parametrize("n_pairs", [200, 1000])
@pytest.mark.parametrize("low", [0.5, 0.9])
def test_the_estimate_allows_for_how_few_outcomes_it_comes_from(n_pairs, low, rng):
    inside = 0
    for _ in range(200):
        confidence = rng.uniform(low, 1.0, size=n_pairs)
        truth = (rng.random(n_pairs) < confidence) * 1.0
        calibration = Calibration.of(confidence[:, None], truth[:, None])
        later = rng.uniform(low, 1.0, size=1000)
        interval = estimated(later[:, None], calibration)["accuracy"].interval
        inside += interval.lower <= (rng.random(1000) < later).mean() <= interval.upper
    assert inside >= 0.9 * 200


def test_an_estimate_stays_from_0_to_1_and_takes_nothing_but_chances(rng):
    sure = np.full((20, 1), 0.999)
    assert estimated(sure, None)["accuracy"].interval.upper <= 1.0
    assert estimated(np.array([[70.0, 30.0], [1e3, 0.0]]), None) == {}
    rows = np.array([[0.7, 0.3], [1e3, 0.0], [np.nan, 0.5]])
    assert estimated(rows, None)["accuracy"].n == 1
    calibration = Calibration.of(np.full((300, 1), 0.8), (rng.random((300, 1)) < 0.8) * 1.0)
    found = estimated(np.array([[0.55], [0.99]]), calibration)["accuracy"]
    assert found.value == pytest.approx(0.8, abs=0.1)
    assert 0.0 <= found.interval.lower < found.interval.upper <= 1.0


def told(truths, predictions, **options):
    made = ModelMonitor("ppo", background=False, clock=ManualClock(), **options)
    for prediction, truth in zip(predictions, truths, strict=True):
        made.record_outcome(made.record_prediction(prediction, 0.01), truth)
    return made.get_performance()


def test_an_outcome_that_names_an_output_is_its_position():
    chances = [[0.3, 0.7], [0.6, 0.4], [0.2, 0.8]]
    found = told(["up", "up", "down"], chances, output_names=["down", "up"])
    assert found["realised"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert found["reason"] == ""
    single = told(["up", "down"], [0.7, 0.1], output_names=["up"], prediction_kind="probabilities")
    assert single["realised"]["accuracy"]["value"] == 1.0
    both = told(
        ["up", 1], [0.7, 0.7], output_names=["down", "up"], prediction_kind="probabilities"
    )
    assert (both["realised"]["accuracy"]["value"], both["reason"]) == (1.0, "")


@pytest.mark.parametrize(
    ("truths", "predictions", "reason"),
    [
        (["up", "down"], [[0.3, 0.7]] * 2, r"name no output \('down', 'up'\): give output_names="),
        ([1.0, 1.0], [[0.3, 0.9]] * 2, "2 outputs and outcomes 1 values"),
        ([[1.0, 0.0]], [[0.3, 0.7]], "Outcomes hold 2 values; of chances"),
        ([7, 0.5], [[0.3, 0.7]] * 2, "2 of 2 outcomes are no class: a whole number from 0 to 1"),
        (["up"], [0.7], r"labels \('up'\) and predictions are numbers.*prediction_kind="),
        ([1.0], [math.nan], "1 of 1 predictions or their outcomes hold NaN"),
    ],
)
def test_the_reason_says_why_outcomes_cannot_be_compared(truths, predictions, reason):
    found = told(truths, predictions)
    assert found["realised"] == {}
    assert re.search(reason, found["reason"])
    assert found["n_outcomes"] == len(truths)
    json.dumps(found, allow_nan=False)


def test_percentages_are_no_chances_and_stop_nothing():
    found = told([0, 1], [[70.0, 30.0]] * 2, prediction_kind="probabilities")
    assert (found["realised"], found["estimated"]) == ({}, {})
    assert "2 of 2 predictions with an outcome are no chances from 0 to 1" in found["reason"]


def test_text_classes_are_compared_and_nothing_known_has_no_reason():
    found = told(["buy", "sell"], ["buy", "buy"])
    assert (found["realised"]["accuracy"]["value"], found["reason"]) == (0.5, "")
    assert told([], [])["reason"] == ""


def test_values_whose_squares_overflow_stop_nothing():
    values = np.resize([1e200, -1e200], 40)
    found = performance_of(
        NUMBER,
        values[:, None],
        Known(predictions=values[:, None], truths=-values[:, None]),
        {"return": values},
        return_metrics={"return"},
        periods_per_year=1.0,
    )
    assert found["realised"]["mae"]["value"] == pytest.approx(2e200)
    assert found["realised"]["mse"]["value"] is None
    assert found["realised"]["correlation"]["value"] == pytest.approx(-1.0)
    assert found["metrics"]["return"]["sharpe"]["value"] == pytest.approx(0.0, abs=1e-9)


def test_pairs_are_copied_and_worked_on_later(rng):
    outcomes = Outcomes(3)
    for index in range(5):
        outcomes.add(np.array([float(index)]), np.array([1.0]))
    kept = outcomes.kept()
    outcomes.add(np.array([9.0]), np.array([1.0]))
    assert pairs_of(kept)[0].tolist() == [[2.0], [3.0], [4.0]]
    assert pairs_of(outcomes.kept(newest=1))[0].tolist() == [[9.0]]
    outcomes.add(np.array([1.0, 2.0]), np.array([1.0]))
    assert outcomes.pairs()[0].tolist() == [[1.0, 2.0]]  # of the newest form only
    assert outcomes.kept(newest=0) == []
    assert pairs_of([])[0].shape == (0, 0)


def test_a_monitor_tells_realised_estimated_and_business_figures(rng):
    monitor = ModelMonitor(
        "ppo", window_size=300, background=False, clock=ManualClock(), periods_per_year=252
    )
    chances = rng.dirichlet(np.ones(3) * 2, size=300)
    for row in chances:
        request_id = monitor.record_prediction(row, 0.01)
        monitor.record_outcome(request_id, int(rng.choice(3, p=row)))
        monitor.record_metric("return", rng.normal(0.001, 0.01))
    found = monitor.get_performance()
    assert found["kind"] == "probabilities"
    assert found["n_outcomes"] == 300
    assert found["calibrated"]
    assert found["realised"]["accuracy"]["value"] == pytest.approx(
        found["estimated"]["accuracy"]["value"], abs=0.08
    )
    sharpe = found["metrics"]["return"]["sharpe"]
    assert sharpe["lower"] < sharpe["value"] < sharpe["upper"]
    assert set(found["metrics"]["return"]) == {"mean", "sharpe"}


def test_late_outcomes_find_their_prediction_and_too_late_ones_are_counted(rng):
    monitor = ModelMonitor("ppo", window_size=10, background=False, clock=ManualClock())
    ids = [monitor.record_prediction(float(i), 0.01) for i in range(10_000)]
    monitor.record_outcome(ids[0], 0.0)  # a thousand windows later
    assert monitor.get_performance()["realised"]["mae"]["value"] == 0.0
    wide = ModelMonitor("ppo", window_size=10, background=False, clock=ManualClock())
    ids = [wide.record_prediction(np.zeros(100), 0.01) for _ in range(20)]
    wide.record_outcome(ids[0], np.zeros(100))
    wide.record_outcome(ids[-1], np.zeros(100))
    assert wide.get_performance()["n_unmatched"] == 1
    assert wide.get_performance()["n_outcomes"] == 1


def test_an_outcome_without_a_prediction_is_only_counted():
    monitor = ModelMonitor("ppo", background=False, clock=ManualClock())
    request_id = monitor.record_prediction(None, 0.01, error=True)
    monitor.record_outcome(request_id, 1.0)
    assert monitor.get_performance()["n_unmatched"] == 1
    with pytest.raises(ConfigError, match="a number, a list of numbers or a label"):
        monitor.record_outcome(request_id, object())
    with pytest.raises(ConfigError, match="prediction_kind"):
        ModelMonitor("ppo", prediction_kind="poem")
