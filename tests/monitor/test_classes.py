"""Predictions and outcomes that are classes: shares by label, and labels that are kept."""

import json

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard.monitor import AlertRule, ModelMonitor
from modelyard.monitor.outputs import N_CLASSES
from modelyard.monitor.recording.deltas import Mark, delta_since, mark_of, take
from modelyard.monitor.recording.labels import code_of
from modelyard.monitor.recording.windows import Window


def monitor(**options):
    return ModelMonitor("ppo", background=False, clock=ManualClock(), **options)


def record(made, *predictions):
    for prediction in predictions:
        made.record_prediction(prediction, 0.01)
    return made.get_summary()["prediction"]


def test_predictions_that_are_text_have_shares_and_no_mean():
    found = record(monitor(), "buy", "sell", "buy", "hold")
    assert found["classes"] == {"buy": 0.5, "hold": 0.25, "sell": 0.25}
    assert next(iter(found["classes"])) == "buy"
    assert (found["n"], found["mean"], found["std"]) == (4, None, None)
    assert set(found["quantiles"].values()) == {None}
    assert found["per_output"] == {"mean": [None], "std": [None]}
    json.dumps(found, allow_nan=False)


def test_classes_that_are_numbers_are_told_by_value():
    found = record(monitor(prediction_kind="class"), 0, 2, 2, 2.5, np.nan)
    assert found["classes"] == {"2": 0.5, "0": 0.25, "2.5": 0.25}
    assert found["mean"] is None


def test_numbers_and_chances_have_no_classes():
    assert record(monitor(), 1.0, 2.0)["classes"] is None
    assert record(monitor(), [0.5, 0.5])["classes"] is None
    assert record(monitor())["classes"] is None


def test_of_very_many_classes_the_most_frequent_are_told():
    found = record(monitor(prediction_kind="class"), *range(150), *range(50))
    assert len(found["classes"]) == N_CLASSES
    assert all(found["classes"][str(i)] == pytest.approx(2 / 200) for i in range(50))


def test_a_rule_over_the_mean_of_text_knows_nothing():
    rule = AlertRule(name="mean", metric="prediction.mean", above=0.0, min_samples=1)
    made = monitor(alert_rules=[rule])
    for _ in range(300):
        made.record_prediction("buy", 0.01)
    made.set_baseline()
    assert "mean" not in {alert["name"] for alert in made.get_alerts()}


def test_distributions_name_outputs_as_the_verdicts_do():
    made = monitor()
    for value in np.random.default_rng(0).normal(size=(300, 2)):
        made.record_prediction(value, 0.01, value)
    made.set_baseline()
    verdict = made.detect_prediction_drift()["per_output"]
    for column in (0, 1):
        (found,) = made.distributions("prediction", [column])
        assert found["name"] == verdict[column]["name"] == f"output_{column}"
    assert made.distributions("feature", [0])[0]["name"] == "feature_0"


# Labels in what is stored


def fill(window, *labels):
    for label in labels:
        window.record(window.reader.read(label, 0.01, [1.0, label]), error=False, now_s=0.0)


def test_a_delta_holds_the_labels_of_its_own_rows_only():
    window = Window(100)
    fill(window, *(f"label {i}" for i in range(50)))
    mark = mark_of(window)
    fill(window, "label 7", "new")
    found = delta_since(window, mark, now_s=0.0, now=0.0).meta["labels"]
    for kind in ("prediction", "feature"):
        assert {label for _, label in found[kind]["by_code"]} == {"label 7", "new"}
    assert (found["prediction"]["columns"], found["feature"]["columns"]) == ([0], [1])
    quiet = delta_since(window, mark_of(window), now_s=0.0, now=0.0).meta["labels"]
    assert quiet["prediction"] == {"by_code": [], "columns": [0]}


def test_labels_of_outcomes_come_back_with_them():
    window, other = Window(100), Window(100)
    fill(window, "buy")
    window.outcomes.add(window.predictions.at(0), window.outcomes.truth_of("sell"))
    take(other, delta_since(window, Mark(), now_s=0.0, now=0.0), now_s=0.0, now=0.0)
    assert other.outcomes.labels.by_code == {code_of("sell"): "sell"}
    assert other.reader.prediction_labels.by_code == {code_of("buy"): "buy"}


def test_a_delta_from_before_outcomes_had_labels_is_taken():
    window = Window(10)
    fill(window, "buy")
    delta = delta_since(window, Mark(), now_s=0.0, now=0.0)
    del delta.meta["labels"]["outcome"]
    other = Window(10)
    take(other, delta, now_s=0.0, now=0.0)
    assert other.n_records == 1
