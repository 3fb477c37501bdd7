"""What comes in: batches, features by name, labels, odd values, several threads and processes."""

import math
import os
import threading
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, IntegrityError, RequestNotFoundError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.recording.arrays import as_rows
from modelyard.monitor.recording.labels import Labels, code_of
from modelyard.monitor.recording.rings import Rows, Series


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def monitor_of(clock, **options):
    options = {"window_size": 300, "background": False, "clock": clock, **options}
    return ModelMonitor("ppo", **options)


# ── rings ───────────────────────────────────────────────────────────────────────────────────


@given(
    capacity=st.integers(1, 7),
    batches=st.lists(st.integers(1, 20), max_size=8),
    newest=st.integers(1, 9),
)
def test_a_ring_holds_the_newest_in_order(capacity, batches, newest):
    series, rows, everything = Series(capacity), Rows(capacity), []
    for n in batches:
        values = np.arange(len(everything), len(everything) + n, dtype=float)
        everything += values.tolist()
        if n == 1:
            series.add(values[0])
            rows.add(values)
        else:
            series.extend(values)
            rows.add(values[:, None])
    assert series.values().tolist() == everything[-capacity:]
    assert series.values(newest=newest).tolist() == everything[-capacity:][-newest:]
    if everything:
        assert rows.values()[:, 0].tolist() == everything[-capacity:]
        assert rows.values(newest=newest)[:, 0].tolist() == everything[-capacity:][-newest:]
        assert rows.at(len(everything) - 1) == [everything[-1]]
        assert rows.at(len(everything) - 1 - capacity) is None
    assert rows.n_added == series.n_added == len(everything)


def test_narrow_rows_are_kept_longer_than_a_window():
    rows = Rows(3, kept=10)
    for i in range(20):
        rows.add(np.array([float(i)]))
    assert rows.values()[:, 0].tolist() == [17, 18, 19]
    assert rows.at(10) == [10.0]
    assert rows.at(9) is None


@pytest.mark.parametrize("n", [1, 5, 100, 250])
def test_rows_that_are_not_finite_are_counted_once(n):
    rows = Rows(120)
    for i in range(n):
        rows.add(np.array([math.nan if i % 3 == 0 else 1.0, 2.0]))
    assert rows.n_non_finite == len(range(0, n, 3))
    assert rows.n_non_finite == len(range(0, n, 3))
    rows.add(np.full((130, 2), 1e308))  # whose sum overflows
    assert rows.n_non_finite == len(range(0, n, 3))


def test_rows_of_another_width_leave_rows_of_nan():
    rows = Rows(4)
    rows.add(np.ones(2))
    rows.add(np.ones(3))
    rows.add(np.ones((9, 5)))
    assert rows.n_refused == 2
    assert rows.n_non_finite == 0
    assert np.isnan(rows.values()).all()


@pytest.mark.parametrize(
    "value",
    [1, 1.5, True, [1, 2], (1.0, 2.0), np.float32(3), np.arange(3), torch.ones(2, 3),
     torch.ones(2, dtype=torch.bfloat16), np.ones((2, 2), dtype=bool), torch.tensor(1.0)],
)  # fmt: skip
def test_numbers_of_every_kind_are_rows(value):
    rows = as_rows(value)
    assert rows is not None
    assert rows.ndim >= 1


@pytest.mark.parametrize("value", ["buy", object(), {}, [], None, np.array([None]), [[1], [1, 2]]])
def test_what_holds_no_numbers_is_none(value):
    assert as_rows(value) is None


def test_labels_become_codes_that_are_the_same_everywhere():
    labels = Labels()
    rows = as_rows(["buy", 1.5, None], labels)
    assert rows[0] == code_of("buy")
    assert rows[1] == 1.5
    assert math.isnan(rows[2])
    assert labels.columns == {0}
    assert labels.by_code == {code_of("buy"): "buy"}
    assert float(int(code_of("buy"))) == code_of("buy")
    assert as_rows([["a", 1], ["b", 2]], labels).shape == (2, 2)
    assert np.isnan(as_rows(["a", object()], labels)[1])


