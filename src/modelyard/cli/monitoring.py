"""`modelyard monitor ...`: what a monitor knows, from any terminal.

Commands read the registry's store. The process that records predictions, the one that holds a
`ModelMonitor` with this store, writes there at least once a second.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelyard.cli.registry import AsJson, on_registry
from modelyard.cli.showing import as_text, show_json, show_line, show_pairs, show_table
from modelyard.cli.watching import (
    acknowledged,
    journal_of,
    opened_monitor,
    refresh_baseline,
    resolved,
    stored_alerts,
    stored_points,
    view_beside,
    whoever,
)

if TYPE_CHECKING:
    from modelyard.monitor.outputs import DriftDict, Summary
    from modelyard.version_manager import ModelVersionManager

app = typer.Typer(no_args_is_help=True, help="What a monitor knows: health, drift, alerts.")

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]
AlertId = Annotated[str, typer.Argument(metavar="ALERT", help="Id of the alert.")]
By = Annotated[str | None, typer.Option(help="Who; by default whoever runs the command.")]
Since = Annotated[str | None, typer.Option(help="From this time on, such as 2024-06-01.")]
Until = Annotated[str | None, typer.Option(help="Up to this time.")]
Config = Annotated[
    Path | None, typer.Option(help="YAML file whose section monitoring holds the options.")
]
WindowSize = Annotated[
    int | None, typer.Option(min=1, help="Predictions to look at; as stored, if not given.")
]
DRIFTED = 1


@app.command()
@on_registry
def summary(
    registry: "ModelVersionManager",
    model_name: ModelName,
    config: Config = None,
    window_size: WindowSize = None,
    as_json: AsJson = False,
) -> None:
    """Show latency, errors, predictions, drift and active alerts of the last window."""
    monitor = opened_monitor(registry.store, model_name, config, window_size)
    found = monitor.get_summary()
    found["active_alerts"] = stored_alerts(journal_of(registry.store, model_name), active=True)
    if as_json:
        show_json(found)
        return
    show_pairs(_summary_pairs(found))


@app.command()
@on_registry
def drift(
    registry: "ModelVersionManager",
    model_name: ModelName,
    method: Annotated[
        str | None,
        typer.Option(help="wasserstein, ks, psi, js, hellinger, domain_classifier or mmd."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Score that may not be exceeded, in the method's unit.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Show so many features.")] = 10,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 when something has drifted.")
    ] = False,
    config: Config = None,
    window_size: WindowSize = None,
    as_json: AsJson = False,
) -> None:
    """Say whether predictions and features have moved away from the baseline."""
    monitor = opened_monitor(registry.store, model_name, config, window_size)
    found = {
        "prediction": monitor.detect_prediction_drift(method=method, threshold=threshold),
        "feature": monitor.detect_feature_drift(method=method, threshold=threshold),
    }
    if as_json:
        show_json(found)
    else:
        _show_drift(found, top)
    if exit_code and any(verdict["is_drifted"] for verdict in found.values()):
        raise typer.Exit(DRIFTED)


@app.command()
@on_registry
def alerts(
    registry: "ModelVersionManager",
    model_name: ModelName,
    severity: Annotated[
        str | None, typer.Option(help="Only these: info, warning or critical.")
    ] = None,
    since: Since = None,
    active: Annotated[bool, typer.Option("--active", help="Only those that go on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show alerts, oldest first."""
    journal = journal_of(registry.store, model_name)
    found = stored_alerts(journal, severity=severity, since=since, active=active)
    if as_json:
        show_json(found)
        return
    show_table(
        ["alert", "severity", "name", "first seen", "last seen", "times", "state", "message"],
        [
            (
                one["alert_id"],
                one["severity"],
                one["name"],
                one["first_seen"][:19],
                one["last_seen"][:19],
                one["count"],
                _state(one),
                one["message"],
            )
            for one in found
        ],
        whole=3,
    )


