"""Monitors as a command sees them: from the store, beside the process that records.

That process alone decides what is an alert: it knows its thresholds and rules, and a command does
not. So a command takes alerts from the store as they are, and stores nothing of what the monitor
that it opens works out.
"""

import getpass
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard._core.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from modelyard.monitor import ModelMonitor
    from modelyard.monitor.alerting.alerts import AlertDict
    from modelyard.monitor.history.journal import Journal
    from modelyard.monitor.history.queries import Point
    from modelyard.monitor.report import MonitorView
    from modelyard.storage import Store

_WINDOW_SIZE = 1000


def opened_monitor(
    store: "Store", model_name: str, config: Path | None, window_size: int | None
) -> "ModelMonitor":
    """A monitor with the window, the past and the baseline that are stored.

    Args:
        store: Where.
        model_name: Whose.
        config: YAML file whose section monitoring holds its options, if not the defaults.
        window_size: Predictions to look at; by default as the file says, or else as many as the
            last window stored holds.

    Raises:
        NotFoundError: No monitor of this model has stored anything.
        ConfigError: The file breaks a rule.
    """
    from modelyard.monitor import ModelMonitor  # noqa: PLC0415 - brings SciPy

    check_monitored(store, model_name)
    options: dict[str, Any] = {}
    if config is not None:
        from modelyard._core.config import load_config  # noqa: PLC0415 - brings pydantic

        options = dict(load_config(config).monitoring.options())
        # The process that records writes its log.
        options.pop("log_dir", None)
    if window_size is not None or "window_size" not in options:
        options["window_size"] = window_size or _stored_window_size(store, model_name)
    return ModelMonitor(model_name, store=store, background=False, **options)


def check_monitored(store: "Store", model_name: str) -> None:
    """Refuse a model of which no monitor has stored anything.

    Raises:
        NotFoundError: It is none; the message names those there are.
    """
    from modelyard.monitor.history.rows import monitored_models  # noqa: PLC0415 - brings SciPy

    known = monitored_models(store)
    if model_name not in known:
        those = f"Monitored are: {', '.join(known)}." if known else "No model is yet."
        raise NotFoundError(
            f"No monitor of {model_name!r} has stored anything here. {those} "
            "ModelMonitor(name, store=...) stores what it sees."
        )


def journal_of(store: "Store", model_name: str) -> "Journal":
    """What the monitors of a model have stored.

    Raises:
        NotFoundError: No monitor of this model has stored anything.
    """
    from modelyard.monitor.history.journal import Journal  # noqa: PLC0415 - brings SciPy
    from modelyard.monitor.history.rows import MonitorRows  # noqa: PLC0415 - as above

    check_monitored(store, model_name)
    return Journal(MonitorRows(store, model_name))


def stored_alerts(
    journal: "Journal",
    *,
    severity: str | None = None,
    since: str | None = None,
    active: bool = False,
) -> list["AlertDict"]:
    """Alerts as the process that records has stored them, oldest first.

    Args:
        journal: Of the model.
        severity: Only of this one.
        since: Only those seen at this time or later; ISO 8601, no zone means UTC.
        active: Only those that are not resolved.

    Raises:
        ConfigError: No such severity, or a `since` that is no time.
    """
    from modelyard.monitor.alerting.alerts import (  # noqa: PLC0415 - brings SciPy
        as_utc_text,
        checked_severity,
    )

    found = journal.alerts.select(
        severity=checked_severity(severity), since=as_utc_text(since), active=active
    )
    return [alert.to_dict() for alert in found]


def acknowledged(store: "Store", model_name: str, alert_id: str, *, by: str) -> "AlertDict":
    """Note that someone has seen an alert; the process that records hears of it.

    Raises:
        NotFoundError: No such alert, or no such monitor.
    """
    journal, at = journal_of(store, model_name), datetime.now(UTC)
    journal.acknowledge(alert_id, by=by, at=at)
    journal.write(at=at)
    return journal.alerts.get(alert_id).to_dict()


def resolved(store: "Store", model_name: str, alert_id: str, *, by: str) -> "AlertDict":
    """Say that an alert is over; the process that records hears of it.

    Raises:
        NotFoundError: No such alert, or no such monitor.
    """
    journal, at = journal_of(store, model_name), datetime.now(UTC)
    journal.resolve(alert_id, by=by, at=at)
    journal.write(at=at)
    return journal.alerts.get(alert_id).to_dict()


def refresh_baseline(monitor: "ModelMonitor", store: "Store", *, force: bool) -> Mapping[str, Any]:
    """Make the stored window the baseline, unless it has drifted, and store that alone.

    Raises:
        ConflictError: It has drifted and `force` is not given, or it holds too few predictions.
    """
    from modelyard.monitor.drift.baseline import Baseline  # noqa: PLC0415 - brings SciPy

    before = monitor.baseline_state()
    result = monitor.refresh_baseline(force=force, actor=whoever())
    state = monitor.baseline_state()
    if not result["refreshed"]:
        raise ConflictError(
            f"The baseline stays as it was: {result['reason']}. --force replaces it all the same."
        )
    if state is None or state == before:
        raise ConflictError("The baseline stays as it was: too few predictions are stored.")
    journal, change = journal_of(store, monitor.model_name), monitor.baseline_history()[-1]
    journal.set_baseline(
        Baseline.from_plain(state),
        source=change["source"],
        actor=change["actor"],
        is_forced=change["forced"],
        reason=change["reason"],
    )
    journal.write(at=datetime.now(UTC))
    return result


def stored_points(
    journal: "Journal", metric: str, since: str | None = None, until: str | None = None
) -> list["Point"]:
    """One figure of every window stored, oldest first.

    Args:
        journal: Of the model.
        metric: Such as `latency.p99_ms`.
        since: Only of windows that ended at this time or later; ISO 8601, no zone means UTC.
        until: Only of those that ended at this time or before.

    Raises:
        ConfigError: No such figure, or a time that is none.
    """
    from modelyard.monitor.alerting.alerts import as_utc_text  # noqa: PLC0415 - brings SciPy

    return journal.query(metric, as_utc_text(since), as_utc_text(until))


def view_beside(
    monitor: "ModelMonitor", store: "Store", *, since: str | None = None
) -> "MonitorView":
    """What a report shows, with history and alerts as they are stored.

    Raises:
        ConfigError: A `since` that is no time.
    """
    from modelyard.monitor.report import view_of  # noqa: PLC0415 - brings SciPy

    journal = journal_of(store, monitor.model_name)
    view = view_of(monitor, since=since, query=partial(stored_points, journal, since=since))
    return replace(
        view,
        summary={**view.summary, "active_alerts": stored_alerts(journal, active=True)},
        alerts=stored_alerts(journal, since=since),
    )


def whoever() -> str:
    """Who gives this command."""
    return f"{getpass.getuser()} (cli)"


def _stored_window_size(store: "Store", model_name: str) -> int:
    """Predictions in the window that was stored last."""
    from modelyard.monitor.history.rows import MonitorRows  # noqa: PLC0415 - brings SciPy
    from modelyard.monitor.history.summaries import WINDOW  # noqa: PLC0415 - as above

    newest = MonitorRows(store, model_name).windows(1)
    if newest and newest[0].span == WINDOW and newest[0].health.n_predictions > 0:
        return newest[0].health.n_predictions
    return _WINDOW_SIZE
