"""Names, times, files and plain values."""

import enum
import json
import math
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.chance import generator
from modelyard._core.clock import ManualClock, SystemClock
from modelyard._core.errors import ConfigError, MissingDependencyError
from modelyard._core.extras import require
from modelyard._core.files import replacing, write_bytes, write_json
from modelyard._core.ids import checked_name, new_id, timestamp_of, version_id_of
from modelyard._core.plain import finite_or_none, to_plain, without_non_finite

# ── names ───────────────────────────────────────────────────────────────────────────────────


@given(name=st.text(max_size=130))
def test_allowed_names_stay_inside_their_folder(name):
    try:
        checked_name(name, what="model_name")
    except ConfigError:
        return
    inside = Path("/models") / name
    assert inside.resolve().parent == Path("/models")
    assert 1 <= len(name) <= 120
    assert name.isascii()


@pytest.mark.parametrize("name", ["ppo", "PPO-2.1_final", "0", "a" * 120])
def test_usual_names_are_allowed(name):
    assert checked_name(name, what="tag") == name


@pytest.mark.parametrize("name", ["", "a\n", "a/b", "a\\b", "../a", "a..b", ".a", "-a", "ä", None])
def test_odd_names_are_refused_with_the_rule(name):
    with pytest.raises(ConfigError, match=r"tag .* is not allowed: use 1 to 120 letters"):
        checked_name(name, what="tag")


def test_version_ids_have_the_documents_form():
    second = timestamp_of(datetime(2023, 11, 20, 12, tzinfo=UTC))
    assert version_id_of("ppo", second, 1) == "ppo_v20231120_120000"
    assert version_id_of("ppo", second, 3) == "ppo_v20231120_120000_3"
    assert new_id("rollout") != new_id("rollout")


# ── time and chance ─────────────────────────────────────────────────────────────────────────


def test_clock_of_the_machine_knows_its_zone_and_never_goes_back():
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic_s() <= clock.monotonic_s()


def test_manual_clock_moves_when_told_and_from_every_thread():
    clock = ManualClock()
    start = clock.now()
    threads = [threading.Thread(target=lambda: clock.advance(0.25)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() - start == timedelta(seconds=2)
    assert clock.monotonic_s() == 2.0
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)


def test_equal_seeds_give_equal_chance():
    assert generator(3).random() == generator(3).random()


# ── files ───────────────────────────────────────────────────────────────────────────────────


def test_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_json_with_nan_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": math.nan})
    assert json.loads(path.read_text()) == {"a": 1}


# ── plain values ────────────────────────────────────────────────────────────────────────────


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (np.bool_(True), True),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.float64(1.5), 1.5),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([1, 2]), [1, 2]),
        (np.array([[1.0], [2.0]]), [[1.0], [2.0]]),
        (np.array([5]), [5]),
        (torch.tensor([5]), [5]),
        ((1, "a"), [1, "a"]),
        ({1: {2.0}}, {"1": [2.0]}),
        (Path("a/b"), "a/b"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00+00:00"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
    ],
)
def test_values_become_what_json_holds(value, plain):
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)
    json.dumps(found)


def test_what_json_cannot_hold_is_named_by_its_place():
    with pytest.raises(ConfigError, match=r"config\.net\[1\] holds a builtins\.object"):
        to_plain({"net": [1, object()]}, where="config")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=json_values)
def test_values_without_nan_can_always_be_written(value):
    json.dumps(without_non_finite(to_plain(value)), allow_nan=False)


@given(value=st.floats())
def test_only_nan_and_infinities_become_none(value):
    found = finite_or_none(value)
    assert (found is None) == (not math.isfinite(value))
    assert found in {None, value}


# ── optional dependencies ───────────────────────────────────────────────────────────────────


def test_missing_package_names_the_extra():
    with pytest.raises(MissingDependencyError, match=r"pip install 'modelyard\[openvino\]'"):
        require("no_such_package", extra="openvino")
    assert require("json", extra="none") is json
