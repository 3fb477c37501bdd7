"""What was recorded since the last flush, as bytes and in the store."""

import json
import logging
import pickle

import numpy as np
import pytest
from history_helpers import START
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from modelyard._core.errors import IntegrityError
from modelyard.monitor.history.chunks import Chunk, pack, unpack
from modelyard.monitor.history.rows import MonitorRows, News
from modelyard.storage import open_store
from modelyard.storage.tables import monitor_chunk

SHAPES = st.sampled_from([(), (0,), (3,), (2, 3), (0, 4)])
DTYPES = st.sampled_from(["float64", "float32", "int64", "bool"])
META = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text(max_size=5)
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(SHAPES, DTYPES)), META)
def test_arrays_and_what_goes_with_them_are_found_again(kinds, meta):
    rng = np.random.default_rng(0)
    kinds.pop("__metadata__", None)
    arrays = {name: rng.normal(size=shape).astype(kind) for name, (shape, kind) in kinds.items()}
    found, found_meta = unpack(pack(arrays, meta))
    assert found_meta == meta
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


def test_nan_infinity_and_columns_of_another_order_are_found_again():
    array = np.asfortranarray([[1.0, np.nan], [-np.inf, 1e-300]])
    found, _ = unpack(pack({"a": array[:, ::-1]}, {}))
    assert np.array_equal(found["a"], array[:, ::-1], equal_nan=True)


@given(st.integers(0, 400), st.integers(0, 255))
def test_bytes_that_are_missing_or_changed_are_noticed(place, byte):
    packed = pack({"a": np.arange(20.0)}, {"n": 1})
    place = min(place, len(packed) - 1)
    with pytest.raises(IntegrityError):
        unpack(packed[:place])
    if packed[place] != byte:
        with pytest.raises(IntegrityError):
            unpack(packed[:place] + bytes([byte]) + packed[place + 1 :])


def test_bytes_of_something_else_are_refused_though_their_checksum_is_right():
    from blake3 import blake3

    for body in (pickle.dumps([1]), b"", b"\x00" * 8, b"\xff" * 64, json.dumps({}).encode()):
        with pytest.raises(IntegrityError):
            unpack(blake3(body).digest() + body)


def test_what_json_cannot_hold_is_refused_when_it_is_packed():
    with pytest.raises(ValueError, match="JSON compliant"):
        pack({}, {"n": float("nan")})


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def rows(store):
    return MonitorRows(store, "ppo")


def chunk(first, n):
    return Chunk(arrays={"a": np.arange(first, first + n, dtype=float)}, meta={}, n_records=n)


def write(rows, chunks, *, recorder_id="r", n_kept=None):
    news = News(recorder_id=recorder_id, chunks=chunks, n_records_kept=n_kept)
    rows.write(news, at=START)


def values(chunks):
    return [value for item in chunks for value in item.arrays["a"].tolist()]


def test_the_newest_chunks_that_hold_enough_come_oldest_first(rows):
    write(rows, [chunk(0, 3), chunk(3, 3)])
    write(rows, [chunk(6, 3)], recorder_id="another")
    assert values(rows.chunks(4)) == [3, 4, 5, 6, 7, 8]
    assert values(rows.chunks(3)) == [6, 7, 8]
    assert values(rows.chunks(100)) == list(range(9))


def test_chunks_beyond_a_window_are_removed_of_whichever_recorder(rows, store):
    write(rows, [chunk(0, 4)], recorder_id="dead")
    for first in range(4, 20, 4):
        write(rows, [chunk(first, 4)], n_kept=8)
    assert values(rows.chunks(100)) == list(range(12, 20))
    other = MonitorRows(store, "other")
    write(other, [chunk(0, 4)], n_kept=8)
    assert values(rows.chunks(100)) == list(range(12, 20))


def test_chunks_with_metrics_only_do_not_pile_up(rows):
    for _ in range(30):
        write(rows, [Chunk(arrays={"a": np.ones(1)}, meta={}, n_records=0)], n_kept=8)
    assert len(rows.chunks(100)) == 8


@pytest.mark.parametrize("damage", [b"", b"x", b"\x00" * 500])
def test_a_damaged_chunk_is_left_out_with_a_warning_that_names_it(rows, store, caplog, damage):
    write(rows, [chunk(0, 2), chunk(2, 2), chunk(4, 2)])
    with store.database.writing() as connection:
        seqs = connection.execute(select(monitor_chunk.c.seq)).scalars().all()
        connection.execute(
            update(monitor_chunk).where(monitor_chunk.c.seq == seqs[1]).values(body=damage)
        )
    with caplog.at_level(logging.WARNING):
        assert values(rows.chunks(6)) == [0, 1, 4, 5]
    assert f"Chunk {seqs[1]} of monitor 'ppo'" in caplog.text
