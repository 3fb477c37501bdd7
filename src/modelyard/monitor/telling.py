"""Telling: alerts, figures, history, files, from what recording and judging know."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.plain import finite_or_none
from modelyard.monitor.alerting.alerts import (
    AlertDict,
    Breach,
    as_utc_text,
    checked_severity,
)
from modelyard.monitor.alerting.queues import DeliveryDict
from modelyard.monitor.changes import ChangeDict
from modelyard.monitor.drift.verdicts import FEATURE_DRIFT, PREDICTION_DRIFT
from modelyard.monitor.exporting.figures import Figures
from modelyard.monitor.exporting.gathering import figures_of
from modelyard.monitor.exporting.json_files import write_file, write_metrics
from modelyard.monitor.history.chunks import pack, unpack
from modelyard.monitor.judging import Judge
from modelyard.monitor.outputs import (
    DistributionDict,
    Summary,
    distributions_of,
    drift_dict,
    latency_of,
    throughput_of,
)
from modelyard.monitor.performance.report import PerformanceDict
from modelyard.monitor.recording.deltas import Delta, Mark, delta_since, take
from modelyard.monitor.recording.health import Health


class Teller(Judge):
    """Answers questions about a model; what `ModelMonitor` gives its readers."""

    # ── alerts ──────────────────────────────────────────────────────────────────────────────

    def get_alerts(
        self, severity: str | None = None, since: datetime | str | None = None
    ) -> list[AlertDict]:
        """Alerts, oldest first, those that are over included.

        Args:
            severity: Only `info`, `warning` (over the threshold) or `critical` (over twice it).
            since: Only those seen at or after this time; text is ISO 8601, no zone means UTC.

        Raises:
            ConfigError: No such severity, or a `since` that is no time.
        """
        wanted, seen_since = checked_severity(severity), as_utc_text(since)
        self._fresh()
        with self._lock:
            alerts = self._journal.alerts.select(severity=wanted, since=seen_since)
        return [alert.to_dict() for alert in alerts]

    def raise_alert(self, name: str, *, severity: str, message: str) -> None:
        """Add an alert about something this monitor does not measure, such as a rollback.

        Args:
            name: What it is about.
            severity: `info`, `warning` or `critical`.
            message: A sentence for whoever reads it; the same one again counts as the same alert.

        Raises:
            ConfigError: No such severity.
        """
        wanted = checked_severity(severity)
        if wanted is None:
            raise ConfigError("severity must be 'info', 'warning' or 'critical', got None.")
        breach = Breach(
            name=name, severity=wanted, value=math.nan, threshold=math.nan, message=message
        )
        with self._lock:
            events = self._journal.report(breach, at=self._clock.now())
        self._send(events)
        self._store_soon()

    def acknowledge_alert(self, alert_id: str, *, by: str) -> AlertDict:
        """Note that someone has seen an alert.

        Raises:
            NotFoundError: No such alert.
        """
        with self._lock:
            events = self._journal.acknowledge(alert_id, by=by, at=self._clock.now())
            alert = self._journal.alerts.get(alert_id)
        self._send(events)
        self._store_soon()
        return alert.to_dict()

    def resolve_alert(self, alert_id: str, *, by: str) -> AlertDict:
        """Say that an alert is over; its rule is silent until it was calm once, or is worse.

        Raises:
            NotFoundError: No such alert.
        """
        with self._lock:
            events = self._journal.resolve(alert_id, by=by, at=self._clock.now())
            alert = self._journal.alerts.get(alert_id)
        self._send(events)
        self._store_soon()
        return alert.to_dict()

    def undelivered_alerts(self) -> list[DeliveryDict]:
        """What no sink has taken yet, oldest first for each sink."""
        return self._dispatcher.undelivered()

    # ── figures ─────────────────────────────────────────────────────────────────────────────

    def health(self) -> Health:
        """Latency, errors and metrics of the current window; always fresh."""
        with self._lock:
            return self._window.health()

    def get_summary(self) -> Summary:
        """Everything about the current window."""
        evaluation = self._fresh()
        with self._lock:
            alerts = self._journal.alerts.select(active=True)
            odd_values, versions = self._window.odd_counts(), dict(self._window.versions)
            # Cheap, so never older than the call, whatever the age of the verdicts.
            health, n_records = self._window.health(), self.total_predictions
            last_at, last_age_s = self._last_prediction()
        return {
            "model_name": self.model_name,
            "at": evaluation.at.isoformat(),
            "last_prediction_at": last_at,
            "last_prediction_age_s": last_age_s,
            "total_predictions": n_records,
            "window_size": self.window_size,
            "n_window": health.n_predictions,
            "latency": latency_of(health),
            "throughput_qps": throughput_of(evaluation.data, now_s=self._clock.monotonic_s()),
            "error_rate": finite_or_none(health.error_rate),
            "prediction": self._prediction_stats(evaluation),
            "metrics": health.to_plain()["metrics"],
            "drift": {
                "prediction": drift_dict(evaluation.drift[PREDICTION_DRIFT]),
                "feature": drift_dict(evaluation.drift[FEATURE_DRIFT]),
            },
            "active_alerts": [alert.to_dict() for alert in alerts],
            "baseline": self.baseline_status,
            "odd_values": odd_values,
            "versions": versions,
        }

    def _last_prediction(self) -> tuple[str | None, float | None]:
        """When the newest prediction came, ISO 8601, and its age; the lock is held."""
        times_s = self._window.records(newest=1)[2]
        if not len(times_s):
            return None, None
        age_s = max(0.0, self._clock.monotonic_s() - float(times_s[-1]))
        return (self._clock.now() - timedelta(seconds=age_s)).isoformat(), age_s

    def get_performance(self) -> PerformanceDict:
        """How good the answers are: realised, estimated before outcomes come, and business.

        Every figure with a 95 % interval that allows for values that follow one another.
        """
        return self._performance(self._fresh())

    def get_change_points(self) -> list[ChangeDict]:
        """When latency, errors, outputs and features began to change, oldest first.

        Each stream's first change since the baseline was set, from the means of every
        `evaluate_every` predictions.
        """
        return list(self._fresh().changes)

    def get_window_history(self) -> list[dict[str, Any]]:
        """Health of the last 20 full windows, oldest first, each with `ended_at`."""
        self._settle()
        with self._lock:
            windows = self._journal.recent(20)
        return [{"ended_at": window.ended_at, **window.health.to_plain()} for window in windows]

    def query(
        self,
        metric: str,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> list[Any]:
        """One figure of every full window, oldest first.

        Args:
            metric: Such as `latency.p99_ms`, `error_rate`, `drift.feature`, `metrics.sharpe`.
            since: Only of windows that ended at this time or later; text is ISO 8601.
            until: Only of those that ended at this time or before.

        Raises:
            ConfigError: No such figure, or a time that is none.
        """
        self._settle_history()
        return self._journal.query(metric, as_utc_text(since), as_utc_text(until))

    def query_each(
        self,
        metrics: Sequence[str],
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> Iterator[tuple[str, list[Any]]]:
        """Several figures of every full window, each with its name: read once, told in turn.

        A long history is read as fast for many figures as for one.

        Args:
            metrics: As `query`; one that no window has gives no points.
            since: As `query`.
            until: As `query`.

        Raises:
            ConfigError: A time that is none.
        """
        self._settle_history()
        return self._journal.query_each(metrics, as_utc_text(since), as_utc_text(until))

    def _settle_history(self) -> None:
        """Have what is full among the windows that are asked for."""
        if self._is_stored and not self._is_looking:
            self.flush()
        self._settle()

    def distributions(self, kind: str, indexes: Sequence[int]) -> list[DistributionDict]:
        """Quantiles of outputs or features in the baseline and in the window.

        Args:
            kind: `prediction` or `feature`.
            indexes: Which columns; those that are in neither are left out.

        Raises:
            ConfigError: No such kind.
        """
        names = self._names()
        if kind not in ("prediction", "feature"):
            raise ConfigError(f"kind must be 'prediction' or 'feature', got {kind!r}.")
        evaluation = self._fresh()
        baseline = evaluation.baseline
        is_feature = kind == "feature"
        rows = evaluation.data.features if is_feature else evaluation.data.predictions
        if baseline is None:
            reference = None
        else:
            reference = baseline.features if is_feature else baseline.predictions
        return distributions_of(reference, rows, indexes, names[kind], kind=kind)

    def figures(self) -> Figures:
        """What is exported to other programs: `MonitorCollector(monitor.figures)` for Prometheus.

        Reading them works nothing out anew unless a verdict is too old.
        """
        evaluation = self._fresh()
        with self._lock:
            return figures_of(
                self.model_name,
                self._window,
                evaluation,
                self._journal.alerts.select(active=True),
                self._dispatcher.states(),
                now_s=self._clock.monotonic_s(),
            )

    def packed_window(self) -> bytes:
        """What the window holds, for `absorb` of a monitor in another process."""
        with self._lock:
            delta = delta_since(
                self._window, Mark(), now_s=self._clock.monotonic_s(), now=self._now_s()
            )
        return pack(delta.arrays, delta.meta)

    def absorb(self, packed: bytes) -> None:
        """Add what another monitor's window held, as if it had been recorded here.

        Args:
            packed: What its `packed_window` gave.

        Raises:
            IntegrityError: Bytes are missing or were changed.
        """
        arrays, meta = unpack(packed)
        with self._lock:
            delta = Delta(arrays=arrays, meta=meta)
            take(self._window, delta, now_s=self._clock.monotonic_s(), now=self._now_s())
            if self._window.is_anything_full():
                self._close_what_is_full()

    def plot(
        self,
        metric: str,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> Any:
        """One figure of every full window over time, as a Plotly figure.

        Args:
            metric: As `query`.
            since: As `query`.
            until: As `query`.

        Raises:
            ConfigError: As `query`.
        """
        # Plotly is only brought where something is drawn.
        from modelyard.monitor.report import history_figure  # noqa: PLC0415

        return history_figure(self.query(metric, since, until), metric)

    def report(self, path: str | Path, *, since: datetime | str | None = None) -> str:
        """Write a page with history, drift and alerts that opens without a network.

        Args:
            path: The HTML file; its folder is made.
            since: History and alerts from this time on only.

        Returns:
            The path.

        Raises:
            ConfigError: A path that cannot be written, or a `since` that is no time.
        """
        from modelyard.monitor.report import write_report  # noqa: PLC0415 - brings Plotly

        return str(write_report(self, path, since=since))

    def export_metrics(self, output_path: str | Path) -> str:
        """Write what is known to a file; the folder is made.

        As JSON: summary, drift, performance, change points, alerts and window history. As
        Prometheus text if the name ends in `.prom`, for the node exporter.

        Returns:
            The path.

        Raises:
            StorageError: The path cannot be written.
        """
        path = Path(output_path)
        if path.suffix == ".prom":
            return write_file(path, self.to_prometheus())
        metrics = {
            "summary": self.get_summary(),
            "prediction_drift": self.detect_prediction_drift(),
            "feature_drift": self.detect_feature_drift(),
            "performance": self.get_performance(),
            "change_points": self.get_change_points(),
            "alerts": self.get_alerts(),
            "windows": self.get_window_history(),
        }
        return write_metrics(path, metrics)

    def to_prometheus(self) -> str:
        """The figures in Prometheus' text format."""
        # The client registers its own collectors when it is imported.
        from modelyard.monitor.exporting.prometheus import to_prometheus_text  # noqa: PLC0415

        return to_prometheus_text(self.figures())
