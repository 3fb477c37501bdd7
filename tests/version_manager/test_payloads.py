"""What travels with a version comes back exactly, without pickle; training states too."""

import datetime as dt
import enum
import io
import json
import math
import struct
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from modelyard._core.errors import ConfigError, IntegrityError
from modelyard.version_manager import payloads
from modelyard.version_manager.payloads import decoded, encoded


def stored(value, path):
    encoding, fill = encoded(value, where="artifact 'x'")
    buffer = io.BytesIO()
    fill(buffer)
    path.write_bytes(buffer.getvalue())
    return encoding


def round_trip(value, path):
    return decoded(stored(value, path), path)


def exact(value):
    """Equal for two values just if they are of the same kinds and bits, however deep."""
    if isinstance(value, dict):
        return [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [exact(item) for item in value]
    return type(value), bits(value)


def bits(value):
    if isinstance(value, torch.Tensor):
        flat = value.detach().contiguous().as_strided((value.numel(),), (1,))
        return value.dtype, value.shape, flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype, value.shape, value.tobytes()
    if isinstance(value, float | complex):
        return np.array(value).tobytes()
    return value


# ── any nesting ─────────────────────────────────────────────────────────────────────────────

floats = st.integers(0, 2**64 - 1).map(
    lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]
)
any_floats = st.one_of(floats, st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf]))
any_text = st.text(st.characters(), max_size=5)  # halves of surrogate pairs too
any_ints = st.one_of(
    st.integers(),
    st.integers(2**63, 2**70),
    st.sampled_from([0, 1]).map(lambda sign: sign - 7**9_000),
)
scalars = st.one_of(
    st.none(), st.booleans(), any_ints, any_floats, any_text, st.binary(max_size=9)
)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.complex64]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = torch.Size(shape).numel() * dtype.itemsize
    data = list(draw(st.binary(min_size=size, max_size=size)))
    tensor = torch.tensor(data, dtype=torch.uint8).view(dtype).reshape(shape)
    return tensor.movedim(0, -1) if shape and draw(st.booleans()) else tensor


@st.composite
def arrays(draw):
    code = draw(st.sampled_from(["<f4", ">f8", "<i2", "|b1", "<U3", "|S2", "<M8[s]", "<c16"]))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = math.prod(shape) * np.dtype(code).itemsize
    if code == "<U3":
        return np.full(shape, draw(st.text("aé€", max_size=3)), dtype=code)
    data = draw(st.binary(min_size=size, max_size=size))
    data = bytes(byte % 2 for byte in data) if code == "|b1" else data
    array = np.frombuffer(data, dtype=code).reshape(shape)
    return array.T if draw(st.booleans()) else array


numpy_scalars = st.one_of(
    # From its bits: a double made smaller can overflow, which is a warning.
    st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32)),
    st.integers(-(2**63), 2**63 - 1).map(np.int64),
    st.just(np.True_),
)
keys = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), any_floats, any_text),
    lambda deeper: st.lists(deeper, max_size=3).map(tuple),
    max_leaves=3,
)
nests = st.recursive(
    st.one_of(scalars, tensors(), arrays(), numpy_scalars, st.complex_numbers()),
    lambda deeper: st.one_of(
        st.lists(deeper, max_size=4),
        st.lists(deeper, max_size=4).map(tuple),
        st.dictionaries(keys, deeper, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(value=nests)
def test_any_nesting_comes_back_exactly(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("nest") / "x"
    with np.errstate(invalid="ignore", over="ignore"):
        assert exact(round_trip(value, path)) == exact(value)


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        any_text,
    ),
    lambda deeper: st.lists(deeper) | st.dictionaries(any_text, deeper),
    max_leaves=8,
)


@given(value=json_values)
def test_what_json_holds_exactly_stays_json(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "x"
    assert stored(value, path) == "json"
    assert exact(json.loads(path.read_text())) == exact(value)
    assert exact(decoded("json", path)) == exact(value)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"raw", "raw"),
        (bytearray(b"raw"), "raw"),
        (np.ones(3), "npy"),
        (np.array(["a", "bc"]), "npy"),
        (torch.ones(2), "safetensors"),
        ((torch.ones(2), torch.zeros(1)), "safetensors"),
        ({"a": torch.ones(2), "b": torch.zeros(1)}, "safetensors"),
        ({"a": [1, None, "x", -0.0, 1e300]}, "json"),
        ({"when": dt.date(2023, 11, 20), "path": Path("a/b")}, "json"),
        ([torch.ones(2)], "tree"),
        ({0: torch.ones(2)}, "tree"),
        ({"__metadata__": torch.ones(2)}, "tree"),
        ({"a": torch.ones(2), "lr": 0.1}, "tree"),
        ({0: "int key"}, "tree"),
        ({"a": (1, 2)}, "tree"),
        ({"a": math.nan}, "tree"),
        ({"a": np.float64(0.5)}, "tree"),
        ({"a": np.ones(2)}, "tree"),
        ((), "tree"),
        (np.float32(1.5), "tree"),
        (10**5000, "tree"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_encoding_is_the_plainest_that_is_exact(value, encoding, tmp_path):
    assert stored(value, tmp_path / "x") == encoding


class Colour(enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")  # noqa: PYI024 - one without annotations is meant


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"when": dt.date(2023, 11, 20), "n": np.int64(3)}, {"when": "2023-11-20", "n": 3}),
        ({"colour": Colour.RED, "t": (1,)}, {"colour": "red", "t": (1,)}),
        ({"set": {1}}, {"set": [1]}),
        ({np.int64(3): 1}, {3: 1}),
        (Point(1, math.inf), (1, math.inf)),
        (OrderedDict(a=torch.ones(1)), {"a": torch.ones(1)}),
    ],
    ids=repr,
)
def test_kinds_of_their_own_come_back_plain(value, found, tmp_path):
    assert round_trip(value, tmp_path / "x") == found


