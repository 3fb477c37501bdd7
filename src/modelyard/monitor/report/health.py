"""How the model is doing: the few numbers first, latency and errors, how good the answers are."""

from collections.abc import Mapping
from typing import Any

from modelyard.monitor.alerting.readings import CRITICAL_FACTOR
from modelyard.monitor.outputs import DriftDict, Summary, ago
from modelyard.monitor.performance.report import FigureDict
from modelyard.monitor.report.figures import health_figure, metrics_figure
from modelyard.monitor.report.view import MonitorView
from modelyard.reporting import Block, Chart, KeyFigures, Note, Section, Table

_INTERVAL_COLUMNS = ["figure", "value", "at least", "at most", "values"]


def overview(view: MonitorView) -> Section:
    """The few numbers a reader must see first, and what is wrong in words."""
    summary = view.summary
    active = summary["active_alerts"]
    worst = [alert for alert in active if alert["severity"] == "critical"]
    figures = [
        (
            "99th percentile of latency",
            _number(summary["latency"]["p99_ms"], " ms"),
            f"median {_number(summary['latency']['median_ms'], ' ms')}",
        ),
        ("error rate", _share(summary["error_rate"]), f"of {summary['n_window']:,} predictions"),
        ("throughput", _number(summary["throughput_qps"]), "predictions a second"),
        ("last prediction", *_last_prediction(summary)),
        _drift_card("prediction drift", view.prediction_drift),
        _drift_card("feature drift", view.feature_drift),
        ("active alerts", len(active), f"{len(worst)} critical" if active else "nothing is wrong"),
        ("baseline", summary["baseline"], _baseline_remark(view)),
    ]
    blocks: list[Block] = [KeyFigures(figures)]
    blocks += [
        _drift_note("Prediction drift", view.prediction_drift),
        _drift_note("Feature drift", view.feature_drift),
    ]
    # What has drifted is said above already.
    said = {
        name
        for name, drift in (
            ("prediction_drift", view.prediction_drift),
            ("feature_drift", view.feature_drift),
        )
        if drift["is_drifted"]
    }
    blocks += [
        Note(
            "critical" if alert["severity"] == "critical" else "warning",
            f"Alert `{alert['name']}` since {_minute(alert['first_seen'])}: "
            + alert["message"].removeprefix(f"{alert['name']}: "),
        )
        for alert in active
        if alert["severity"] != "info" and alert["name"] not in said
    ]
    return Section("Overview", "", blocks)


def health_section(view: MonitorView) -> Section:
    """Latency, errors and throughput over time; what could not be used; who answered."""
    summary = view.summary
    caption = "One point a full window; older ones an hour or a day."
    blocks: list[Block] = [Chart(health_figure(view.history), caption)]
    if not any(view.history.values()):
        blocks = [
            Note("info", f"No window of {summary['window_size']:,} predictions is full yet.")
        ]
    odd = {kind: n for kind, n in summary["odd_values"].items() if n}
    if odd:
        rows = [[kind.replace("_", " "), n] for kind, n in odd.items()]
        caption = "Values that could not be used as they were, and how often."
        blocks.append(Table(["odd values", "count"], rows, caption))
    if summary["versions"]:
        rows = [[version_id, n] for version_id, n in summary["versions"].items()]
        caption = "Predictions of each version."
        blocks.append(Table(["version", "predictions"], rows, caption, bars=["predictions"]))
    return Section("Health", "", blocks)


def performance_section(view: MonitorView) -> Section:
    """Realised and estimated quality and the business metrics, with intervals where known."""
    found = view.performance
    metrics = {
        f"{name}, {what}": figure
        for name, figures in found["metrics"].items()
        for what, figure in figures.items()
    }
    estimated = "estimated" if found["calibrated"] else "estimated, not calibrated"
    rows = [
        *_rows(found["realised"], "realised"),
        *_rows(found["estimated"], estimated),
        *_rows(metrics, "business metric"),
    ]
    if not rows:
        text = "Nothing is known yet: no outcomes, no business metrics, no probabilities."
        return Section("Performance", text)
    caption = f"With 95 % intervals. {found['n_outcomes']:,} outcomes are known."
    if found["reason"]:
        caption += f" {found['reason']}"
    if found["n_unmatched"]:
        caption += f" {found['n_unmatched']:,} came too late for their prediction."
    blocks: list[Block] = [Table(["what", *_INTERVAL_COLUMNS], rows, caption)]
    if any(name.startswith("metrics.") for name in view.history):
        blocks.append(Chart(metrics_figure(view.history)))
    return Section("Performance", "", blocks)


def _rows(figures: Mapping[str, FigureDict], what: str) -> list[list[Any]]:
    return [
        [what, name, figure["value"], figure["lower"], figure["upper"], figure["n"]]
        for name, figure in figures.items()
    ]


def _last_prediction(summary: Summary) -> tuple[str, str]:
    at, age_s = summary["last_prediction_at"], summary["last_prediction_age_s"]
    return ("—", "none yet") if at is None or age_s is None else (ago(age_s), f"{_minute(at)} UTC")


def _drift_card(label: str, drift: DriftDict) -> tuple[str, str, str]:
    if drift["drift_score"] is None:
        return label, "—", "no verdict yet"
    verdict = "drifted" if drift["is_drifted"] else "not drifted"
    remark = f"{verdict}, limit {drift['effective_threshold']:.3g}"
    return label, f"{drift['drift_score']:.3g}", remark


def _drift_note(label: str, drift: DriftDict) -> Note:
    text = f"{label}: {drift['reason']}"
    if drift["is_drifted"]:
        is_far = (drift["drift_score"] or 0.0) > CRITICAL_FACTOR * drift["effective_threshold"]
        return Note("critical" if drift["calibrated"] and is_far else "warning", text)
    return Note("info" if drift["drift_score"] is None else "good", text)


def _baseline_remark(view: MonitorView) -> str:
    if not view.baseline_history:
        return "drift is judged once there is one"
    return f"since {_minute(str(view.baseline_history[-1]['at']))}"


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _number(value: float | None, unit: str = "") -> str:
    return "—" if value is None else f"{value:,.4g}{unit}"


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.2%}"
