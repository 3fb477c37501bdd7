"""The page of a monitor: says what the monitor knows, whatever that is."""

from dataclasses import replace

import pytest
from report_helpers import WINDOW, Page, eventful, monitor_of, record

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, StorageError
from modelyard.monitor.drift.columns import SIGNIFICANCE
from modelyard.monitor.outputs import ago
from modelyard.monitor.report import monitor_report, view_of, write_report
from modelyard.monitor.report.health import overview
from modelyard.reporting import Note

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
SECTIONS = [
    "Overview",
    "Health",
    "Performance",
    "Prediction drift",
    "Feature drift",
    "Change points",
    "Alerts",
    "Baseline",
]


@pytest.fixture(scope="module")
def view():
    monitor = eventful(feature_names=["spread", "volume", "momentum"])
    for i in range(100):
        monitor.record_metric("return", 0.001 * (i % 7 - 3))
    return view_of(monitor)


@pytest.fixture(scope="module")
def page(view):
    return Page(monitor_report(view))


def test_every_section_is_there_in_order(page):
    places = [page.words.index(title) for title in SECTIONS]
    assert places == sorted(places)


def test_equal_views_give_equal_pages(view):
    assert monitor_report(view) == monitor_report(replace(view))


def test_a_verdict_on_drift_is_told_in_words(page, view):
    for drift in (view.prediction_drift, view.feature_drift):
        assert drift["is_drifted"]
        assert page.text.count(drift["reason"]) >= 2  # first thing on the page and in its section


def test_a_column_is_said_to_have_drifted_below_the_p_value_that_decides(page):
    assert f"adjusted p-value below {SIGNIFICANCE:g}." in page.text
    assert "below 0.05." not in page.text


@pytest.mark.parametrize(("score", "level"), [(0.495, "warning"), (0.65, "critical")])
def test_a_drift_is_as_urgent_on_the_page_as_its_alert(view, score, level):
    drift = {**view.prediction_drift, "drift_score": score, "effective_threshold": 0.3}
    drift |= {"is_drifted": True, "calibrated": True}
    blocks = overview(replace(view, prediction_drift=drift)).blocks
    notes = [one for one in blocks if isinstance(one, Note)]
    assert [one.kind for one in notes if one.text.startswith("Prediction drift")] == [level]


@pytest.mark.parametrize(
    ("calibrated", "limit", "said"),
    [
        (True, 0.3, "is the threshold"),
        (True, 0.4, "is calibrated"),
        (False, 0.3, "not calibrated"),
    ],
)
def test_the_limit_is_told_as_what_it_is(view, calibrated, limit, said):
    drift = {**view.prediction_drift, "calibrated": calibrated}
    drift |= {"threshold": 0.3, "effective_threshold": limit}
    page = Page(monitor_report(replace(view, prediction_drift=drift)))
    assert f"The limit {said}" in page.text or f"The limit is {said}" in page.text


def test_the_age_of_the_last_prediction_is_told(view):
    aged = {**view.summary, "last_prediction_age_s": 1560.0}
    page = Page(monitor_report(replace(view, summary=aged)))
    assert "last prediction 26 min ago" in " ".join(page.text.split())


@pytest.mark.parametrize(
    ("age_s", "said"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (119, "1 min"),
        (5999, "99 min"),
        (7201, "2 h"),
        (9e5, "10 days"),
    ],
)
def test_an_age_is_told_in_the_unit_that_fits(age_s, said):
    assert ago(age_s) == f"{said} ago"


def test_the_feature_that_moved_is_named_first(page):
    table = page.words[page.words.index("adjusted", page.words.index("Feature drift", 20)) :]
    assert table[table.index("drifted") + 1] == "momentum"


def test_what_explains_a_drift_of_the_predictions_is_told(page, view):
    assert view.prediction_drift["explained_by"]["features"][0]["name"] == "momentum"
    assert "Which features the drift of output_0 comes from" in page.text


def test_change_points_alerts_and_baselines_are_listed(page, view):
    for change in view.changes:
        assert change["began_at"][:19].replace("T", " ") in page.text
    for alert in view.alerts:
        assert alert["name"] in page.words
    assert {"error_rate", "feature_drift"} <= {alert["name"] for alert in view.alerts}
    assert "The baseline is: set." in page.text