def test_tensor_in_several_places_is_stored_once_and_is_one_again(tmp_path):
    shared, array = torch.ones(10_000), np.ones(10_000)
    found = round_trip({"a": shared, "b": [shared, (shared,)], "c": [array] * 3}, tmp_path / "x")
    assert found["a"] is found["b"][0] is found["b"][1][0]
    assert found["c"][0] is found["c"][2]
    assert (tmp_path / "x").stat().st_size < 125_000


def test_tensors_of_a_mapping_keep_their_order(tmp_path):
    value = {"b": torch.ones(2), "z": torch.empty(0), "a": torch.empty(0), "c": torch.ones(1)}
    assert list(round_trip(value, tmp_path / "x")) == ["b", "z", "a", "c"]


def test_what_was_stored_before_orders_were_is_readable(tmp_path):
    import safetensors.torch

    path = tmp_path / "old"
    safetensors.torch.save_file({"0": torch.ones(1), "1": torch.zeros(1)}, path, {"kind": "tuple"})
    assert exact(decoded("safetensors", path)) == exact((torch.ones(1), torch.zeros(1)))
    safetensors.torch.save_file({"b": torch.ones(1)}, path, {"kind": "dict"})
    assert exact(decoded("safetensors", path)) == exact({"b": torch.ones(1)})


def holds_itself():
    value = []
    value.append(value)
    return value


def deep(n):
    value = (0,)
    for _ in range(n):
        value = (value,)
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"state": {0: {"step": object()}}},
            r"artifact 'x'\.state\.0\.step holds a builtins\.object",
        ),
        ({"a": [1, (lambda: 0,)]}, r"artifact 'x'\.a\[1\]\[0\] holds a"),
        ({"a": {dt.date(2023, 1, 1): 1}}, r"artifact 'x'\.a has the key datetime"),
        (
            {"a": (torch.zeros(1, dtype=torch.complex128),)},
            r"x'\.a\[0\] has dtype torch\.complex128",
        ),
        (
            {"a": torch.eye(2).to_sparse()},
            r"x'\.a has dtype .*sparse",
        ),
        (torch.zeros(2, device="meta"), r"artifact 'x'.* is on the meta device"),
        ({"a": [np.array([object()])]}, r"artifact 'x'\.a\[0\] is an array of Python objects"),
        (np.ma.masked_array([1, 2], [0, 1]), r"artifact 'x' is a masked array"),
        (np.zeros(3, dtype="V0"), r"artifact 'x' has dtype .* cannot be read back"),
        (holds_itself(), r"artifact 'x' is nested too deep, or holds itself"),
        (deep(150), r"nested more than 100 deep"),
        ({i * (2**61 - 1): 0 for i in range(200)}, r"artifact 'x' has too many keys of one hash"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value, words):
    with pytest.raises(ConfigError, match=words):
        encoded(value, where="artifact 'x'")


def test_mass_of_single_numbers_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setattr(payloads, "LONGEST_HEADER_BYTES", 10_000)
    with pytest.raises(ConfigError, match="Store long lists of numbers as arrays"):
        encoded([(0.1234567890123456,)] * 600, where="artifact 'x'")


def test_unknown_encoding_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"unknown encoding 'pickle'.*newer modelyard"):
        decoded("pickle", tmp_path / "x")


# ── training goes on as if never interrupted ────────────────────────────────────────────────

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), amsgrad=True),
    "groups": lambda p: torch.optim.RMSprop(
        [{"params": p[:1], "lr": 0.02}, {"params": p[1:]}], momentum=0.5, centered=True
    ),
}
SCHEDULES = {
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=12),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=7),
}


def training(optimizer, schedule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    chosen = OPTIMIZERS[optimizer](list(model.parameters()))
    return {"model": model, "optimizer": chosen, "schedule": SCHEDULES[schedule](chosen)}


def train(parts, steps):
    for step in steps:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        parts["optimizer"].zero_grad()
        (parts["model"](x) - x.sum(1, keepdim=True)).square().mean().backward()
        parts["optimizer"].step()
        parts["schedule"].step()


def state_of(parts):
    return {name: part.state_dict() for name, part in parts.items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_interrupted_training_ends_bit_for_bit_where_an_uninterrupted_one_does(
    optimizer, schedule, tmp_path
):
    whole = training(optimizer, schedule)
    train(whole, range(10))

    first = training(optimizer, schedule)
    train(first, range(5))
    state = state_of(first)
    assert stored(state, tmp_path / "state") == "tree"
    found = decoded("tree", tmp_path / "state")
    assert exact(found) == exact(state)

    second = training(optimizer, schedule)
    for name, part in second.items():
        part.load_state_dict(found[name])
    train(second, range(5, 10))
    assert exact(state_of(second)) == exact(state_of(whole))


def test_random_state_comes_back_exactly(tmp_path):
    state = {"torch": torch.get_rng_state(), "numpy": np.random.default_rng(3).bit_generator.state}
    found = round_trip(state, tmp_path / "x")
    assert exact(found) == exact(state)
    generator = np.random.default_rng()
    generator.bit_generator.state = found["numpy"]
    assert generator.random() == np.random.default_rng(3).random()
