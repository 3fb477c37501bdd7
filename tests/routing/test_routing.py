import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.routing import N_SLOTS, SlotTable, normalised, slot_of
from modelyard.routing.weights import whole_shares

WEIGHTS = st.dictionaries(
    st.sampled_from("abcde"), st.floats(0, 100), min_size=1, max_size=5
).filter(lambda weights: sum(weights.values()) > 1e-3)


@pytest.mark.parametrize(
    ("salt", "user_id", "slot"),
    [
        ("", "user_0", 6153),
        ("", "user_1", 1450),
        ("", "用户", 1105),
        ("2024", "user_0", 2458),
        ("2024", "user_1", 4543),
        ("2024", "用户", 2511),
    ],
)
def test_slots_are_those_of_the_documented_formula(salt, user_id, slot):
    # The vectors stand in docs/experiments.md.
    assert slot_of("model_comparison", salt, user_id) == slot


def test_users_spread_evenly_and_independently_of_another_test():
    slots = np.array([slot_of("a", "", str(i)) for i in range(20_000)])
    others = np.array([slot_of("b", "", str(i)) for i in range(20_000)])
    counts = np.histogram(slots, bins=10, range=(0, N_SLOTS))[0]
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))
    assert abs(np.corrcoef(slots, others)[0, 1]) < 0.03


@given(WEIGHTS)
def test_shares_are_within_one_slot_of_the_weights(weights):
    shares = normalised(weights)
    counts = whole_shares(weights, N_SLOTS)
    assert sum(counts.values()) == N_SLOTS
    assert all(abs(counts[name] - shares[name] * N_SLOTS) <= 1 for name in weights)


@given(WEIGHTS, WEIGHTS)
def test_only_slots_move_that_must(before, after):
    old = SlotTable.from_weights(before)
    new = old.reassigned(after)
    wanted, had = whole_shares(after, N_SLOTS), whole_shares(before, N_SLOTS)
    surplus = sum(max(0, count - wanted.get(name, 0)) for name, count in had.items())
    assert old.n_moved(new) == surplus
    assert new.shares() == {name: n / N_SLOTS for name, n in wanted.items() if n}


@given(WEIGHTS, WEIGHTS)
def test_a_table_survives_json(before, after):
    table = SlotTable.from_weights(before).reassigned(after)
    assert SlotTable.from_plain(json.loads(json.dumps(table.to_plain()))) == table


@pytest.mark.parametrize(
    ("weights", "said"),
    [({}, "above 0"), ({"a": 0.0}, "above 0"), ({"a": -1.0}, "'a'"), ({"a": float("nan")}, "nan")],
)
def test_weights_without_a_meaning_are_refused(weights, said):
    with pytest.raises(ConfigError, match=said):
        normalised(weights)


def test_a_table_with_missing_slots_is_refused():
    with pytest.raises(ConfigError, match="10000 slots"):
        SlotTable.from_plain({"runs": [["a", 10]]})
