"""When a change began, what a drift of the predictions comes from, and how baselines follow."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, NotFoundError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.changes import Norm, change_points, norm_of
from modelyard.monitor.drift.explaining import explain_shift
from modelyard.monitor.drift.references import reference_of
from modelyard.monitor.recording.blocks import Blocks
from modelyard.monitor.recording.buckets import BOUNDS_S
from modelyard.monitor.recording.partners import Partners
from modelyard.monitor.recording.rings import Rows
from modelyard.storage import open_store


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.fixture
def clock():
    return ManualClock()


def monitor_of(clock, **options):
    return ModelMonitor(
        "ppo", **{"window_size": 500, "background": False, "clock": clock, **options}
    )


def record(monitor, clock, rows, *, latency=0.01, error_rate=0.0, rng=None):
    for row in rows:
        is_error = rng is not None and rng.random() < error_rate
        monitor.record_prediction(row[:2], latency, row, error=is_error)
        clock.advance(1.0)


def test_a_change_is_dated_to_the_block_in_which_it_began(clock, rng):
    monitor = monitor_of(clock, evaluate_every=50, feature_names=["a", "b", "c"])
    record(monitor, clock, rng.normal(size=(2000, 3)))
    monitor.set_baseline()
    record(monitor, clock, rng.normal(size=(1000, 3)))
    assert monitor.get_change_points() == []
    changed_at = clock.now()
    record(monitor, clock, rng.normal([0.0, 0.0, 1.0], 1, size=(500, 3)))
    (change,) = monitor.get_change_points()
    assert (change["stream"], change["name"], change["direction"]) == ("feature", "c", "up")
    assert change["shift"] == pytest.approx(1.0, abs=0.2)
    began = np.datetime64(change["began_at"][:19])
    assert abs((began - np.datetime64(changed_at.isoformat()[:19])).astype(int)) <= 50
    assert change["began_at"] <= change["detected_at"]
    json.dumps(change)


def test_the_alert_says_since_when(clock, rng):
    monitor = monitor_of(clock, evaluate_every=50)
    record(monitor, clock, rng.normal(size=(1000, 3)))
    monitor.set_baseline()
    record(monitor, clock, rng.normal(size=(500, 3)))
    before = clock.now().isoformat()
    record(monitor, clock, rng.normal(1.0, 1, size=(500, 3)))
    alert = next(a for a in monitor.get_alerts() if a["name"] == "feature_drift")
    assert alert["began_at"] is not None
    assert (
        abs(np.datetime64(alert["began_at"][:19]) - np.datetime64(before[:19])).astype(int) <= 60
    )


def test_slower_answers_and_more_errors_are_changes_too(clock, rng):
    monitor = monitor_of(clock, evaluate_every=50)
    for latency, error_rate in ((0.01, 0.01), (0.01, 0.01), (0.03, 0.3)):
        for row in rng.normal(size=(1000, 2)):
            monitor.record_prediction(
                row, latency * rng.lognormal(0, 0.2), error=rng.random() < error_rate
            )
            clock.advance(1.0)
        if error_rate == 0.01 and monitor.baseline_status == "none":
            monitor.set_baseline()
    found = {change["stream"]: change for change in monitor.get_change_points()}
    assert set(found) == {"latency_ms", "error_rate"}
    assert found["error_rate"]["shift"] == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("r", [0.0, 0.9, 0.99])
def test_changes_are_not_cried_of_streams_that_wander(r, rng):
    """Of 40 streams of 20 windows, with norms from 20 windows."""
    alarms = 0
    for _ in range(20):
        x = lfilter([math.sqrt(1 - r * r)], [1, -r], rng.normal(size=(41_000, 2)), axis=0)[1000:]
        means = x.reshape(400, 100, 2).mean(axis=1)
        norm = norm_of(means[:200], n_normal=200, floor=0.1)
        blocks = Blocks(400)
        for i, mean in enumerate(means):
            blocks.add(float(i), (i + 1) * 100, {"feature": mean})
        alarms += len(change_points(blocks.values(), {"feature": norm}, {}, since=20_000))
    assert alarms <= 2


def test_norms_survive_json_and_need_five_blocks(rng):
    norm = norm_of(rng.normal(size=(10, 3)), n_normal=10, floor=0.0)
    again = Norm.from_plain(json.loads(json.dumps(norm.to_plain())))
    assert again.to_plain() == norm.to_plain()
    assert norm_of(rng.normal(size=(4, 3)), n_normal=4, floor=0.0) is None


# ── what a drift comes from ─────────────────────────────────────────────────────────────────


def test_the_shift_of_an_output_is_split_by_features(rng):
    weights = np.array([1.0, 0.0, -0.5])
    before, after = rng.normal(size=(2000, 3)), rng.normal([0.6, 2.0, 0.0], 1, size=(1000, 3))
    outputs = [(x @ weights + rng.normal(0, 0.1, size=len(x)))[:, None] for x in (before, after)]
    found = explain_shift(
        0,
        outputs[1],
        after,
        prediction_reference=reference_of(outputs[0]),
        feature_reference=reference_of(before),
    )
    std = outputs[0].std()
    assert found.contributions == pytest.approx([0.6 / std, 0.0, 0.0], abs=0.08)
    assert found.contributions.sum() == pytest.approx(found.shift, abs=0.1)
    assert found.r_squared > 0.95


def test_a_monitor_says_which_feature_moved_the_predictions(clock, rng):
    monitor = monitor_of(clock, feature_names=["rsi", "macd", "volume"])
    for shift in (0.0, 0.0, 1.0):
        for row in rng.normal([0.0, shift, 0.0], 1, size=(500, 3)):
            monitor.record_prediction([2.0 * row[1] + 0.1 * row[0]], 0.01, row)
            clock.advance(1.0)
        if monitor.baseline_status == "none":
            monitor.set_baseline()
    drift = monitor.detect_prediction_drift()
    assert drift["is_drifted"]
    explained = drift["explained_by"]
    assert explained["features"][0]["name"] == "macd"
    assert explained["features"][0]["share"] == pytest.approx(1.0, abs=0.1)
    json.dumps(drift)


def test_rows_that_do_not_pair_explain_nothing(rng):
    rows = rng.normal(size=(300, 3))
    reference = reference_of(rows)
    options = {"prediction_reference": reference, "feature_reference": reference}
    assert explain_shift(0, rows[:100], rows, **options) is None
    assert explain_shift(0, rows[:4], rows[:4], **options) is None


# ── baselines ───────────────────────────────────────────────────────────────────────────────


def test_every_baseline_is_written_down(clock, rng):
    monitor = monitor_of(clock)
    record(monitor, clock, rng.normal(size=(500, 3)))
    monitor.set_baseline(actor="ann")
    monitor.set_baseline(features=rng.normal(size=(900, 3)))
    monitor.load_baseline(monitor.baseline_state(), actor="bob")
    first, second, third = monitor.baseline_history()
    assert (first["source"], first["actor"], first["replaced"]) == ("window", "ann", None)
    assert (second["source"], second["n"]) == ("data", 900)
    assert second["replaced"] == first["at"]
    assert (third["source"], third["actor"]) == ("version", "bob")


def test_a_drifted_window_becomes_the_baseline_only_by_force(clock, rng):
    monitor = monitor_of(clock)
    record(monitor, clock, rng.normal(size=(500, 3)))
    monitor.set_baseline()
    record(monitor, clock, rng.normal(2, 1, size=(500, 3)))
    refused = monitor.refresh_baseline()
    assert not refused["refreshed"]
    assert "prediction_drift" in refused["reason"]
    assert monitor.detect_prediction_drift()["is_drifted"]
    forced = monitor.refresh_baseline(force=True, actor="ann")
    assert forced["refreshed"]
    assert monitor.baseline_history()[-1]["forced"]
    assert not monitor.detect_prediction_drift()["is_drifted"]


def test_a_window_that_is_not_full_is_no_refresh(clock, rng):
    monitor = monitor_of(clock)
    record(monitor, clock, rng.normal(size=(300, 3)))
    monitor.set_baseline()
    assert "not full" in monitor.refresh_baseline()["reason"]


def test_calm_windows_refresh_the_baseline_by_themselves(clock, rng):
    monitor = monitor_of(clock, refresh_baseline_every=2)
    record(monitor, clock, rng.normal(size=(500, 3)))
    monitor.set_baseline()
    record(monitor, clock, rng.normal(size=(1100, 3)))
    assert [event["actor"] for event in monitor.baseline_history()] == ["caller", "monitor"]
    record(monitor, clock, rng.normal(3, 1, size=(2000, 3)))
    assert len(monitor.baseline_history()) == 2  # never over a drifted window


@pytest.mark.slow
def test_a_slow_drift_does_not_carry_the_baseline_away(clock, rng):
    monitor = monitor_of(clock, window_size=300, refresh_baseline_every=2)
    monitor.set_baseline(features=rng.normal(size=(300, 1)), predictions=rng.normal(size=(300, 1)))
    for window in range(100):
        for row in rng.normal(0.04 * window, 1, size=(300, 1)):
            monitor.record_prediction(row, 0.01, row)
            clock.advance(1.0)
    refreshed = [one for one in monitor.baseline_history() if one["actor"] == "monitor"]
    assert refreshed
    told = {alert["name"] for alert in monitor.get_alerts() if alert["is_active"]}
    assert {"baseline_refresh", "feature_drift"} <= told
    normal = monitor._journal.baseline.features.sketch.mean()
    assert normal < 1.0  # not the 4 sigma that it has gone


def test_a_past_period_can_be_the_baseline(clock, rng):
    monitor = monitor_of(clock)
    record(monitor, clock, rng.normal(size=(6000, 3)))
    calm_until = clock.now()
    record(monitor, clock, rng.normal(1, 1, size=(2000, 3)))
    monitor.set_baseline(until=calm_until)
    assert monitor.baseline_history()[-1]["source"] == "history"
    drift = monitor.detect_feature_drift()
    assert drift["is_drifted"]
    assert drift["drift_score"] == pytest.approx(1.0, abs=0.15)
    assert drift["calibrated"]
    with pytest.raises(ConfigError, match="No full window ended"):
        monitor.set_baseline(since="2030-01-01")
    with pytest.raises(ConfigError, match="not from both"):
        monitor.set_baseline(features=rng.normal(size=(300, 3)), since=calm_until)


class Frame:
    """What data frames have in common: named columns."""

    def __init__(self, columns, values):
        self.columns, self._values = columns, np.asarray(values, dtype=object)

    def to_numpy(self):
        return self._values


def test_a_baseline_knows_the_names_of_its_features(clock, rng):
    rows = rng.normal([0.0, 50.0], 1, size=(500, 2))
    first = monitor_of(clock, feature_names=["rsi", "price"])
    first.set_baseline(features=rows)
    state = json.loads(json.dumps(first.baseline_state()))
    again = monitor_of(clock)
    again.load_baseline(state)
    for row in rows:
        again.record_prediction(0.0, 0.01, {"price": row[1], "rsi": row[0]})
    assert not again.detect_feature_drift()["is_drifted"]
    other = monitor_of(clock, feature_names=["price", "rsi"])
    with pytest.raises(ConfigError, match="in the baseline's order"):
        other.load_baseline(state)


def test_training_data_come_as_frames_with_text_and_in_any_order(clock, rng):
    regimes = rng.choice(["bull", "bear"], size=500)
    frame = Frame(["regime", "rsi"], list(zip(regimes, rng.normal(size=500), strict=True)))
    monitor = monitor_of(clock, feature_names=["rsi", "regime"])
    monitor.set_baseline(features=frame, predictions=["buy"] * 250 + ["sell"] * 250)
    for i in range(500):
        features = {"regime": rng.choice(["bull", "bear"]), "rsi": rng.normal()}
        monitor.record_prediction("buy" if i % 2 else "sell", 0.01, features)
    assert not monitor.detect_feature_drift()["is_drifted"]
    assert not monitor.detect_prediction_drift()["is_drifted"]
    for _ in range(500):
        monitor.record_prediction("buy", 0.01, {"regime": "crash", "rsi": rng.normal()})
    drift = monitor.detect_feature_drift()
    assert [c["name"] for c in drift["per_feature"] if c["is_drifted"]] == ["regime"]
    with pytest.raises(ConfigError, match="lack the features regime"):
        monitor.set_baseline(features=Frame(["rsi"], [[1.0]] * 500))
    named = [{"rsi": 0.1, "regime": "bull"}] * 300
    monitor.set_baseline(features=named)
    assert monitor.baseline_history()[-1]["n"] == 500  # the predictions stay


# ── asking once in another way ──────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize("method", ["psi", "ks", "js", "hellinger", "mmd", "domain_classifier"])
def test_drift_can_be_asked_for_by_another_method(method, clock, rng):
    monitor = monitor_of(clock)
    monitor.set_baseline(features=rng.normal(size=(1000, 3)))
    record(monitor, clock, rng.normal(size=(500, 3)))
    same = monitor.detect_feature_drift(method=method)
    assert not same["is_drifted"]
    assert method in same["method"] or method == "js"
    record(monitor, clock, rng.normal(1.5, 1, size=(500, 3)))
    assert monitor.detect_feature_drift(method=method)["is_drifted"]
    assert not monitor.detect_feature_drift(method=method, threshold=99.0)["is_drifted"]
    with pytest.raises(ConfigError, match="No drift method 'wishes'"):
        monitor.detect_feature_drift(method="wishes")


def test_a_monitor_can_judge_by_another_method_always(clock, rng):
    monitor = monitor_of(clock, drift_method="psi")
    monitor.set_baseline(features=rng.normal(size=(1000, 3)))
    record(monitor, clock, rng.normal(1.0, 1, size=(500, 3)))
    drift = monitor.detect_feature_drift()
    assert drift["is_drifted"]
    assert drift["threshold"] == 0.2
    assert drift["method"] == "psi + chi-square"
    with pytest.raises(ConfigError, match="No drift method"):
        ModelMonitor("ppo", drift_method="wishes")


def test_alerts_are_acknowledged_and_resolved_by_people(clock, rng):
    monitor = monitor_of(clock)
    for _ in range(200):
        monitor.record_prediction(1.0, 5.0)
        clock.advance(1.0)
    (alert,) = monitor.get_alerts("critical")
    assert monitor.acknowledge_alert(alert["alert_id"], by="ann")["acknowledged_by"] == "ann"
    resolved = monitor.resolve_alert(alert["alert_id"], by="bob")
    assert (resolved["resolved_by"], resolved["is_active"]) == ("bob", False)
    for _ in range(200):
        monitor.record_prediction(1.0, 5.0)
        clock.advance(1.0)
    assert monitor.get_summary()["active_alerts"] == []  # silent until it was calm once
    with pytest.raises(NotFoundError):
        monitor.resolve_alert("alert_nobody", by="bob")


def test_distributions_are_given_as_hundred_quantiles(clock, rng):
    monitor = monitor_of(clock, feature_names=["a", "b"])
    record(monitor, clock, rng.normal(size=(500, 2)))
    assert monitor.distributions("feature", [0])[0]["reference"] == []
    monitor.set_baseline()
    a, b = monitor.distributions("feature", [0, 1, 7])
    assert (a["name"], b["index"], len(a["reference"]), len(a["window"])) == ("a", 1, 101, 101)
    with pytest.raises(ConfigError, match="kind"):
        monitor.distributions("weather", [0])


def test_reading_is_no_second_look_at_the_same_records(clock):
    monitor = monitor_of(clock, evaluate_every=100)
    for _ in range(99):
        monitor.record_prediction(1.0, 0.01)
    monitor.get_summary()
    for _ in range(9):
        monitor.record_prediction(1.0, 5.0)
    for _ in range(5):
        clock.advance(1.5)
        assert monitor.get_summary()["active_alerts"] == []
    for _ in range(100):
        monitor.record_prediction(1.0, 5.0)
    assert {a["name"] for a in monitor.get_alerts()} == {"latency_p99_ms"}


def test_totals_go_on_after_a_restart(clock, tmp_path):
    store = open_store(tmp_path)
    options = {"window_size": 50, "store": store, "background": False, "clock": clock}
    first = ModelMonitor("ppo", **options)
    for _ in range(500):
        first.record_prediction(1.0, 0.01)
    first.flush()
    again = ModelMonitor("ppo", **options)
    assert again.total_predictions == 500
    again.record_prediction(1.0, 0.01)
    again.flush()
    assert ModelMonitor("ppo", **options).total_predictions == 501
    store.close()


# ── means of blocks ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [10, 80, 300])
@pytest.mark.parametrize("lengths", [[50, 50, 50], [50, 20, 80], [150], [50, 0, 100]])
def test_means_of_rows_are_those_of_their_finite_values(size, lengths, rng):
    table = rng.normal(size=(sum(lengths), 3))
    table[60:65, 1] = np.nan
    table[100, 2] = np.inf
    for take in ("one by one", "at once"):
        rows = Rows(size)
        for part in np.split(table, np.cumsum(lengths)[:-1]):
            for piece in part if take == "one by one" else [part] * (len(part) > 0):
                rows.add(piece)
            found = rows.take_means()
            if not len(part):
                assert found is None
                continue
            want = [column[np.isfinite(column)].mean() for column in part.T]
            assert found == pytest.approx(np.array(want), abs=1e-12)
        assert rows.n_non_finite == 6


def test_means_begin_anew_with_another_width():
    rows = Rows(100)
    for _ in range(30):
        rows.add(np.ones(3))
    for _ in range(60):
        rows.add(np.full(2, 5.0))
    assert rows.width == 2
    assert rows.take_means().tolist() == [5.0, 5.0]


def test_blocks_do_not_depend_on_when_they_are_looked_at(clock, rng):
    rows, errors = rng.normal(size=(2_630, 3)), rng.random(2_630) < 0.1
    often, seldom = (
        monitor_of(clock, window_size=300, evaluate_every=every, background=False)
        for every in (70, 70)
    )
    for i, row in enumerate(rows):
        for monitor in (often, seldom):
            monitor.record_prediction(row[:2], 0.01, row, error=bool(errors[i]))
        if i % 11 == 0:
            often._window.block_means()
        clock.advance(1.0)
    a, b = (monitor._window.block_means() for monitor in (often, seldom))
    assert a.at.tolist() == b.at.tolist()
    assert a.n_records.tolist() == b.n_records.tolist() == [*range(70, 2_631, 70)]
    for name, values in a.means.items():
        assert values == pytest.approx(b.means[name], abs=1e-12)
    ends = b.n_records
    want = [rows[end - 70 : end].mean(axis=0) for end in ends]
    assert b.means["feature"] == pytest.approx(np.array(want), abs=1e-9)


def test_a_batch_larger_than_the_window_takes_no_block_with_it(clock, rng):
    monitor = monitor_of(clock, window_size=100, evaluate_every=30, background=False)
    rows = rng.normal(size=(200, 3))
    for row in rows[:60]:
        monitor.record_prediction(row[:2], 0.01, row)
        clock.advance(1.0)
    monitor.record_batch(rows[60:, :2], 0.01, rows[60:])
    means = monitor._window.block_means().means["feature"]
    want = [rows[:30].mean(axis=0), rows[30:60].mean(axis=0), rows[60:].mean(axis=0)]
    assert means == pytest.approx(np.array(want), abs=1e-9)


def test_what_is_absorbed_overwrites_nothing_that_was_not_taken(clock):
    one, other = (monitor_of(clock, window_size=1000, evaluate_every=100) for _ in range(2))
    for monitor, value, n in ((one, 1.0, 450), (other, 2.0, 1000)):
        record(monitor, clock, np.full((n, 3), value), latency=value / 100)
    one.absorb(other.packed_window())
    assert one._window.block_means().means["feature"][:, 0].tolist() == [1.0] * 4 + [2050 / 1050]
    assert one._window.latency_counts() == (
        [450 * (bound >= 0.01) + 1000 * (bound >= 0.02) for bound in BOUNDS_S] + [1450],
        pytest.approx(24.5),
    )


def test_a_prediction_of_many_rows_overwrites_no_block_that_was_not_taken(clock):
    monitor = monitor_of(clock, window_size=1000, evaluate_every=100)
    record(monitor, clock, np.ones((400, 3)))
    monitor.record_prediction(np.full((900, 2), 2.0), 0.01, np.full((900, 3), 2.0))
    record(monitor, clock, np.full((99, 3), 2.0))
    means = monitor._window.block_means().means
    for name in ("prediction", "feature"):
        assert means[name][:, 0].tolist() == [1.0] * 4 + [2.0]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5), st.booleans()), max_size=60),
    st.integers(1, 12),
)
def test_partners_are_those_that_came_together(steps, size):
    partners, want, prediction = Partners(size), [], 0
    for n_rows, n_predictions, is_paired in steps:
        is_paired = is_paired and n_predictions >= n_rows  # noqa: PLW2901 - as the window has it
        partners.add(len(want), prediction if is_paired else None)
        want += [prediction + i if is_paired else -1 for i in range(n_rows)]
        prediction += n_predictions
        assert partners.values(len(want)).tolist() == want[-size:]
