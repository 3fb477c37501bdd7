"""How good answers are: realised against scikit-learn's numbers, estimated, and business."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter
from sklearn import metrics as reference

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.performance.calibration import Calibration
from modelyard.monitor.performance.estimated import estimated
from modelyard.monitor.performance.kinds import PredictionKind, kind_of
from modelyard.monitor.performance.measured import measured_mean
from modelyard.monitor.performance.realised import realised


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
