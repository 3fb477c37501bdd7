"""`modelyard monitor ...`: how a model is doing, from what its monitor has stored.

Every command reads the registry's store; `ack`, `resolve` and `baseline --refresh` also write to
it. The process that serves the model keeps recording meanwhile.
"""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard._core.errors import ConflictError, NotFoundError
from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.showing import FOUND, show_json, show_line, show_pairs, show_table

if TYPE_CHECKING:
    from modelyard.monitor import ModelMonitor
    from modelyard.monitor.outputs import DriftDict, Summary
    from modelyard.version_manager import ModelVersionManager

app = typer.Typer(no_args_is_help=True, help="How a model is doing: drift, alerts, history.")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
AlertId = Annotated[str, typer.Argument(help="As `monitor alerts` shows it.")]
Since = Annotated[
    str | None, typer.Option(help="Not older than this; ISO 8601, UTC if it has no zone.")
]
Until = Annotated[str | None, typer.Option(help="Not younger than this.")]
By = Annotated[str | None, typer.Option(help="Who says so; by default whoever is logged in.")]
_SECONDS = 19


@app.command()
@on_registry
def summary(
    registry: "ModelVersionManager", model_name: ModelName, as_json: AsJson = False
) -> None:
    """Show latency, errors, drift and alerts of the last window."""
    found = _monitor(registry, model_name).get_summary()
    if as_json:
        show_json(found)
        return
    latency = found["latency"]
    show_pairs(
        {
            "predictions": found["total_predictions"],
            "last prediction": _last_prediction(found),
            "in the window": f"{found['n_window']} of {found['window_size']}",
            "latency (ms)": {
                "median": latency["median_ms"],
                "p95": latency["p95_ms"],
                "p99": latency["p99_ms"],
            },
            "error rate": found["error_rate"],
            "a second": found["throughput_qps"],
            "prediction drift": _verdict(found["drift"]["prediction"]),
            "feature drift": _verdict(found["drift"]["feature"]),
            "baseline": found["baseline"],
            "active alerts": [f"{a['severity']} {a['name']}" for a in found["active_alerts"]],
            "metrics": {name: metric["mean"] for name, metric in found["metrics"].items()},
            "versions": found["versions"],
        }
    )