# ── recording ───────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_as_many_predictions_as_it_has_rows(clock, rng):
    one_by_one, at_once = monitor_of(clock), monitor_of(clock)
    predictions, features = rng.normal(size=(250, 4)), rng.normal(size=(250, 7))
    errors = rng.random(250) < 0.1
    latencies = rng.exponential(0.01, size=250)
    for row in range(250):
        one_by_one.record_prediction(
            predictions[row], latencies[row], features[row], error=errors[row]
        )
    ids = at_once.record_batch(torch.tensor(predictions), latencies, features, errors)
    assert len(set(ids)) == 250
    assert at_once.total_predictions == 250
    assert at_once.health() == one_by_one.health()
    a, b = one_by_one.get_summary(), at_once.get_summary()
    assert a["prediction"]["per_output"]["mean"] == pytest.approx(
        b["prediction"]["per_output"]["mean"], abs=1e-6
    )


def test_a_batch_longer_than_the_window_closes_it(clock, rng):
    monitor = monitor_of(clock)
    monitor.record_batch(rng.normal(size=(1000, 2)), 0.01)
    assert monitor.total_predictions == 1000
    assert monitor.health().n_predictions == 300
    assert len(monitor.get_window_history()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((5, 0.01), "a row for each prediction"),
        (([], 0.01), "one prediction at least"),
        (([1.0, 2.0], [0.1, 0.2, 0.3]), "one number of seconds or 2"),
        (([1.0, 2.0], 0.1, None, [True]), "of each of the 2 predictions whether"),
    ],
)
def test_a_batch_whose_parts_do_not_go_together_is_an_error(arguments, said, clock):
    with pytest.raises(ConfigError, match=said):
        monitor_of(clock).record_batch(*arguments)


def test_request_ids_of_a_batch_find_their_outcomes(clock):
    monitor = monitor_of(clock, prediction_kind="class")
    monitor.record_batch(["buy", "sell", "hold"], 0.01, request_ids=["a", "b", "c"])
    monitor.record_outcome("a", "buy")
    monitor.record_outcome("b", "buy")
    monitor.record_outcome("b", "sell")  # a second outcome is ignored
    realised = monitor.get_performance()["realised"]["accuracy"]
    assert (realised["value"], realised["n"]) == (0.5, 2)
    with pytest.raises(ConfigError, match="2 request_ids for 1"):
        monitor.record_batch([1.0], 0.1, request_ids=["x", "y"])
    with pytest.raises(RequestNotFoundError):
        monitor.record_outcome("nobody", 1.0)


def test_features_by_name_come_in_one_order(clock):
    monitor = monitor_of(clock, min_drift_samples=10)
    for i in range(20):
        monitor.record_prediction(0.0, 0.01, {"rsi": float(i), "regime": "bull"})
    monitor.set_baseline()
    monitor.record_prediction(0.0, 0.01, {"regime": "bear", "rsi": 3.0, "new": 1.0})
    monitor.record_prediction(0.0, 0.01, {"regime": "bear"})
    drift = monitor.detect_feature_drift()
    assert [column["name"] for column in drift["per_feature"]] == ["rsi", "regime"]
    odd = monitor.get_summary()["odd_values"]
    assert odd["unknown_features"] == 1
    assert odd["non_finite_features"] == 1


def test_a_regime_that_changes_its_share_is_drift_by_its_name(clock, rng):
    monitor = monitor_of(clock, feature_names=["rsi", "regime"])
    for _ in range(300):
        regime = rng.choice(["bull", "bear"], p=[0.8, 0.2])
        monitor.record_prediction("buy", 0.01, {"rsi": rng.normal(), "regime": regime})
    monitor.set_baseline()
    assert not monitor.detect_feature_drift()["is_drifted"]
    for _ in range(300):
        regime = rng.choice(["bull", "bear"], p=[0.2, 0.8])
        monitor.record_prediction("sell", 0.01, {"rsi": rng.normal(), "regime": regime})
    drift = monitor.detect_feature_drift()
    assert [c["name"] for c in drift["per_feature"] if c["is_drifted"]] == ["regime"]
    assert monitor.detect_prediction_drift()["is_drifted"]  # from "buy" to "sell"
    state = monitor.baseline_state()
    again = monitor_of(clock, feature_names=["rsi", "regime"])
    again.load_baseline(state)
    assert again.baseline_state() == state


