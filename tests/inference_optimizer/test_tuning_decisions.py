"""Racing and deciding: tables of cases, on a timer that moves when told to."""

import pytest

from modelyard.inference_optimizer.tuning.deciding import chunk_size, winners, worth_making
from modelyard.inference_optimizer.tuning.racing import race
from modelyard.inference_optimizer.tuning.sampling import sampled


class Calls:
    """Calls that take a given time on a timer of their own, and are counted."""

    def __init__(self, **seconds):
        self.now = 0.0
        self.counts = dict.fromkeys(seconds, 0)
        self.calls = {name: self._call(name, s) for name, s in seconds.items()}

    def _call(self, name, seconds):
        def call():
            self.counts[name] += 1
            self.now += seconds(self.counts[name]) if callable(seconds) else seconds

        return call

    def race(self, budget_s):
        return race(self.calls, budget_s=budget_s, kept="eager", timer=lambda: self.now)


ORDER = ["eager", "script", "ort", "ov"]


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ({1: {"eager": 10, "script": 8, "ort": 5, "ov": 7}}, {1: "ort"}),
        # Less than 5 % over eager is no gain.
        ({1: {"eager": 10, "script": 9.6, "ort": 9.7}}, {1: "eager"}),
        ({1: {"eager": 10, "script": 9.4, "ort": 12}}, {1: "script"}),
        # Within noise the simpler wins, whichever is ahead by a hair.
        ({1: {"eager": 10, "script": 5.1, "ort": 5.0}}, {1: "script"}),
        ({1: {"eager": 10, "script": 5.3, "ort": 5.0}}, {1: "ort"}),
        # Within noise what smaller sizes use already is preferred to what is simpler.
        (
            {1: {"eager": 10, "script": 9, "ort": 5}, 8: {"eager": 20, "script": 15, "ort": 15.1}},
            {1: "ort", 8: "ort"},
        ),
        (
            {1: {"eager": 10, "ort": 5}, 32: {"eager": 20, "ort": 30}},
            {1: "ort", 32: "eager"},
        ),
        ({1: {"eager": 10}}, {1: "eager"}),
    ],
)
def test_winner_by_batch_size(times, want):
    assert winners(times, ORDER, eager="eager") == want


def test_backend_asked_for_wins_whatever_its_speed_at_its_fastest_setting():
    times = {1: {"eager": 1.0, "a": 5.0, "b": 4.0}, 8: {"eager": 1.0, "a": 5.0, "b": 9.0}}
    assert winners(times, ["a", "b"], eager=None) == {1: "b", 8: "a"}


@pytest.mark.parametrize(
    ("times", "want"),
    [
        ({1: 1.0, 8: 2.0, 32: 16.0}, 8),
        ({1: 1.0, 8: 4.0, 32: 8.0}, 32),
        ({1: 1.0, 8: 80.0}, 1),
        # Of equals the larger: fewer calls.
        ({1: 1.0, 8: 8.0}, 8),
        ({4: 1.0}, 4),
    ],
)
def test_chunk_of_the_least_time_a_sample(times, want):
    assert chunk_size(times, asked=[*times]) == want


@pytest.mark.parametrize(
    ("times", "want"), [({1: 1.0}, 32), ({1: 1.0, 8: 4.0}, 32), ({1: 1.0, 8: 9.0}, 1)]
)
def test_sizes_too_slow_to_measure_are_used_where_time_a_sample_falls(times, want):
    assert chunk_size(times, asked=(1, 8, 32)) == want


@pytest.mark.parametrize(
    ("latency_s", "n_most", "want"),
    [
        ({"a": {1: 1.0}, "b": {1: 1.2}, "c": {1: 1.25}}, 2, ["a", "b"]),
        ({"a": {1: 1.0}, "b": {1: 1.4}}, 2, ["a"]),
        # What is best at one size is kept, however bad at another.
        ({"a": {1: 1.0, 8: 9.0}, "b": {1: 5.0, 8: 1.0}}, 2, ["a", "b"]),
        ({}, 2, []),
    ],
)
def test_settings_worth_making(latency_s, n_most, want):
    assert worth_making(latency_s, n_most=n_most, factor=1.3) == want


def test_race_tells_the_median_of_every_call():
    assert Calls(eager=3.0, ort=2.0).race(100.0) == {"eager": 3.0, "ort": 2.0}


def test_race_drops_the_slow_after_one_round_but_never_eager():
    calls = Calls(eager=10.0, ort=1.0, slow=2.5)
    calls.race(1000.0)
    # Two calls before the race, and one turn.
    assert calls.counts["slow"] == 3
    assert calls.counts["eager"] == calls.counts["ort"] > 10


def test_race_drops_the_nearly_as_fast_only_later():
    calls = Calls(eager=1.0, near=1.3, far=1.5)
    calls.race(1000.0)
    assert calls.counts["far"] == 2 + 4
    assert calls.counts["near"] == 2 + 12


def test_one_bad_moment_does_not_end_a_fast_call():
    # The first turn of a short call has several calls: the least of them counts.
    calls = Calls(eager=1e-3, ort=lambda n: 0.1 if n == 4 else 1e-4)
    times = calls.race(1.0)
    assert times["ort"] == pytest.approx(1e-4)
    assert calls.counts["ort"] > 20


def test_race_ends_with_its_budget_after_three_rounds():
    calls = Calls(eager=1.0, ort=1.0)
    calls.race(5.0)
    assert calls.counts["ort"] == 2 + 3


def test_race_of_what_takes_longer_than_the_budget_has_one_round():
    calls = Calls(eager=100.0, ort=90.0)
    assert calls.race(5.0) == {"eager": 100.0, "ort": 90.0}
    assert calls.counts["ort"] == 2 + 1


def test_short_calls_are_timed_several_times_a_turn():
    calls = Calls(eager=1e-5)
    calls.race(1e-4)
    assert calls.counts["eager"] == 2 + 3 * (1 + 5)


# ── what is compared and timed ──────────────────────────────────────────────────────────────


def test_integers_stay_among_those_of_the_example():
    import torch

    ids = torch.tensor([[3, 5], [7, 3]])
    found = sampled(lambda x: x, ids, (1, 4), budget_s=10.0, seed=0)
    assert found.sizes == (1, 4)
    values = {int(v) for sample in found.checked for v in sample.inputs.flatten()}
    assert values == {3, 5, 7}
    assert {sample.n for sample in found.checked} == {1, 3, 4}


def test_size_the_module_does_not_run_at_is_left_out_and_told():
    import torch

    def run(x):
        if len(x) == 1:
            raise RuntimeError("needs two")
        return x

    found = sampled(run, torch.ones(2, 3), (1, 2), budget_s=10.0, seed=0)
    assert found.sizes == (2,)
    assert found.skipped == {1: "the module does not run: needs two"}


def test_size_whose_calls_the_budget_does_not_allow_is_left_out_and_told():
    import torch

    found = sampled(lambda x: x, torch.ones(2, 3), (1, 10**9), budget_s=1e-9, seed=0)
    assert found.sizes == (1,)
    assert "a call of eager takes about" in found.skipped[10**9]
