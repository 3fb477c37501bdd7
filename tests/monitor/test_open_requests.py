"""Ids of predictions that wait for their outcome: made here or given, each is found once."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import RequestNotFoundError
from modelyard.monitor.recording.requests import NO_PREDICTION, OpenRequests


def test_an_id_that_was_made_is_finished_once():
    requests = OpenRequests(10)
    first, second = requests.add_new(7), requests.add_new(NO_PREDICTION)
    assert first != second
    assert [requests.finish(first), requests.finish(first)] == [7, None]
    assert requests.finish(second) == NO_PREDICTION


def test_the_last_of_each_kind_are_remembered():
    requests = OpenRequests(3)
    made = [requests.add_new(i) for i in range(5)]
    for i in range(5):
        requests.add(f"mine-{i}", 100 + i)
    for forgotten in (*made[:2], "mine-0", "mine-1"):
        with pytest.raises(RequestNotFoundError, match="last 3"):
            requests.finish(forgotten)
    assert [requests.finish(one) for one in made[2:]] == [2, 3, 4]
    assert [requests.finish(f"mine-{i}") for i in range(2, 5)] == [102, 103, 104]


@pytest.mark.parametrize("change", ["{}0", "0{}", " {}", "{}.", "{}\u0661", "{}" + "9" * 5000])
def test_what_only_looks_like_an_id_is_not_found(change):
    requests = OpenRequests(10)
    made = requests.add_new(1)
    with pytest.raises(RequestNotFoundError):
        requests.finish(change.format(made))
    prefix = made.removesuffix("0")
    for number in ("00", "-1", "1", "\u0660", ""):
        with pytest.raises(RequestNotFoundError):
            requests.finish(prefix + number)


def test_an_id_given_back_as_ones_own_is_the_newer_prediction():
    requests = OpenRequests(10)
    made = requests.add_new(1)
    requests.add(made, 2)
    assert requests.finish(made) == 2


def test_a_fork_keeps_what_waits_and_makes_other_ids():
    parent, child = OpenRequests(10), OpenRequests(10)
    # What a fork copies.
    made = [parent.add_new(i) for i in range(3)]
    parent.finish(made[0])
    vars(child).update({name: _copied(value) for name, value in vars(parent).items()})
    child.add("mine", 9)
    child.after_fork()
    assert child.add_new(3) != parent.add_new(3)
    assert child.finish(made[1]) == 1
    assert child.finish("mine") == 9
    assert child.finish(made[0]) is None
    waiting = child.newest(n_given=child.n_given, n_made=child.n_made)
    assert [position for _, position in waiting] == [2, 3]


@given(st.lists(st.sampled_from(["made", "given", "finish"]), max_size=60), st.integers(1, 12))
def test_the_newest_are_those_that_wait(steps, capacity):
    requests = OpenRequests(capacity)
    came: list[str] = []
    made: list[str] = []
    mine: list[str] = []
    done: set[str] = set()
    for i, step in enumerate(steps):
        if step == "made":
            made.append(requests.add_new(i))
            came.append(made[-1])
        elif step == "given":
            mine.append(f"mine-{i}")
            requests.add(mine[-1], i)
            came.append(mine[-1])
        elif made:
            with contextlib.suppress(RequestNotFoundError):  # forgotten
                done.add(made[-1])
                requests.finish(made[-1])
    kept = {*made[-capacity:], *mine[-capacity:]} - done
    newest = requests.newest(n_given=len(mine), n_made=len(made))
    assert [name for name, _ in newest] == [name for name in came if name in kept]
    assert requests.newest(n_given=0, n_made=0) == []


def _copied(value):
    return value.copy() if hasattr(value, "copy") else value


def test_an_id_given_again_and_forgotten_is_not_counted_twice():
    requests = OpenRequests(2)
    made = requests.add_new(1)
    requests.add(made, 2)
    assert requests.finish(made) == 2
    for i in range(2):
        requests.add(f"mine-{i}", 3 + i)
    assert requests.finish(made) is None
