"""Alerts that are reported from outside, and who answers them."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import Breach, EventKind, Severity
from modelyard.monitor.alerting.book import N_REPORTED, AlertBook


def at(seconds):
    return datetime(2024, 6, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def breach(name="rollback", message="v2 was rolled back"):
    return Breach(
        name=name,
        severity=Severity.CRITICAL,
        value=math.nan,
        threshold=math.nan,
        message=message,
    )


def test_reports_that_differ_each_time_do_not_pile_up():
    book = AlertBook()
    first = book.report(breach(message="0"), at=at(0))[0].alert
    for number in range(1, N_REPORTED):
        book.report(breach(message=str(number)), at=at(number))
    book.report(breach("another"), at=at(200))
    book.report(breach(message="0"), at=at(201))  # seen again, so no longer the oldest
    resolved, opened = book.report(breach(message="new"), at=at(202))
    assert (resolved.kind, opened.kind) == (EventKind.RESOLVED, EventKind.OPENED)
    assert (resolved.alert.breach.message, resolved.alert.resolved_by) == ("1", "monitor")
    active = book.select(active=True)
    assert len(active) == N_REPORTED + 1
    assert first.alert_id in {alert.alert_id for alert in active}


def test_more_reports_than_that_from_before_go_with_the_next_one():
    stored = [
        replace(AlertBook().report(breach(message=str(i)), at=at(i))[0].alert, count=2)
        for i in range(N_REPORTED + 20)
    ]
    book = AlertBook(stored)
    events = book.report(breach(message="new"), at=at(500))
    assert [event.kind.value for event in events] == ["resolved"] * 21 + ["opened"]
    assert len(book.select(active=True)) == N_REPORTED


@pytest.mark.parametrize("method", ["acknowledge", "resolve"])
@pytest.mark.parametrize("by", [None, 5, object()])
def test_who_did_it_is_text(method, by):
    book = AlertBook()
    alert = book.report(breach(), at=at(0))[0].alert
    with pytest.raises(ConfigError, match="by must be text"):
        getattr(book, method)(alert.alert_id, by=by, at=at(100))
    assert book.get(alert.alert_id) == alert


def test_what_is_reported_is_text():
    for odd in (breach(message=5), breach(name=None)):
        with pytest.raises(ConfigError, match="must be text"):
            AlertBook().report(odd, at=at(0))
