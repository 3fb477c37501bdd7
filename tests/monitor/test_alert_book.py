"""The book of alerts: when one opens, is held, is over, and is silent."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from modelyard._core.errors import ConfigError, NotFoundError
from modelyard.monitor.alerting.alerts import Alert, Breach, EventKind, Origin, Severity
from modelyard.monitor.alerting.book import AlertBook
from modelyard.monitor.alerting.readings import Reading, State

START = datetime(2024, 6, 1, tzinfo=UTC)
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL


def at(seconds):
    return START + timedelta(seconds=seconds)


def reading(state="breach", severity=WARNING, *, name="error_rate", **more):
    values = {"value": 0.2, "threshold": 0.05, "message": "too many", **more}
    return Reading(name=name, state=State(state), severity=severity, **values)


def breach(name="rollback", severity=CRITICAL, message="v2 was rolled back"):
    return Breach(
        name=name, severity=severity, value=math.nan, threshold=math.nan, message=message
    )


def take(book, *states, start=0.0, every_s=10.0, severity=WARNING):
    """Hand the book one evaluation after another; kinds of all events."""
    events = []
    for index, state in enumerate(states):
        events += book.update([reading(state, severity)], at=at(start + index * every_s))
    return [event.kind.value for event in events]


def opened(**options):
    book = AlertBook(**options)
    take(book, "breach", "breach")
    (alert,) = book.select(active=True)
    return book, alert


# Opening


def test_one_breach_may_be_chance_and_two_in_a_row_are_an_alert():
    book = AlertBook()
    assert take(book, "breach") == []
    assert take(book, "breach", start=10) == ["opened"]
    (alert,) = book.select()
    assert alert.count == 2
    assert (alert.first_seen, alert.last_seen) == (at(0).isoformat(), at(10).isoformat())


@pytest.mark.parametrize("between", ["calm", "held"])
def test_an_evaluation_without_a_breach_breaks_the_row(between):
    assert take(AlertBook(), "breach", between, "breach") == []


def test_an_evaluation_that_knows_nothing_does_not_break_the_row():
    assert take(AlertBook(), "breach", "unknown", "breach") == ["opened"]


def test_a_reading_may_ask_to_open_at_once_or_later_than_the_book_does():
    book = AlertBook()
    (event,) = book.update([reading(n_consecutive=1)], at=at(0))
    assert event.kind is EventKind.OPENED
    book = AlertBook()
    kinds = [
        event.kind for i in range(4) for event in book.update([reading(n_consecutive=3)], at=at(i))
    ]
    assert kinds == [EventKind.OPENED, EventKind.SEEN]


def test_an_alert_carries_when_the_change_began():
    book = AlertBook(n_consecutive=1)
    book.update([reading(began_at="2024-05-31T00:00:00+00:00")], at=at(0))
    assert book.select()[0].to_dict()["began_at"] == "2024-05-31T00:00:00+00:00"


# While it is active


def test_further_breaches_are_counted_and_are_no_news():
    book, alert = opened()
    events = book.update([reading()], at=at(20))
    assert [(event.kind.value, event.is_news) for event in events] == [("seen", False)]
    assert book.get(alert.alert_id).count == 3


def test_an_alert_is_held_just_inside_the_limit_and_without_data():
    book, alert = opened()
    assert take(book, "held", "unknown", "held", start=20) == []
    assert book.get(alert.alert_id) == alert


def test_severity_only_rises_and_its_rise_is_news():
    book, alert = opened()
    (event,) = book.update([reading(severity=CRITICAL)], at=at(20))
    assert (event.kind.value, event.is_news) == ("worsened", True)
    book.update([reading(severity=WARNING)], at=at(30))
    assert book.get(alert.alert_id).breach.severity is CRITICAL


def test_a_calm_evaluation_resolves_it():
    book, _ = opened()
    (event,) = book.update([reading("calm")], at=at(20))
    assert (event.kind.value, event.is_news) == ("resolved", True)
    assert event.alert.resolved_at == at(20).isoformat()
    assert event.alert.resolved_by is None
    assert book.select(active=True) == []


def test_an_alert_whose_rule_is_gone_is_resolved():
    book, _ = opened()
    (event,) = book.update([], at=at(20))
    assert event.kind is EventKind.RESOLVED


# After it


def test_an_alert_of_a_rule_never_seen_here_is_left_to_whoever_has_it():
    _, alert = opened()
    other = AlertBook([alert])  # another process, with rules of its own
    assert other.update([reading("calm", name="latency_p99_ms")], at=at(30)) == []
    assert other.get(alert.alert_id).is_active
    other.resolve(alert.alert_id, by="ann", at=at(40))
    assert not other.get(alert.alert_id).is_active


def test_a_breach_soon_after_reopens_the_same_alert_and_tells_nobody():
    book, alert = opened(cooldown_s=300)
    take(book, "calm", start=20)
    (event,) = book.update([reading()], at=at(100))
    assert (event.kind.value, event.is_news) == ("reopened", False)
    assert (event.alert.alert_id, event.alert.count) == (alert.alert_id, 3)
    (event,) = book.update([reading("calm")], at=at(110))
    assert (event.kind.value, event.is_news) == ("resolved", False)


def test_a_reopened_alert_that_lasts_is_told():
    book, _ = opened(cooldown_s=300)
    take(book, "calm", "breach", start=20)
    assert not [e for e in book.update([reading()], at=at(300)) if e.is_news]
    (event,) = book.update([reading()], at=at(331))
    assert (event.kind.value, event.is_news) == ("reopened", True)
    (event,) = book.update([reading("calm")], at=at(340))
    assert event.is_news


def test_a_reopened_alert_that_is_worse_is_told_at_once():
    book, alert = opened(cooldown_s=300)
    take(book, "calm", start=20)
    (event,) = book.update([reading(severity=CRITICAL)], at=at(30))
    assert (event.kind.value, event.is_news) == ("worsened", True)
    assert (event.alert.alert_id, event.alert.is_active) == (alert.alert_id, True)


def test_after_the_cooldown_a_new_alert_opens_after_two_breaches():
    book, _ = opened(cooldown_s=300)
    assert take(book, "calm", start=20) == ["resolved"]
    assert take(book, "breach", "breach", start=320) == ["opened"]
    assert len(book.select()) == 2


# By hand


def test_acknowledging_says_who_and_when_and_once():
    book, alert = opened()
    (event,) = book.acknowledge(alert.alert_id, by="ada", at=at(20))
    assert (event.kind.value, event.is_news) == ("acknowledged", True)
    assert event.alert.to_dict()["acknowledged_by"] == "ada"
    assert event.alert.to_dict()["acknowledged_at"] == at(20).isoformat()
    assert book.acknowledge(alert.alert_id, by="bob", at=at(30)) == []


def test_what_got_worse_has_not_been_acknowledged():
    book, alert = opened()
    book.acknowledge(alert.alert_id, by="ada", at=at(20))
    book.update([reading(severity=CRITICAL)], at=at(30))
    plain = book.get(alert.alert_id).to_dict()
    assert (plain["acknowledged_by"], plain["acknowledged_at"]) == (None, None)


def test_an_alert_resolved_by_hand_is_silent_until_it_was_calm_once():
    book, alert = opened(cooldown_s=0)
    (event,) = book.resolve(alert.alert_id, by="ada", at=at(20))
    assert (event.alert.resolved_by, event.alert.is_silenced) == ("ada", True)
    assert take(book, "breach", "breach", "held", "unknown", "breach", start=30) == []
    assert take(book, "calm", "breach", "breach", start=100) == ["unsilenced", "opened"]


def test_an_alert_resolved_by_hand_speaks_again_when_it_is_worse():
    book, alert = opened(cooldown_s=300)
    book.resolve(alert.alert_id, by="ada", at=at(20))
    (event,) = book.update([reading(severity=CRITICAL)], at=at(30))
    assert (event.kind.value, event.is_news, event.alert.is_silenced) == ("worsened", True, False)


def test_worse_long_after_a_hand_resolved_it_is_a_new_alert():
    book, alert = opened(cooldown_s=300)
    book.resolve(alert.alert_id, by="ada", at=at(20))
    kinds = take(book, "breach", "breach", start=1000, severity=CRITICAL)
    assert kinds == ["unsilenced", "opened"]
    assert not book.get(alert.alert_id).is_silenced


def test_worse_counts_in_a_row_also_of_a_silenced_rule():
    book, alert = opened(cooldown_s=0)
    book.resolve(alert.alert_id, by="ada", at=at(20))
    assert take(book, "breach", start=30, severity=CRITICAL) == []
    assert take(book, "breach", start=40, severity=WARNING) == []
    assert take(book, "breach", start=50, severity=CRITICAL) == []


def test_resolving_twice_changes_nothing():
    book, alert = opened()
    book.resolve(alert.alert_id, by="ada", at=at(20))
    assert book.resolve(alert.alert_id, by="bob", at=at(30)) == []
    assert book.get(alert.alert_id).resolved_by == "ada"


def test_an_old_alert_that_is_acknowledged_stays_the_old_one():
    book, old = opened(cooldown_s=0)
    take(book, "calm", "breach", "breach", start=20)
    book.acknowledge(old.alert_id, by="ada", at=at(60))
    assert take(book, "breach", start=70) == ["seen"]


@pytest.mark.parametrize("method", ["acknowledge", "resolve"])
def test_an_unknown_id_says_how_to_find_the_known_ones(method):
    with pytest.raises(NotFoundError, match=r"alert-x.*get_alerts\(\)"):
        getattr(AlertBook(), method)("alert-x", by="ada", at=at(0))


# Reported from outside


def test_a_report_is_an_alert_at_once_and_the_same_again_is_counted():
    book = AlertBook()
    (event,) = book.report(breach(), at=at(0))
    assert (event.kind.value, event.is_news) == ("opened", True)
    (event,) = book.report(breach(), at=at(10))
    assert (event.kind.value, event.is_news, event.alert.count) == ("seen", False, 2)
    (event,) = book.report(breach(message="v3 was rolled back"), at=at(20))
    assert event.kind is EventKind.OPENED


def test_a_report_is_apart_from_the_alert_of_a_rule_of_the_same_name():
    book, alert = opened()
    same = alert.breach
    assert [event.kind.value for event in book.report(same, at=at(20))] == ["opened"]
    assert len(book.select(active=True)) == 2


def test_no_evaluation_ends_a_report():
    book = AlertBook()
    book.report(breach(name="error_rate"), at=at(0))
    assert book.update([reading("calm")], at=at(10)) == []
    assert book.update([], at=at(20)) == []
    (alert,) = book.select(active=True)
    book.resolve(alert.alert_id, by="ada", at=at(30))
    assert not book.get(alert.alert_id).is_silenced


# What is stored


def test_an_alert_is_the_same_after_json():
    book, alert = opened()
    book.acknowledge(alert.alert_id, by="ada", at=at(20))
    book.resolve(alert.alert_id, by="bob", at=at(30))
    (known,) = book.select()
    assert Alert.from_dict(json.loads(json.dumps(known.to_dict()))) == known


@pytest.mark.parametrize(
    ("name", "origin"), [("feature_drift", Origin.RULE), ("rollback", Origin.REPORT)]
)
def test_an_alert_stored_before_it_had_all_keys_loads(name, origin):
    old = {
        "alert_id": "alert-1",
        "name": name,
        "severity": "warning",
        "message": "m",
        "value": None,
        "threshold": 0.3,
        "first_seen": at(0).isoformat(),
        "last_seen": at(1).isoformat(),
        "count": 7,
        "is_active": True,
        "resolved_at": None,
    }
    alert = Alert.from_dict(old)
    assert alert.origin is origin
    assert math.isnan(alert.breach.value)
    assert old.items() <= alert.to_dict().items()


def test_a_silence_survives_a_restart():
    book, alert = opened(cooldown_s=0)
    book.resolve(alert.alert_id, by="ada", at=at(20))
    book = AlertBook([Alert.from_dict(a.to_dict()) for a in book.select()], cooldown_s=0)
    assert take(book, "breach", "breach", start=30) == []


def test_an_active_alert_goes_on_after_a_restart():
    book, alert = opened()
    book = AlertBook(book.select())
    assert take(book, "breach", "calm", start=30) == ["seen", "resolved"]
    assert book.get(alert.alert_id).count == 3


def test_two_active_alerts_of_one_rule_in_a_store_become_one():
    _, alert = opened()
    book = AlertBook([alert, replace(alert, alert_id="alert-of-another-program")])
    assert take(book, "breach", start=20) == ["resolved", "seen"]
    assert len(book.select(active=True)) == 1


def test_an_active_alert_in_a_store_goes_before_a_later_one_that_is_over():
    _, alert = opened()
    over = replace(
        alert,
        alert_id="alert-of-another-program",
        first_seen=at(50).isoformat(),
        last_seen=at(60).isoformat(),
        resolved_at=at(70).isoformat(),
    )
    book = AlertBook([alert, over])
    (event,) = book.update([reading()], at=at(80))
    assert (event.kind.value, event.alert.alert_id) == ("seen", alert.alert_id)


def test_a_rule_whose_last_alert_is_forgotten_begins_anew():
    book = AlertBook(n_consecutive=1, n_resolved_kept=1)
    for name in ("a", "b", "a"):
        (event,) = book.update([reading(name=name)], at=at(0))
        assert event.kind is EventKind.OPENED
        book.update([reading("calm", name=name)], at=at(1))
    assert len(book.select()) == 1


def test_an_alert_that_was_reopened_is_not_forgotten():
    book = AlertBook(n_consecutive=1, n_resolved_kept=1)
    a, b = reading(name="a"), reading(name="b")
    calm_b = reading("calm", name="b")
    book.update([a], at=at(0))
    book.update([reading("calm", name="a")], at=at(1))
    book.update([a, b], at=at(2))
    book.update([a, calm_b], at=at(3))
    assert {alert.breach.name for alert in book.select()} == {"a", "b"}


def test_the_oldest_resolved_alerts_are_forgotten_and_active_ones_never():
    book = AlertBook(n_consecutive=1, cooldown_s=0, n_resolved_kept=3)
    book.report(breach(), at=at(0))
    for index in range(10):
        take(book, "breach", "calm", start=1 + 20 * index)
    assert [alert.breach.name for alert in book.select()] == ["rollback"] + ["error_rate"] * 3
    again = AlertBook(book.select(), n_resolved_kept=2)
    assert len(again.select()) == 3


def test_a_clock_that_goes_back_never_resolves_before_the_alert_was_seen():
    book, alert = opened()
    take(book, "calm", start=-1000)
    alert = book.get(alert.alert_id)
    assert alert.resolved_at == alert.last_seen


def test_selection_by_severity_time_and_activity():
    book, _ = opened()
    book.report(breach(), at=at(100))
    assert [a.breach.name for a in book.select(severity=CRITICAL)] == ["rollback"]
    assert [a.breach.name for a in book.select(since=at(50).isoformat())] == ["rollback"]
    assert [a.breach.name for a in book.select(since=at(100).isoformat())] == ["rollback"]
    assert len(book.select(active=True)) == 2


@pytest.mark.parametrize(
    "options", [{"n_consecutive": 0}, {"cooldown_s": -1}, {"n_resolved_kept": 0}]
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="must be 1 or more"):
        AlertBook(**options)


def test_an_event_is_told_in_plain_values():
    book = AlertBook(n_consecutive=1)
    (event,) = book.update([reading(value=math.inf)], at=at(0))
    plain = event.to_dict("ppo")
    assert (plain["event"], plain["model_name"]) == ("opened", "ppo")
    json.dumps(plain, allow_nan=False)
