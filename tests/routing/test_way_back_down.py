"""Slots of two that share: the same for the same weight, by whatever way."""

from hypothesis import given
from hypothesis import strategies as st

from modelyard.routing import SlotTable

shares = st.floats(0.001, 0.999)


@given(st.lists(shares, min_size=1, max_size=6), shares)
def test_of_two_each_has_the_same_slots_whenever_it_has_the_same_weight(way, last):
    table = SlotTable.from_weights({"a": 1.0})
    for share in (*way, last):
        table = table.reassigned({"a": 1.0 - share, "b": share}, from_below=frozenset("b"))
    assert table == SlotTable.from_weights({"a": 1.0 - last, "b": last})


@given(shares, shares)
def test_no_more_slots_move_than_must(before, after):
    table = SlotTable.from_weights({"a": 1.0 - before, "b": before})
    moved = table.reassigned({"a": 1.0 - after, "b": after}, from_below=frozenset("b"))
    counts = [round(each.shares().get("b", 0.0) * 10_000) for each in (table, moved)]
    assert table.n_moved(moved) == abs(counts[1] - counts[0])