def test_declared_categories_are_not_numbers(clock, rng):
    monitor = monitor_of(clock, categorical_features=[0, "sector"], feature_names=["id", "sector"])
    data = rng.integers(0, 4, size=(1000, 2)).astype(float)
    monitor.set_baseline(features=data)
    baseline = monitor._journal.baseline
    assert sorted(baseline.features.categories) == [0, 1]


@pytest.mark.parametrize(
    "bad",
    [
        {"prediction": object()},
        {"prediction": math.nan},
        {"prediction": [[1, 2], [3]]},
        {"latency": "soon"},
        {"latency": -1.0},
        {"features": {"a": object()}},
        {"features": np.ones((3, 5000))},
    ],
)
def test_nothing_that_is_handed_in_stops_the_loop(bad, clock):
    monitor = monitor_of(clock)
    monitor.record_prediction(**{"prediction": 1.0, "latency": 0.01, **bad})
    assert sum(monitor.get_summary()["odd_values"].values()) >= 1


class Hostile:
    def __bool__(self):
        raise RuntimeError("no")

    def __str__(self):
        raise RuntimeError("no")

    __hash__ = None


class HostileFeatures(dict):
    def items(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "given",
    [
        {"error": np.array([True, False])},
        {"error": Hostile()},
        {"version_id": ["v1"]},
        {"version_id": Hostile()},
        {"request_id": ["a"]},
        {"features": HostileFeatures(a=1.0)},
        {"features": {Hostile: 1.0}},
    ],
)
def test_hostile_arguments_do_not_stop_the_loop_either(given, clock):
    monitor = monitor_of(clock)
    request_id = monitor.record_prediction(**{"prediction": 1.0, "latency": 0.01, **given})
    assert isinstance(request_id, str)
    assert monitor.total_predictions == 1
    monitor.get_summary()


def test_one_odd_feature_does_not_cost_the_row(clock):
    monitor = monitor_of(clock)
    names = {"a": 1.0, "b": "bull", "c": np.True_, "d": Decimal("0.5"), 4: torch.tensor(2.0)}
    monitor.record_prediction(1.0, 0.01, names)
    monitor.record_prediction(1.0, 0.01, {**names, "d": object()})
    rows = monitor._window.features.values()
    assert rows[0].tolist() == [1.0, code_of("bull"), 1.0, 0.5, 2.0]
    assert np.isnan(rows[1]).tolist() == [False, False, False, True, False]


def test_a_row_that_cannot_be_read_leaves_a_row_of_nan(clock):
    monitor = monitor_of(clock)
    monitor.record_prediction(1.0, 0.01, [1.0, 2.0])
    monitor.record_prediction(object(), 0.01, object())
    assert np.isnan(monitor._window.features.values()[1]).all()
    assert np.isnan(monitor._window.predictions.values()[1]).all()
    assert monitor.get_summary()["odd_values"]["unreadable"] == 2


def test_masked_values_are_missing(clock):
    monitor = monitor_of(clock)
    monitor.record_prediction(1.0, 0.01, np.ma.masked_array([1.0, 99.0], mask=[False, True]))
    assert np.isnan(monitor._window.features.values()[0]).tolist() == [False, True]


def test_batches_come_as_frames_dicts_and_tensors_that_train(clock):
    class Frame:
        """What pandas and polars have in common."""

        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return np.array(self.values)

    monitor = monitor_of(clock)
    monitor.record_batch(Frame([1.0, 2.0]), Frame([0.1, 0.2]), Frame([[1.0], [2.0]]))
    monitor.record_batch(
        torch.ones(2, requires_grad=True),
        torch.full((2,), 0.1, requires_grad=True),
        [{"a": 1.0}, {"a": 2.0}],
        torch.tensor([True, False]),
    )
    monitor.record_batch([[1.0], [2.0, 3.0], "x"], 0.1)
    assert monitor.total_predictions == 7
    assert monitor.health().n_errors == 1
    assert monitor._window.features.values()[:, 0].tolist() == [1.0, 2.0, 1.0, 2.0]
    with pytest.raises(ConfigError, match="a row for each of the 2 predictions"):
        monitor.record_batch([1.0, 2.0], 0.1, np.ones((3, 1)))
    with pytest.raises(ConfigError, match="whether it failed"):
        monitor.record_batch([1.0, 2.0], 0.1, None, ["False", "False"])


