import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.ab_testing.bandits.recent import DiscountedSums, WindowSums
from modelyard.ab_testing.bandits.sums import Sums

N = 3
REWARDS = st.one_of(
    st.floats(-100, 100), st.sampled_from([0.0, 1.0]), st.sampled_from([math.nan, math.inf])
)
STREAMS = st.lists(st.tuples(st.integers(0, N - 1), REWARDS), max_size=60)
WINS = st.lists(st.tuples(st.integers(0, N - 1), st.sampled_from([0.01, -3.0])), max_size=60)


def filled(sums, stream):
    for index, reward in stream:
        sums.add(index, reward)
    return sums


def finite_of(stream, index):
    return [r for i, r in stream if i == index and math.isfinite(r)]


def check_same(sums, stream):
    """Whether sums are those of the stream, worked out in one go."""
    for index in range(N):
        values = finite_of(stream, index)
        failures = sum(i == index for i, _ in stream) - len(values)
        assert sums.counts[index] == len(values)
        assert sums.failures[index] == failures
        assert sums.pulls[index] == len(values) + failures
        if values:
            assert sums.means[index] == pytest.approx(np.mean(values), abs=1e-9)
            expected = np.square(np.array(values) - np.mean(values)).sum()
            assert sums.m2[index] == pytest.approx(expected, rel=1e-9, abs=1e-7)
    assert sums.within_m2 == pytest.approx(sum(sums.m2), rel=1e-9, abs=1e-7)
    assert sums.total == sum(sums.counts)
    assert sums.n_pulls == sum(sums.pulls) == len(stream)
    assert sums.n_failures == sum(sums.failures)
    assert sums.roots == pytest.approx([n**-0.5 if n else 0.0 for n in sums.pulls])
    assert sums.n_untried == sum(n < sums.n_first for n in sums.pulls)


@given(st.one_of(STREAMS, WINS))
def test_sums_are_those_of_all_rewards(stream):
    check_same(filled(Sums(N), stream), stream)


@given(st.one_of(STREAMS, WINS), st.integers(2, 20))
def test_sums_of_a_window_are_those_of_its_rewards(stream, window):
    check_same(filled(WindowSums(N, None, window), stream), stream[-window:])


@given(STREAMS, st.floats(0.5, 0.99))
def test_discounted_sums_weight_each_reward_by_its_age(stream, discount):
    sums = filled(DiscountedSums(N, None, discount), stream)
    for index in range(N):
        weighted = [
            (discount ** (len(stream) - 1 - place), reward)
            for place, (i, reward) in enumerate(stream)
            if i == index and math.isfinite(reward)
        ]
        count = sum(weight for weight, _ in weighted)
        assert sums.counts[index] == pytest.approx(count)
        if weighted:
            mean = sum(weight * reward for weight, reward in weighted) / count
            assert sums.means[index] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: Sums(N), lambda: WindowSums(N, None, 7), lambda: DiscountedSums(N, None, 0.9)]
)
@given(stream=STREAMS, pending=st.lists(st.integers(0, N - 1), max_size=5))
def test_what_is_restored_goes_on_to_the_last_bit(make, stream, pending):
    sums = filled(make(), stream)
    for index in pending:
        sums.pull(index)
    again = make().restore(sums.to_plain(), sums.pending)
    more = [(0, 0.3), (1, math.nan), (2, 0.1), (1, 1.0), (0, -7.7)]
    for one in (sums, again):
        for index in pending[:2]:
            one.settle(index, 0.7)
        filled(one, more)
    assert again.to_plain() == sums.to_plain()
    assert (again.pulls, again.worths, again.scale) == (sums.pulls, sums.worths, sums.scale)


@given(STREAMS, st.integers(0, N - 1))
def test_a_variant_that_is_taken_out_and_put_back_is_as_it_was(stream, index):
    sums = filled(Sums(N), stream)
    before = sums.to_plain()
    sums.insert(sums.take_out(index))
    order = [i for i in range(N) if i != index] + [index]
    for name in ("counts", "means", "m2", "failures"):
        assert getattr(sums, name) == [before[name][i] for i in order]
    assert (sums.least, sums.most) == (before["least"] or sums.least, before["most"] or sums.most)


def test_won_and_lost_are_counted_whatever_their_size():
    for low, high in [(0.0, 1.0), (-0.01, 0.0), (5.0, 105.0)]:
        sums = filled(Sums(2), [(0, low), (0, high), (1, high), (1, math.nan)])
        assert sums.wins() == ([1, 1], [1, 1])
        assert sums.means[0] == pytest.approx((low + high) / 2)
    sums.add(0, 7.0)
    assert sums.wins() is None


def test_nothing_is_won_or_lost_while_all_rewards_are_the_same():
    assert filled(Sums(2), [(0, 3.0), (1, 3.0)]).wins() is None
    assert filled(Sums(2), [(0, 3.0), (1, math.nan)]).wins() == ([1, 0], [0, 1])
    known = filled(Sums(2, (0.0, 1.0)), [(0, 1.0)])
    assert known.wins() == ([1, 0], [0, 0])


def test_a_variant_that_comes_back_keeps_wins_and_losses_apart():
    sums = filled(Sums(2), [(0, 0.0), (1, 0.0)])
    one = sums.take_out(1)
    filled(sums, [(0, 1.0), (0, 1.0)])
    sums.insert(one)
    assert sums.wins() == ([2, 0], [1, 1])
    one = sums.take_out(1)
    one.add(0, 0.5)
    sums.insert(one)
    assert sums.wins() is None


def test_what_would_overflow_counts_as_not_finite():
    sums = filled(Sums(2), [(0, 1e200), (0, 1.0), (1, -1e151)])
    assert sums.failures == [1, 1]
    assert sums.means == [1.0, 0.0]


def test_a_variant_whose_rewards_are_still_to_come_is_worth_less_than_any():
    sums = filled(Sums(2), [(0, -5.0)])
    sums.pull(1)
    assert sums.worths == [-5.0, -math.inf]
    assert sums.best() == 0
    sums.settle(1, -4.0)
    assert sums.worths == [-5.0, -4.0]


@pytest.mark.parametrize(
    "make", [lambda: Sums(N), lambda: WindowSums(N, None, 4), lambda: DiscountedSums(N, None, 0.9)]
)
@given(stream=STREAMS)
def test_a_variant_is_worth_its_mean_with_failures_counted_as_the_least_reward(make, stream):
    sums = make()
    for index, reward in stream:
        sums.add(index, reward)
        assert sums.worths is not sums.means
        for i, use in enumerate(sums.uses()):
            if not sums.total:
                continue
            lowered = sums.failures[i] * sums.least if sums.failures[i] else 0.0
            expected = (sums.counts[i] * sums.means[i] + lowered) / use if use else -math.inf
            assert sums.worths[i] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_failure_that_has_left_the_window_is_forgotten():
    sums = WindowSums(2, None, 4)
    filled(sums, [(0, math.nan), (0, 5.0), (1, 1.0), (1, 2.0)])
    filled(sums, [(0, 6.0), (0, 7.0), (1, 9.0), (1, 8.5)])
    assert sums.worths == sums.means
    assert sums.best() == 1
