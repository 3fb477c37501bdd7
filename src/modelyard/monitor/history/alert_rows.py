"""Rows of alerts, of events that wait for their sink, and of baselines that were set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select

from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.history.readable import readable
from modelyard.storage.tables import alert as alert_table
from modelyard.storage.tables import alert_delivery, audit

BASELINE = "baseline"
_alert, _delivery, _audit = alert_table.c, alert_delivery.c, audit.c


@dataclass(frozen=True, kw_only=True)
class BaselineChange:
    """That a baseline was set.

    Attributes:
        at: When, ISO 8601.
        actor: By whom.
        source: From what: `window`, `data`, `history` or `version`.
        n: Rows it was made of; 0 if it has no distribution.
        replaced: When the one before it had been set; None for the first.
        is_forced: Whether something spoke against it.
        reason: What, or why it was set.
    """

    at: str
    actor: str
    source: str
    n: int
    replaced: str | None
    is_forced: bool
    reason: str

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "at": self.at,
            "actor": self.actor,
            "source": self.source,
            "n": self.n,
            "replaced": self.replaced,
            "forced": self.is_forced,
            "reason": self.reason,
        }


def read_alerts(connection: Connection, model_name: str, n: int) -> list[Alert]:
    """The `n` newest alerts, oldest first."""
    query = (
        select(_alert.body)
        .where(_alert.model_name == model_name)
        .order_by(_alert.first_seen.desc(), _alert.alert_id.desc())
        .limit(n)
    )
    found = connection.execute(query).scalars().all()
    return readable(reversed(found), Alert.from_dict, what="alert", model_name=model_name)


def write_alerts(
    connection: Connection, model_name: str, alerts: Sequence[Alert], known: Mapping[str, Alert]
) -> list[Alert]:
    """Replace alerts by what they are now, but for what others said of them meanwhile.

    Args:
        connection: Inside a writing transaction.
        model_name: Whose.
        alerts: As they are now.
        known: As they were stored when last read or written here, by id.

    Returns:
        Alerts as stored that someone else has acknowledged or resolved.
    """
    told = []
    for alert in alerts:
        mine = (_alert.model_name == model_name) & (_alert.alert_id == alert.alert_id)
        body = connection.execute(select(_alert.body).where(mine)).scalar()
        stored = None if body is None else Alert.from_dict(body)
        kept = alert
        if stored is not None:
            kept = with_word_of_others(alert, stored, known.get(alert.alert_id))
        if kept is not alert:
            told.append(kept)
        connection.execute(delete(alert_table).where(mine))
        connection.execute(insert(alert_table).values(model_name=model_name, **_values(kept)))
    return told


def with_word_of_others(alert: Alert, stored: Alert, known: Alert | None) -> Alert:
    """`alert` with the acknowledgement or the end that a person gave it elsewhere.

    Both hold for the severity they were given at: what is worse is news.

    Args:
        alert: As it is here.
        stored: As it is in the store.
        known: As it was in the store when it was last read or written here.
    """
    is_worse = alert.breach.severity.rank > stored.breach.severity.rank
    if is_worse or (known is not None and _said(known) == _said(stored)):
        return alert
    if alert.acknowledged_at is None and stored.acknowledged_at is not None:
        alert = replace(
            alert,
            acknowledged_at=stored.acknowledged_at,
            acknowledged_by=stored.acknowledged_by,
        )
    if alert.is_active and stored.resolved_by is not None:
        alert = replace(
            alert,
            resolved_at=stored.resolved_at,
            resolved_by=stored.resolved_by,
            is_silenced=stored.is_silenced,
        )
    return alert


def _said(alert: Alert) -> tuple[str | None, str | None]:
    resolved_at = None if alert.resolved_by is None else alert.resolved_at
    return alert.acknowledged_at, resolved_at


def read_deliveries(connection: Connection, model_name: str) -> list[dict[str, Any]]:
    """Events that wait for a sink, oldest first."""
    query = (
        select(_delivery.delivery_id, _delivery.sink, _delivery.event)
        .where(_delivery.model_name == model_name)
        .order_by(_delivery.seq)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def write_deliveries(
    connection: Connection,
    model_name: str,
    added: Sequence[Mapping[str, Any]],
    done: Sequence[str],
    *,
    at: str,
) -> None:
    """Add events that wait, and remove those that do not."""
    # Those that are added too: a commit may have been done though it seemed to fail.
    gone = [{"gone": key} for key in (*done, *(item["delivery_id"] for item in added))]
    if gone:
        mine = _delivery.delivery_id == bindparam("gone")
        connection.execute(delete(alert_delivery).where(mine), gone)
    rows = [
        {
            "delivery_id": item["delivery_id"],
            "model_name": model_name,
            "sink": item["sink"],
            "event": item["event"],
            "created_at": at,
        }
        for item in added
    ]
    if rows:
        connection.execute(insert(alert_delivery), rows)


def read_baseline_changes(connection: Connection, model_name: str) -> list[BaselineChange]:
    """Every baseline that was set, oldest first."""
    query = (
        select(_audit.at, _audit.actor, _audit.detail)
        .where(_audit.model_name == model_name, _audit.action == BASELINE)
        .order_by(_audit.seq)
    )
    return [
        BaselineChange(
            at=row.at,
            actor=row.actor,
            source=row.detail["source"],
            n=row.detail["n"],
            replaced=row.detail["replaced"],
            is_forced=row.detail["forced"],
            reason=row.detail["reason"],
        )
        for row in connection.execute(query)
    ]


def write_baseline_changes(
    connection: Connection, model_name: str, changes: Sequence[BaselineChange]
) -> None:
    """Append to the audit."""
    rows = []
    for change in changes:
        detail = change.to_plain()
        at, actor = detail.pop("at"), detail.pop("actor")
        rows.append(
            {
                "at": at,
                "model_name": model_name,
                "action": BASELINE,
                "actor": actor,
                "detail": detail,
            }
        )
    if rows:
        connection.execute(insert(audit), rows)


def _values(alert: Alert) -> dict[str, Any]:
    return {
        "alert_id": alert.alert_id,
        "severity": alert.breach.severity.value,
        "first_seen": alert.first_seen,
        "last_seen": alert.last_seen,
        "count": alert.count,
        "body": alert.to_dict(),
    }
