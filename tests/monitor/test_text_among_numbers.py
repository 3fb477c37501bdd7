"""Text in a stream of numbers: read where it is a number, missing where it stands for none."""

import math

import numpy as np
import pytest

from modelyard import ModelMonitor
from modelyard.monitor.recording.labels import Labels


def moved(features_of, shift, n=1000):
    """The verdict on features that have moved by `shift` since the baseline."""
    monitor = ModelMonitor("p", background=False)
    generator = np.random.default_rng(0)
    for mean in (0.0, shift):
        for i in range(n):
            value = float(generator.normal(mean))
            monitor.record_prediction(0.0, 0.001, features_of(value, i))
        if not mean:
            monitor.set_baseline()
    return monitor.detect_feature_drift()


@pytest.mark.parametrize(
    "features_of",
    [
        lambda value, i: {"rsi": "N/A" if i == 0 else value},
        lambda value, i: {"rsi": f"{value:.6f}"},
        lambda value, i: ["nan" if i == 0 else value],
        lambda value, i: [np.str_(value)],
    ],
    ids=["one missing", "numbers as text", "one nan", "text of NumPy"],
)
def test_text_makes_no_category_of_a_column_of_numbers(features_of):
    found = moved(features_of, 3.0)
    assert found["is_drifted"]
    assert found["drift_score"] > 1.0


def test_a_column_of_labels_keeps_to_labels():
    labels = Labels()
    labels.coded([["buy", "1.5"], ["sell", "2"], ["7", 3.0]])
    assert labels.columns == {0}
    assert set(labels.by_code.values()) == {"buy", "sell", "7"}


@pytest.mark.parametrize("text", ["", " ", "NA", "n/a", "NaN", "None", "null", "-", "inf"])
def test_what_stands_for_no_number_is_missing_or_a_label(text):
    labels = Labels()
    [found] = labels.coded([text])
    assert math.isnan(found) is (text != "inf")


def test_a_column_that_is_said_to_hold_numbers_takes_no_label():
    monitor = ModelMonitor("p", prediction_kind="number", background=False)
    for value in (1.0, "buy", "2", 3.0):
        monitor.record_prediction(value, 0.001)
    assert monitor.get_summary()["prediction"]["mean"] == pytest.approx(2.0)