@app.command()
@on_registry
def ack(
    registry: "ModelVersionManager",
    model_name: ModelName,
    alert_id: AlertId,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Note that you have seen an alert: nobody is told of it again unless it gets worse."""
    found = acknowledged(registry.store, model_name, alert_id, by=by or whoever())
    _show_alert(found, as_json=as_json)


@app.command()
@on_registry
def resolve(
    registry: "ModelVersionManager",
    model_name: ModelName,
    alert_id: AlertId,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Say that an alert is over: its rule is silent until it was calm once, or is worse."""
    found = resolved(registry.store, model_name, alert_id, by=by or whoever())
    _show_alert(found, as_json=as_json)


@app.command()
@on_registry
def report(
    registry: "ModelVersionManager",
    model_name: ModelName,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("monitor.html"),
    since: Since = None,
    config: Config = None,
    window_size: WindowSize = None,
) -> None:
    """Write everything a monitor knows as one HTML page that needs no network."""
    from modelyard.monitor.report import write_page  # noqa: PLC0415 - brings SciPy

    monitor = opened_monitor(registry.store, model_name, config, window_size)
    path = write_page(view_beside(monitor, registry.store, since=since), out)
    show_line(f"Report: {path}")


@app.command()
@on_registry
def query(
    registry: "ModelVersionManager",
    model_name: ModelName,
    metric: Annotated[
        str, typer.Argument(metavar="METRIC", help="Such as latency.p99_ms or drift.feature.")
    ],
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Show one figure of every window, oldest first."""
    points = stored_points(journal_of(registry.store, model_name), metric, since, until)
    if as_json:
        show_json(points)
        return
    rows = [(p["at"][:19], p["value"], p["n"], p["span"]) for p in points]
    show_table(["at", metric, "n", "span"], rows)


@app.command()
@on_registry
def baseline(
    registry: "ModelVersionManager",
    model_name: ModelName,
    refresh: Annotated[
        bool,
        typer.Option("--refresh", help="Make the last window the baseline unless it has drifted."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --refresh: also where it has.")
    ] = False,
    config: Config = None,
    window_size: WindowSize = None,
    as_json: AsJson = False,
) -> None:
    """Show what was taken for normal, when and by whom; or take the last window for it."""
    if refresh:
        monitor = opened_monitor(registry.store, model_name, config, window_size)
        refresh_baseline(monitor, registry.store, force=force)
    journal = journal_of(registry.store, model_name)
    history = journal.baseline_history()
    if as_json:
        status = "none" if journal.baseline is None else "set"
        show_json({"baseline": status, "history": history})
        return
    rows = [
        (one["at"][:19], one["actor"], one["source"], one["n"], one["forced"], one["reason"])
        for one in history
    ]
    show_table(["at", "actor", "from", "rows", "forced", "reason"], rows)


def _summary_pairs(found: "Summary") -> dict[str, Any]:
    latency = found["latency"]
    severities = Counter(alert["severity"] for alert in found["active_alerts"])
    return {
        "model": found["model_name"],
        "predictions": f"{found['n_window']} of {found['window_size']}",
        "latency median (ms)": latency["median_ms"],
        "latency p95 (ms)": latency["p95_ms"],
        "latency p99 (ms)": latency["p99_ms"],
        "error rate": found["error_rate"],
        "predictions a second": found["throughput_qps"],
        **{f"{name} (mean)": one["mean"] for name, one in found["metrics"].items()},
        "prediction drift": _verdict(found["drift"]["prediction"]),
        "feature drift": _verdict(found["drift"]["feature"]),
        "active alerts": dict(severities) or "none",
        "baseline": found["baseline"],
    }


def _verdict(found: "DriftDict") -> str:
    score = found["drift_score"]
    if score is None:
        return f"no verdict: {found['reason']}"
    word = "drifted" if found["is_drifted"] else "not drifted"
    return f"{word}, {score:.3g} (limit {found['effective_threshold']:.3g}): {found['reason']}"


def _show_drift(found: dict[str, "DriftDict"], top: int) -> None:
    for name, verdict in found.items():
        show_line(f"{name}: {_verdict(verdict)}")
    from modelyard.monitor.report.view import ranked  # noqa: PLC0415 - brings SciPy

    columns = ranked(found["feature"])[:top]
    if columns:
        rows = [
            (c["name"], c["drift_score"], c["threshold"], c["adjusted_p_value"], c["is_drifted"])
            for c in columns
        ]
        show_table(["feature", "score", "limit", "adjusted p", "drifted"], rows)


def _show_alert(found: Any, *, as_json: bool) -> None:
    if as_json:
        show_json(found)
        return
    show_line(f"{found['alert_id']} ({found['name']}): {_state(found)}")


def _state(found: Any) -> str:
    words = ["active" if found["is_active"] else "over"]
    if found["acknowledged_by"]:
        words.append(f"seen by {found['acknowledged_by']}")
    if found["resolved_by"]:
        words.append(f"resolved by {found['resolved_by']}")
    return as_text(words)
