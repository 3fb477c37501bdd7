"""Text in a stream of numbers: read where it is a number, missing where it stands for none."""

import math

import numpy as np
import pytest

from modelyard import ModelMonitor
from modelyard.monitor.recording.labels import Labels
from modelyard.storage import open_store


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
        lambda value, i: {"rsi": "halted" if i in (0, 500) else value},
        lambda value, i: {"rsi": "N/A" if i % 3 else value},
        lambda value, i: {"rsi": f"{value:.6f}"},
        lambda value, i: ["nan" if i == 0 else value],
        lambda value, i: [np.str_(value)],
    ],
    ids=[
        "one missing",
        "a few words",
        "most missing",
        "numbers as text",
        "one nan",
        "text of NumPy",
    ],
)
def test_text_makes_no_category_of_a_column_of_numbers(features_of):
    found = moved(features_of, 3.0)
    assert found["is_drifted"]
    assert found["drift_score"] > 1.0


@pytest.mark.parametrize("last", ["none", "-"])
@pytest.mark.parametrize("kind", ["prediction", "feature"])
def test_signals_that_are_none_all_at_once_have_drifted(kind, last):
    monitor = ModelMonitor("p", background=False)
    for signals in (["buy", "sell", last], [last]):
        for i in range(1000):
            signal = signals[i % len(signals)]
            row = (signal, 0.001, {"f": 1.0}) if kind == "prediction" else (0.0, 0.001, [signal])
            monitor.record_prediction(*row)
        if len(signals) > 1:
            monitor.set_baseline()
    found = getattr(monitor, f"detect_{kind}_drift")()
    assert found["is_drifted"]


@pytest.mark.parametrize("n_digits", [490, 510])
def test_codes_of_which_half_are_digits_do_not_drift_by_a_few_more_or_less(n_digits):
    monitor = ModelMonitor("p", background=False)
    for n in (n_digits, 1000 - n_digits):
        codes = np.random.default_rng(n).permutation(["7"] * n + ["A"] * (1000 - n))
        for code in codes:
            monitor.record_prediction(0.0, 0.001, [str(code)])
        if n == n_digits:
            monitor.set_baseline()
    assert not monitor.detect_feature_drift()["is_drifted"]


def test_a_baseline_without_any_number_is_no_error():
    monitor = ModelMonitor("p", background=False)
    for _ in range(500):
        monitor.record_prediction("N/A", 0.001, {"f": 1.0})
    monitor.set_baseline()
    assert monitor.detect_prediction_drift()["drift_score"] is None


def test_a_column_of_labels_keeps_to_labels():
    labels = Labels()
    rows = labels.coded([["buy", "1.5"], ["sell", "2"], ["none", 3.0]])
    assert labels.columns_of(rows) == {0}
    assert set(labels.by_code.values()) == {"buy", "sell", "none"}
    assert labels.without_strays(rows) is rows


def test_text_in_a_column_of_numbers_is_missing():
    labels = Labels()
    rows = labels.coded([["buy", 1.0], [2.0, "x"], ["3", "y"]])
    assert labels.columns_of(rows) == {1}
    assert labels.without_strays(rows)[:, 0].tolist() == pytest.approx(
        [math.nan, 2.0, 3.0], nan_ok=True
    )


def test_more_labels_than_are_kept_make_no_category_of_a_column_of_numbers():
    labels = Labels()
    rows = labels.coded([[f"order {i}", "halted" if i == 50 else i / 7] for i in range(10_100)])
    assert len(labels.by_code) == 10_000
    assert labels.columns_of(rows[-1000:]) == {0}
    cleaned = labels.without_strays(rows)
    assert np.isnan(cleaned[:, 1]).sum() == 1
    assert np.isfinite(cleaned[:, 0]).all()


def test_text_of_digits_is_a_label_where_that_was_declared():
    labels = Labels()
    labels.declared = lambda: {0}
    rows = labels.coded([["7", "7"]])
    assert labels.by_code == {rows[0, 0]: "7"}
    assert rows[0, 1] == 7.0
    assert labels.columns_of(rows) == {0}


@pytest.mark.parametrize("place", [0, 150, 500])
def test_a_word_among_predictions_hides_no_drift_and_is_counted(place):
    monitor = ModelMonitor("p", background=False, window_size=500)
    generator = np.random.default_rng(0)
    for mean in (0.0, 3.0):
        for i in range(500):
            value = float(generator.normal(mean))
            monitor.record_prediction("HOLD" if 500 * bool(mean) + i == place else value, 0.001)
        if not mean:
            monitor.set_baseline()
    assert monitor.detect_prediction_drift()["drift_score"] > 1.0
    summary = monitor.get_summary()
    assert summary["prediction"]["mean"] == pytest.approx(3.0, abs=0.2)
    assert summary["odd_values"]["non_finite_predictions"] == 1
    assert all(abs(one["shift"]) < 10.0 for one in monitor.get_change_points())


def test_a_column_that_turns_from_numbers_to_words_has_drifted():
    monitor = ModelMonitor("p", background=False, window_size=500)
    for i in range(500):
        monitor.record_prediction(float(i % 7), 0.001)
    monitor.set_baseline()
    for i in range(500):
        monitor.record_prediction("buy" if i % 2 else "sell", 0.001)
    assert monitor.detect_prediction_drift()["is_drifted"]
    assert monitor.get_summary()["prediction"]["classes"] == {"buy": 0.5, "sell": 0.5}


def test_a_word_among_numbers_is_none_after_a_restart_either(tmp_path):
    store = open_store(tmp_path)
    monitor = ModelMonitor("p", background=False, store=store)
    for i in range(300):
        monitor.record_prediction("HOLD" if i == 7 else float(i % 3), 0.001)
    monitor.flush()
    again = ModelMonitor("p", background=False, store=store)
    assert again.get_summary()["prediction"] == monitor.get_summary()["prediction"]
    assert again.get_summary()["prediction"]["mean"] == pytest.approx(1.0, abs=0.1)
    store.close()


def test_past_data_with_a_word_among_numbers_make_a_baseline_of_numbers():
    monitor = ModelMonitor("p", background=False, window_size=500)
    generator = np.random.default_rng(0)
    past = [[float(value)] for value in generator.normal(size=1000)]
    past[3] = ["halted"]
    monitor.set_baseline(features=past)
    for value in generator.normal(3.0, size=500):
        monitor.record_prediction(0.0, 0.001, [float(value)])
    found = monitor.detect_feature_drift()
    assert found["is_drifted"]
    assert found["drift_score"] > 1.0


def test_a_column_that_is_said_to_hold_numbers_takes_no_label():
    monitor = ModelMonitor("p", prediction_kind="number", background=False)
    for value in (1.0, "buy", "2", 3.0):
        monitor.record_prediction(value, 0.001)
    assert monitor.get_summary()["prediction"]["mean"] == pytest.approx(2.0)