@pytest.mark.parametrize(("name", "value"), [(["x"], 1), ("x", 10**400), ("x", None)])
def test_a_metric_is_a_number_with_a_name(name, value, clock):
    with pytest.raises(ConfigError):
        monitor_of(clock).record_metric(name, value)


def test_odd_values_are_an_alert_until_two_windows_were_clean(clock):
    monitor = monitor_of(clock, alert_cooldown_s=0)
    monitor.record_prediction(math.nan, 0.01)
    assert [a["name"] for a in monitor.get_alerts("info")] == ["odd_values"]
    for _ in range(900):
        monitor.record_prediction(1.0, 0.01)
        clock.advance(0.1)
    assert [a["is_active"] for a in monitor.get_alerts("info")] == [False]
    assert monitor.get_summary()["odd_values"]["non_finite_predictions"] == 1


# ── several at once ─────────────────────────────────────────────────────────────────────────


def test_threads_lose_no_prediction():
    monitor = ModelMonitor("ppo", window_size=500)
    stop = threading.Event()

    def read():
        while not stop.is_set():
            monitor.get_summary()

    def record(seed):
        rows = np.random.default_rng(seed).normal(size=(2000, 3))
        for row in rows:
            request_id = monitor.record_prediction(row, 0.001, row)
            monitor.record_outcome(request_id, {"return": 0.01})

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=record, args=(seed,)) for seed in range(4)]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert monitor.total_predictions == 8000
    monitor.close()
    assert len(monitor.get_window_history()) == 16
    assert sum(window["n_predictions"] for window in monitor.get_window_history()) == 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_has_locks_and_ids_of_its_own(clock):
    monitor = monitor_of(clock)
    parents = {monitor.record_prediction(1.0, 0.01) for _ in range(5)}
    monitor._lock.acquire()  # as if another thread held it
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child_id = monitor.record_prediction(1.0, 0.01)
        os.write(write, child_id.encode())
        os._exit(0)
    monitor._lock.release()
    os.close(write)
    child_id = os.read(read, 100).decode()
    assert os.waitpid(pid, 0)[1] == 0
    assert child_id
    assert child_id not in parents


def test_windows_of_several_monitors_become_one(clock, rng):
    parts = [monitor_of(clock), monitor_of(clock)]
    rows = rng.normal(size=(200, 3))
    for i, row in enumerate(rows):
        parts[i % 2].record_prediction(row, 0.01 * (i % 2 + 1), row, error=i % 10 == 0)
    parts[0].record_metric("sharpe", 1.0)
    parts[1].record_metric("sharpe", 3.0)
    whole = monitor_of(clock)
    for part in parts:
        whole.absorb(part.packed_window())
    health = whole.health()
    assert (health.n_predictions, health.n_errors) == (200, 20)
    assert health.latency_mean_ms == pytest.approx(15.0)
    assert health.metrics["sharpe"].mean == 2.0
    mean = whole.get_summary()["prediction"]["per_output"]["mean"]
    assert mean == pytest.approx(rows.mean(axis=0).tolist())
    with pytest.raises(IntegrityError):
        whole.absorb(parts[0].packed_window()[:-3])


def test_an_id_that_is_no_text_finds_its_prediction_again():
    monitor = ModelMonitor("ppo", background=False)
    for request_id in (5, ("a", 1)):
        monitor.record_prediction([1.0], 0.01, request_id=request_id)
        monitor.record_outcome(request_id, {"pnl": 1.0})
    with pytest.raises(RequestNotFoundError):
        monitor.record_outcome([], {"pnl": 1.0})
    assert monitor.health().metrics["pnl"].n == 2
