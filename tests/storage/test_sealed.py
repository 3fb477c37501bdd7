"""Sealed JSON: comes back as it was, and a changed byte is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import IntegrityError
from modelyard.storage.sealed import sealed, unsealed

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text().filter(lambda key: key != "checksum"), PLAIN, max_size=4)


@given(value=OBJECTS)
def test_value_comes_back_as_it_was(value):
    assert unsealed(sealed(value), where="x") == value


@given(value=OBJECTS, data=st.data())
def test_any_changed_byte_is_found(value, data):
    content = bytearray(sealed(value))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError, match="'x' is damaged"):
        unsealed(bytes(content), where="x")


@given(value=OBJECTS, cut=st.integers(1, 40))
def test_cut_off_end_is_found(value, cut):
    with pytest.raises(IntegrityError, match="damaged"):
        unsealed(sealed(value)[:-cut], where="x")


def test_value_that_holds_zeros_like_a_blank_checksum_keeps_its_own():
    value = {"a": "0" * 64, "b": '"checksum": "' + "0" * 64}
    assert unsealed(sealed(value), where="x") == value


def test_unsealed_json_is_taken_only_where_that_is_allowed():
    assert unsealed(b'{"a": 1}', where="x", needs_seal=False) == {"a": 1}
    with pytest.raises(IntegrityError, match="found none"):
        unsealed(b'{"a": 1}', where="x")


@pytest.mark.parametrize("data", [b"", b"[1]", b"nonsense", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_object_is_damaged(data):
    with pytest.raises(IntegrityError, match="damaged"):
        unsealed(data, where="x", needs_seal=False)