def test_business_metrics_have_their_interval(page, view):
    sharpe = view.performance["metrics"]["return"]["sharpe"]
    assert "return, sharpe" in page.words
    cells = page.words[page.words.index("return, sharpe") :][1:3]
    assert cells[0].replace("\u2212", "-") == f"{sharpe['value']:,.4g}"


@pytest.mark.parametrize("n", [0, 1, 30])
def test_a_monitor_that_knows_little_has_a_page(n):
    clock = ManualClock()
    monitor = monitor_of(clock)
    record(monitor, clock, n)
    found = Page(monitor_report(view_of(monitor)))
    assert set(SECTIONS) <= set(found.words)
    assert "No baseline yet: call set_baseline()." in found.text
    assert f"No window of {WINDOW} predictions is full yet." in found.text
    assert "There were none." in found.text


def test_a_monitor_without_features_has_a_page():
    clock = ManualClock()
    monitor = monitor_of(clock)
    for i in range(3 * WINDOW):
        monitor.record_prediction(float(i % 5), 0.001)
        if i == WINDOW:
            monitor.set_baseline()
    assert view_of(monitor).features == []
    assert set(SECTIONS) <= set(Page(monitor_report(view_of(monitor))).words)


def test_of_263_features_those_that_moved_most_are_shown():
    clock = ManualClock()
    monitor = monitor_of(clock)
    record(monitor, clock, WINDOW, n_features=263)
    monitor.set_baseline()
    record(monitor, clock, WINDOW, n_features=263, shift=1.5, seed=1)
    view = view_of(monitor)
    text = Page(monitor_report(view)).text
    assert view.features[0]["index"] == 262
    assert "The first 30 of 263 features." in text
    assert len(view.features) == 4


def test_names_and_messages_from_outside_are_never_markup():
    monitor = eventful(feature_names=[EVIL, "b", f"{EVIL}2"], output_names=[EVIL, "b"])
    monitor.record_metric(EVIL, 1.0)
    monitor.raise_alert(EVIL, severity="critical", message=EVIL)
    monitor.record_prediction(1.0, 0.001, version_id=EVIL)
    found = Page(monitor_report(view_of(monitor)))
    ordinary = Page(monitor_report(view_of(eventful())))
    assert "img" not in found.tags
    # One chart more, that of the business metric.
    assert found.tags.count("script") == ordinary.tags.count("script") + 1
    assert EVIL in found.text


def test_alerts_that_wait_for_their_sink_are_told(view):
    waiting = [{"delivery_id": "1", "sink": "webhook", "event": {}}]
    found = Page(monitor_report(replace(view, undelivered=waiting)))
    assert "Not delivered yet: 1 for webhook ." in found.text


def test_of_very_many_alerts_the_newest_are_shown(view):
    alerts = [
        {**view.alerts[0], "alert_id": str(i), "name": f"rule_{i}", "is_active": False}
        for i in range(400)
    ]
    found = Page(monitor_report(replace(view, alerts=alerts)))
    assert "The newest 50 of 400." in found.text
    assert "rule_399" in found.words
    assert "rule_349" not in found.words


def test_writing_makes_the_folder_and_replaces_an_older_page(tmp_path):
    path = tmp_path / "pages" / "ppo.html"
    monitor = monitor_of()
    assert write_report(monitor, path) == path
    first = path.read_text(encoding="utf-8")
    assert write_report(monitor, str(path)) == path
    assert path.read_text(encoding="utf-8") == first
    assert [item.name for item in path.parent.iterdir()] == ["ppo.html"]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "page.html"):
        with pytest.raises(ConfigError, match=r"cannot be written.*monitor\.html"):
            write_report(monitor_of(), path)


def test_a_store_that_refuses_is_not_taken_for_a_path(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise StorageError("the database is gone")

    monitor = monitor_of()
    monkeypatch.setattr(monitor, "query_each", refuse)
    with pytest.raises(StorageError, match="the database is gone"):
        write_report(monitor, tmp_path / "page.html")


def test_a_since_that_is_no_time_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="got 'never'"):
        write_report(monitor_of(), tmp_path / "page.html", since="never")
    assert not list(tmp_path.iterdir())
