"""Laws of the book of alerts, whatever happens in whatever order."""

import math
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelyard.monitor.alerting.alerts import Alert, Breach, EventKind, Origin, Severity
from modelyard.monitor.alerting.book import AlertBook
from modelyard.monitor.alerting.readings import Reading, State

START = datetime(2024, 6, 1, tzinfo=UTC)


def at(seconds):
    return START + timedelta(seconds=seconds)


def reading(state, severity, *, name):
    return Reading(
        name=name, state=state, severity=severity, value=0.2, threshold=0.05, message="m"
    )


def breach(name, severity, message):
    return Breach(
        name=name, severity=severity, value=math.nan, threshold=math.nan, message=message
    )


class BookMachine(RuleBasedStateMachine):
    """Anything may happen in any order, also a clock that goes back a little, and restarts."""

    names = ("a", "b")

    def __init__(self):
        super().__init__()
        self.options = {"n_consecutive": 2, "cooldown_s": 60.0, "n_resolved_kept": 5}
        self.book = AlertBook(**self.options)
        self.seconds = 0.0
        self.stored = {}
        self.n_breaches = 0
        self.n_counted = 0

    def note(self, events):
        for event in events:
            before = self.stored.get(event.alert.alert_id)
            self.n_counted += event.alert.count - (before.count if before else 0)
            if before is not None:
                assert event.alert.breach.severity.rank >= before.breach.severity.rank
                assert event.alert.first_seen == before.first_seen
            is_first = before is None
            assert is_first == (event.kind is EventKind.OPENED)
            self.stored[event.alert.alert_id] = event.alert

    def pass_time(self, seconds):
        self.seconds += seconds
        return at(self.seconds)

    @rule(
        states=st.tuples(st.sampled_from(State), st.sampled_from(State)),
        severities=st.tuples(st.sampled_from(Severity), st.sampled_from(Severity)),
        seconds=st.sampled_from([10.0, 40.0, 70.0, -20.0]),
    )
    def evaluate(self, states, severities, seconds):
        readings = [
            reading(state, severity, name=name)
            for name, state, severity in zip(self.names, states, severities, strict=True)
        ]
        self.n_breaches += sum(state is State.BREACH for state in states)
        self.note(self.book.update(readings, at=self.pass_time(seconds)))

    @rule(message=st.sampled_from(["m", "n"]), severity=st.sampled_from(Severity))
    def report(self, message, severity):
        self.n_breaches += 1
        self.note(self.book.report(breach("r", severity, message), at=self.pass_time(1)))

    @precondition(lambda self: self.book.select())
    @rule(data=st.data(), method=st.sampled_from(["acknowledge", "resolve"]))
    def by_hand(self, data, method):
        alert = data.draw(st.sampled_from(self.book.select()))
        self.note(getattr(self.book, method)(alert.alert_id, by="ada", at=self.pass_time(1)))

    @rule()
    def restart(self):
        alerts = [Alert.from_dict(alert.to_dict()) for alert in self.book.select()]
        self.book = AlertBook(alerts, **self.options)

    @invariant()
    def one_active_alert_of_a_rule(self):
        active = self.book.select(active=True)
        rules = [alert.breach.name for alert in active if alert.origin is Origin.RULE]
        assert len(rules) == len(set(rules))

    @invariant()
    def nothing_is_over_before_it_was_seen(self):
        for alert in self.book.select():
            assert alert.first_seen <= alert.last_seen
            assert alert.is_active or alert.resolved_at >= alert.last_seen

    @invariant()
    def no_breach_is_counted_twice(self):
        assert self.n_counted <= self.n_breaches
        assert sum(alert.count for alert in self.stored.values()) == self.n_counted

    @invariant()
    def the_events_give_the_book(self):
        for alert in self.book.select():
            assert self.stored[alert.alert_id] == alert
        active = {alert.alert_id for alert in self.book.select(active=True)}
        assert active == {a.alert_id for a in self.stored.values() if a.is_active}

    @invariant()
    def few_are_kept(self):
        assert len(self.book.select()) - len(self.book.select(active=True)) <= 5


TestBookLaws = BookMachine.TestCase
TestBookLaws.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
