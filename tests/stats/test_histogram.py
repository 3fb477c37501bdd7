"""The histogram: quantiles within the error it states."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.stats.histogram import LogHistogram

durations = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=200)
LEVELS = (0.0, 0.5, 0.95, 0.99, 1.0)


@given(values=durations)
def test_quantiles_are_within_the_stated_error_of_the_order_statistics(values):
    histogram = LogHistogram(relative_error=0.01)
    histogram.add(values)
    want = np.quantile(values, LEVELS, method="lower")
    assert histogram.quantiles(LEVELS) == pytest.approx(want.tolist(), rel=0.0101)
    assert histogram.mean() == pytest.approx(np.mean(values))
    assert histogram.n == len(values)


@given(a=durations, b=durations)
def test_merged_histograms_are_the_histogram_of_all_values(a, b):
    merged, whole = LogHistogram(), LogHistogram()
    other = LogHistogram()
    merged.add(a)
    other.add(b)
    merged.merge(other)
    whole.add([*a, *b])
    assert merged.quantiles(LEVELS) == whole.quantiles(LEVELS)
    assert merged.mean() == pytest.approx(whole.mean())


@given(values=durations)
def test_a_histogram_is_found_again_in_its_plain_values(values):
    histogram = LogHistogram()
    histogram.add(values)
    again = LogHistogram.from_plain(json.loads(json.dumps(histogram.to_plain())))
    assert again.to_plain() == histogram.to_plain()
    assert again.counts == histogram.counts
    assert sum(again.counts.values()) == len(values)


def test_histograms_of_other_buckets_are_not_merged():
    with pytest.raises(ConfigError, match="other buckets"):
        LogHistogram().merge(LogHistogram(largest=10.0))


def test_nothing_added_has_no_quantile():
    assert LogHistogram().quantiles(LEVELS) == [None] * len(LEVELS)
    assert LogHistogram().mean() is None


def test_values_out_of_range_count_as_its_ends():
    histogram = LogHistogram(smallest=1.0, largest=10.0)
    histogram.add([0.0, 1e6])
    assert histogram.quantiles((0.0, 1.0)) == pytest.approx([1.0, 10.0], rel=0.02)