@app.command()
@on_registry
def drift(
    registry: "ModelVersionManager",
    model_name: ModelName,
    top: Annotated[int, typer.Option(min=1, help="Show at most so many features.")] = 10,
    method: Annotated[
        str | None, typer.Option(help="Measure in another way, such as psi or mmd.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Another threshold, in the method's unit.")
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 3 where something has drifted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show whether predictions and features have moved, and which features most."""
    monitor = _monitor(registry, model_name)
    prediction = monitor.detect_prediction_drift(method=method, threshold=threshold)
    feature = monitor.detect_feature_drift(method=method, threshold=threshold)
    if as_json:
        show_json({"prediction": prediction, "feature": feature})
    else:
        _show_drift(prediction, feature, top)
    if exit_code and (prediction["is_drifted"] or feature["is_drifted"]):
        raise typer.Exit(FOUND)


def _show_drift(prediction: "DriftDict", feature: "DriftDict", top: int) -> None:
    from modelyard.monitor.report.view import ranked  # noqa: PLC0415 - brings SciPy

    show_line(f"predictions: {_verdict(prediction)}. {prediction['reason']}")
    show_line(f"features: {_verdict(feature)}. {feature['reason']}")
    most_moved = ranked(feature)[:top]
    if most_moved:
        keys = ("drift_score", "threshold", "p_value", "adjusted_p_value", "is_drifted")
        rows = [(row["name"], *(row.get(key) for key in keys)) for row in most_moved]
        show_table(["feature", "score", "limit", "p-value", "adjusted", "drifted"], rows)


@app.command()
@on_registry
def alerts(
    registry: "ModelVersionManager",
    model_name: ModelName,
    severity: Annotated[str | None, typer.Option(help="info, warning or critical.")] = None,
    since: Since = None,
    active: Annotated[
        bool, typer.Option("--active", help="Only those that are not over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show alerts, oldest first."""
    found = [
        alert
        for alert in _monitor(registry, model_name).get_alerts(severity, since)
        if alert["is_active"] or not active
    ]
    if as_json:
        show_json(found)
        return
    columns = ["alert", "severity", "name", "first seen", "last seen", "seen", "state", "message"]
    rows = [
        (
            alert["alert_id"],
            alert["severity"],
            alert["name"],
            _moment(alert["first_seen"]),
            _moment(alert["last_seen"]),
            alert["count"],
            _state(alert),
            alert["message"],
        )
        for alert in found
    ]
    show_table(columns, rows, whole=5)


@app.command()
@on_registry
def query(
    registry: "ModelVersionManager",
    model_name: ModelName,
    metric: Annotated[
        str, typer.Argument(help="Such as latency.p99_ms, error_rate, drift.feature.")
    ],
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show one figure of every window that is kept, oldest first."""
    points = _monitor(registry, model_name).query(metric, since, until)
    if as_json:
        show_json(points)
        return
    rows = [(_moment(p["at"]), p["value"], p["n"], p["span"]) for p in points]
    show_table(["ended", metric, "n", "span"], rows)


@app.command()
@on_registry
def baseline(
    registry: "ModelVersionManager",
    model_name: ModelName,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Make the last window the baseline first.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where it has drifted or alerts are active.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show every baseline that was set: when, by whom, from what."""
    monitor = _monitor(registry, model_name)
    if refresh:
        _refresh(monitor, force=force)
    found = monitor.baseline_history()
    if as_json:
        show_json(found)
        return
    rows = [
        (_moment(one["at"]), one["source"], one["actor"], one["forced"], one["reason"] or None)
        for one in found
    ]
    show_table(["set", "from", "by", "forced", "reason"], rows, whole=2)


@app.command()
@on_registry
def report(
    registry: "ModelVersionManager",
    model_name: ModelName,
    out: Annotated[
        Path | None, typer.Option(help="HTML file; MODEL-monitoring.html by default.")
    ] = None,
    since: Since = None,
    as_json: AsJson = False,
) -> None:
    """Write a page with history, drift and alerts that opens in any browser."""
    target = out or Path(f"{model_name}-monitoring.html")
    path = _monitor(registry, model_name).report(target, since=since)
    if as_json:
        show_json({"report": path})
    else:
        show_line(f"Report: {path}")


@app.command()
@on_registry
def ack(
    registry: "ModelVersionManager",
    model_name: ModelName,
    alert_id: AlertId,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Say that you have seen an alert."""
    monitor = _monitor(registry, model_name)
    _tell(monitor.acknowledge_alert(alert_id, by=by or _me()), as_json=as_json)
    monitor.flush()


@app.command()
@on_registry
def resolve(
    registry: "ModelVersionManager",
    model_name: ModelName,
    alert_id: AlertId,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Say that an alert is over; it stays silent until it was calm once, or is worse."""
    monitor = _monitor(registry, model_name)
    _tell(monitor.resolve_alert(alert_id, by=by or _me()), as_json=as_json)
    monitor.flush()


@app.command()
def grafana(
    out: Annotated[Path, typer.Argument(help="JSON file that Grafana imports.")],
    as_json: AsJson = False,
) -> None:
    """Write a dashboard for the figures that monitors export to Prometheus."""
    from modelyard.monitor.exporting.grafana import write_dashboard  # noqa: PLC0415 - as above

    _written("dashboard", write_dashboard(out), as_json=as_json)


@app.command("prometheus-rules")
def prometheus_rules(
    out: Annotated[Path, typer.Argument(help="YAML file for Prometheus' rule_files.")],
    as_json: AsJson = False,
) -> None:
    """Write alert rules for the figures that monitors export to Prometheus."""
    from modelyard.monitor.exporting.prometheus_rules import (  # noqa: PLC0415 - as above
        write_prometheus_rules,
    )

    _written("rules", write_prometheus_rules(out), as_json=as_json)


def _written(what: str, path: str, *, as_json: bool) -> None:
    if as_json:
        show_json({what: path})
    else:
        show_line(f"{what.capitalize()}: {path}")


def _monitor(registry: "ModelVersionManager", model_name: str) -> "ModelMonitor":
    """The monitor of this name, as the store has it.

    Raises:
        NotFoundError: Nothing of the model has been stored.
    """
    from modelyard.monitor import ModelMonitor  # noqa: PLC0415 - brings SciPy
    from modelyard.monitor.history.rows import monitored_models  # noqa: PLC0415 - brings SQL

    known = monitored_models(registry.store)
    if model_name not in known:
        named = f"Monitored are: {', '.join(known)}." if known else "No model has been monitored."
        raise NotFoundError(
            f"No monitor of {model_name!r} has stored anything here. {named} A monitor stores "
            "what it sees when it is given store=."
        )
    return ModelMonitor.opened(model_name, registry.store)


def _refresh(monitor: "ModelMonitor", *, force: bool) -> None:
    """Make the last window the baseline, and store it.

    Raises:
        ConflictError: Something speaks against it.
    """
    n_before = len(monitor.baseline_history())
    result = monitor.refresh_baseline(force=force, actor=_me())
    if not result["refreshed"]:
        reason = result["reason"].rstrip(".")
        raise ConflictError(f"The baseline stays: {reason}. --force replaces it all the same.")
    if len(monitor.baseline_history()) == n_before:
        raise ConflictError("The baseline stays: too few predictions are stored for another.")
    monitor.flush()


def _tell(alert: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(alert)
    else:
        show_line(f"{alert['alert_id']} ({alert['severity']} {alert['name']}): {_state(alert)}")


def _state(alert: Any) -> str:
    if not alert["is_active"]:
        by = alert["resolved_by"]
        return f"resolved{f' by {by}' if by else ''} {_moment(alert['resolved_at'])}"
    by = alert["acknowledged_by"]
    return f"active, acknowledged by {by}" if by else "active"


def _last_prediction(found: "Summary") -> str:
    from modelyard.monitor.outputs import ago  # noqa: PLC0415 - brings NumPy

    at, age_s = found["last_prediction_at"], found["last_prediction_age_s"]
    return "none" if at is None or age_s is None else f"{_moment(at)} UTC, {ago(age_s)}"


def _verdict(found: Any) -> str:
    if found["drift_score"] is None:
        return "no verdict"
    state = "drifted" if found["is_drifted"] else "not drifted"
    calibrated = "" if found["calibrated"] else ", not calibrated"
    score, limit = found["drift_score"], found["effective_threshold"]
    return f"{state} (score {score:.3g}, limit {limit:.3g}{calibrated})"


def _moment(at: str) -> str:
    return at[:_SECONDS].replace("T", " ")


def _me() -> str:
    return f"{getpass.getuser()} (cli)"
