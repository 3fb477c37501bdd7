"""What a monitor is made with: each value is checked, and plain afterwards."""

import json
import math
from decimal import Decimal
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.arguments import at_least_one, columns_of, positive_number


def monitor(**options):
    return ModelMonitor("ppo", background=False, clock=ManualClock(), **options)


@given(st.integers(1, 10**6), st.sampled_from([int, np.int64, np.int32, np.uint64]))
def test_whole_numbers_of_any_kind_become_plain_ones(value, kind):
    found = at_least_one(kind(value), what="window_size")
    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize("value", [0, -1, True, False, np.bool_(1), 1.0, "1", None, math.nan])
def test_what_is_no_whole_number_of_one_or_more_is_refused(value):
    with pytest.raises(ConfigError, match="window_size must be a whole number of 1 or more, got"):
        at_least_one(value, what="window_size")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Fraction(4, 2)])
def test_real_numbers_of_any_kind_become_floats(value):
    found = positive_number(value, what="threshold")
    assert (found, type(found)) == (2.0, float)


@pytest.mark.parametrize(
    "value", [0, -1.0, math.nan, math.inf, True, "2", None, 1j, 10**400, Decimal(2), [2.0]]
)
def test_what_is_no_positive_finite_number_is_refused(value):
    with pytest.raises(ConfigError, match="threshold must be a finite number above 0, got"):
        positive_number(value, what="threshold")


def test_a_summary_of_numpy_thresholds_is_json():
    made = monitor(
        alert_thresholds={"latency_p99_ms": np.float32(50), "error_rate": Fraction(1, 20)},
        window_size=np.int64(100),
        evaluate_every=np.int64(10),
        categorical_features=[np.int64(1)],
    )
    made.record_prediction(1.0, 0.01, [1.0, 2.0])
    json.dumps([made.get_summary(), made.get_alerts()], allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": True}, "window_size must be a whole number"),
        ({"evaluate_every": 1.5}, "evaluate_every must be a whole number"),
        ({"alert_thresholds": {"error_rate": 5}}, "is a share, 0 to 1, got 5"),
        ({"alert_thresholds": {"latency_p99_ms": math.inf}}, "None switches the alert off"),
        ({"periods_per_year": math.inf}, "periods_per_year must be a finite number above 0"),
        ({"periods_per_year": "252"}, "periods_per_year must be a finite number above 0"),
        ({"return_metrics": "pnl"}, r"return_metrics must be a list of names.*Give \['pnl'\]"),
        ({"feature_names": "abc"}, "feature_names must be a list of names"),
        ({"output_names": b"abc"}, "output_names must be a list of names"),
        ({"categorical_features": "x"}, "categorical_features must be a list of names"),
        ({"categorical_features": 3}, "categorical_features must be a list of names"),
        ({"categorical_features": [1.5]}, "a position in categorical_features must be a whole"),
        ({"categorical_features": [-1]}, "a position in categorical_features must be a whole"),
        (
            {"categorical_features": ["zzz"], "feature_names": ["a", "b"]},
            "'zzz', which is none of feature_names=",
        ),
        (
            {"categorical_features": [2], "feature_names": ["a", "b"]},
            "position 2, but feature_names= has 2: 0 to 1",
        ),
    ],
)
def test_an_argument_that_cannot_be_meant_is_refused_with_its_rule(options, message):
    with pytest.raises(ConfigError, match=message):
        monitor(**options)


def test_columns_are_names_or_positions():
    assert columns_of(None, (), what="x") == ()
    assert columns_of(["later", np.int64(7)], (), what="x") == ("later", 7)
    assert columns_of({"a": 0}, ("a", "b"), what="x") == ("a",)
