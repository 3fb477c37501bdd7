"""`ModelMonitor`: watches one model's predictions and says when something is wrong."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard._core.plain import finite_or_none
from modelyard.monitor.alerting.alerts import (
    AlertDict,
    Breach,
    as_utc_text,
    checked_severity,
)
from modelyard.monitor.alerting.book import COOLDOWN_S
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.alerting.queues import DeliveryDict
from modelyard.monitor.alerting.rules import AlertRule, checked_rules
from modelyard.monitor.alerting.sinks import AlertSink
from modelyard.monitor.alerting.thresholds import DEFAULT_THRESHOLDS, checked_thresholds
from modelyard.monitor.arguments import at_least_one, names_of
from modelyard.monitor.changes import ChangeDict
from modelyard.monitor.drift.detection import DriftRule
from modelyard.monitor.drift.methods import WASSERSTEIN, default_threshold
from modelyard.monitor.drift.verdicts import FEATURE_DRIFT, PREDICTION_DRIFT
from modelyard.monitor.exporting.figures import Figures
from modelyard.monitor.exporting.gathering import figures_of
from modelyard.monitor.exporting.json_files import write_file, write_metrics
from modelyard.monitor.history.chunks import pack, unpack
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.rows import MonitorRows
from modelyard.monitor.judging import Judge
from modelyard.monitor.outputs import (
    DistributionDict,
    Summary,
    distributions_of,
    drift_dict,
    latency_of,
    throughput_of,
)
from modelyard.monitor.performance.kinds import checked_kind
from modelyard.monitor.performance.report import PerformanceDict
from modelyard.monitor.recording.deltas import Delta, Mark, delta_since, take
from modelyard.monitor.recording.health import Health
from modelyard.monitor.settings import MonitorSettings
from modelyard.storage import Store

_logger = logging.getLogger(__name__)

MIN_DRIFT_SAMPLES = 200
# What a monitor was made with, for those who open it later.
_SETTINGS = "monitor_settings"
DURABILITIES = ("batched", "sync")


class ModelMonitor(Judge):
    """Records predictions, compares them with a baseline and keeps alerts.

    One call of `record_prediction` is one prediction; a batch of b rows in one call adds b rows
    to the distributions. Recording never raises for what it is given. Verdicts are worked out by
    a thread after every `evaluate_every` predictions, and when something is read and since the
    last verdict `evaluate_every` predictions or a tenth of a window came, or any and a second has
    passed.

    Thread-safe: one lock guards all state and is held for copies only; a second one lets one
    thread at a time work out verdicts or write.

    Args:
        model_name: Whose predictions; also the name under which a store keeps them.
        window_size: Predictions (and rows of outputs and features) in the window.
        alert_thresholds: Any of `latency_p99_ms` (100), `error_rate` (0.05), `prediction_drift`
            and `feature_drift` (0.3 standard deviations, or what `drift_method` has); None
            switches one off.
        log_dir: Folder of `<model_name>.jsonl`, which gets a line at each evaluation.
        evaluate_every: Predictions between two evaluations.
        min_drift_samples: Rows below which there is no verdict on drift.
        feature_names: For the reports, and the order of features that are given by name.
        output_names: For the reports.
        categorical_features: Names or positions of features whose numbers are categories. Text is
            always one.
        prediction_kind: `number`, `class` (numbers or text), `probabilities` (a row of chances,
            or the chance of the second of two classes); `auto` takes text for a class and rows
            that add up to 1 for probabilities.
        drift_method: `wasserstein`, `ks`, `psi`, `js`, `hellinger` column by column;
            `domain_classifier` or `mmd` for all columns at once.
        alert_rules: Further rules, over any figure.
        sinks: Who is told of alerts.
        alert_cooldown_s: Seconds in which an alert that comes back is the same alert.
        return_metrics: Metrics that are returns: `get_performance` gives their Sharpe ratio.
        periods_per_year: For annualising Sharpe ratios; 252 for daily returns.
        refresh_baseline_every: Full windows after which a window in which nothing has drifted and
            no alert is active becomes the baseline; None for never.
        background: Whether a thread works out verdicts; otherwise recording does.
        store: Keeps windows, alerts, baseline and what was recorded, and gives them to the next
            monitor of this name.
        clock: Tells the time.
        seed: Of what the joint drift methods draw, and of the waits of failed sinks.
        durability: `batched`: stored when the last flush is a second old; `sync`: before the call
            returns.

    Raises:
        ConfigError: An argument breaks its rule.
    """

    def __init__(
        self,
        model_name: str,
        window_size: int = 1000,
        alert_thresholds: Mapping[str, float | None] | None = None,
        *,
        log_dir: str | Path | None = None,
        evaluate_every: int = 100,
        min_drift_samples: int = MIN_DRIFT_SAMPLES,
        feature_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        categorical_features: Sequence[str | int] = (),
        prediction_kind: str = "auto",
        drift_method: str = WASSERSTEIN.name,
        alert_rules: Sequence[AlertRule] = (),
        sinks: Sequence[AlertSink] = (),
        alert_cooldown_s: float = COOLDOWN_S,
        return_metrics: Sequence[str] = ("return",),
        periods_per_year: float = 1.0,
        refresh_baseline_every: int | None = None,
        background: bool = True,
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        durability: str = "batched",
    ) -> None:
        if durability not in DURABILITIES:
            raise ConfigError(f"durability must be one of {DURABILITIES}; got {durability!r}.")
        if not periods_per_year > 0.0:
            raise ConfigError(f"periods_per_year must be above 0, got {periods_per_year!r}.")
        window_size = at_least_one(window_size, what="window_size")
        min_drift_samples = at_least_one(min_drift_samples, what="min_drift_samples")
        _warn_of_short_window(model_name, window_size, min_drift_samples)
        thresholds = _thresholds(alert_thresholds, drift_method)
        settings = MonitorSettings(
            thresholds=thresholds,
            rules=checked_rules(alert_rules),
            drift={
                name: DriftRule(
                    threshold=thresholds[name] or default_threshold(drift_method),
                    method=drift_method,
                    min_samples=min_drift_samples,
                    window_size=window_size,
                    seed=seed or 0,
                )
                for name in (PREDICTION_DRIFT, FEATURE_DRIFT)
            },
            kind=checked_kind(prediction_kind),
            categorical_features=frozenset(categorical_features),
            output_names=names_of(output_names, what="output_names"),
            return_metrics=frozenset(return_metrics),
            periods_per_year=float(periods_per_year),
            refresh_every=None
            if refresh_baseline_every is None
            else at_least_one(refresh_baseline_every, what="refresh_baseline_every"),
            is_sync=durability == "sync",
        )
        clock = clock or SystemClock()
        journal = Journal(
            None if store is None else MonitorRows(store, model_name),
            n_records=window_size,
            cooldown_s=alert_cooldown_s,
        )
        super().__init__(
            model_name,
            settings,
            window_size=window_size,
            evaluate_every=evaluate_every,
            feature_names=feature_names,
            background=background,
            clock=clock,
            journal=journal,
            dispatcher=Dispatcher(sinks, clock=clock, seed=seed, outbox=journal.deliveries),
            log_dir=log_dir,
        )
        self._told_settings: dict[str, Any] = {
            "window_size": window_size,
            "alert_thresholds": {name: thresholds[name] for name in thresholds},
            "evaluate_every": evaluate_every,
            "min_drift_samples": min_drift_samples,
            "feature_names": list(names_of(feature_names, what="feature_names")) or None,
            "output_names": list(settings.output_names) or None,
            "categorical_features": list(categorical_features),
            "prediction_kind": prediction_kind,
            "drift_method": drift_method,
            "return_metrics": list(return_metrics),
            "periods_per_year": periods_per_year,
        }
        self._store = store
        self._are_settings_stored = False

    def flush(self) -> None:
        """Store what is new; durable on return (with a store).

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        super().flush()
        if self._store is not None and not self._are_settings_stored and not self._is_looking:
            self._store.save_snapshot(
                _SETTINGS, self.model_name, self._told_settings, clock=self._clock
            )
            self._are_settings_stored = True

    @classmethod
    def opened(cls, model_name: str, store: Store) -> Self:
        """A monitor to look at what one of this name has stored, as it judges.

        Reading changes nothing in the store; acknowledging and resolving alerts does, at the next
        `flush`.

        Args:
            model_name: Whose.
            store: Where.
        """
        known = store.load_snapshot(_SETTINGS, model_name) or {}
        monitor = cls(model_name, store=store, background=False, **known)
        monitor._is_looking = True
        return monitor

    def __enter__(self) -> Self:
        """The monitor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Evaluate and store what is new, and deliver what alerts wait.

        Recording goes on working; another `close` is then due.

        Args:
            timeout_s: For the sinks.

        Returns:
            Whether every alert was delivered.

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        self._fresh()
        is_delivered = self._dispatcher.drain(timeout_s)
        self.flush()
        return is_delivered

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
        self._flush_if_sync()

    def acknowledge_alert(self, alert_id: str, *, by: str) -> AlertDict:
        """Note that someone has seen an alert.

        Raises:
            NotFoundError: No such alert.
        """
        with self._lock:
            events = self._journal.acknowledge(alert_id, by=by, at=self._clock.now())
            alert = self._journal.alerts.get(alert_id)
        self._send(events)
        self._flush_if_sync()
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
        self._flush_if_sync()
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
        return {
            "model_name": self.model_name,
            "at": evaluation.at.isoformat(),
            "total_predictions": n_records,
            "window_size": self.window_size,
            "n_window": health.n_predictions,
            "latency": latency_of(health),
            "throughput_qps": throughput_of(evaluation.data),
            "error_rate": finite_or_none(health.error_rate),
            "prediction": evaluation.prediction_stats,
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
        if self._is_stored and not self._is_looking:
            self.flush()
        self._settle()
        return self._journal.query(metric, as_utc_text(since), as_utc_text(until))

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
        return distributions_of(reference, rows, indexes, names[kind], prefix=kind)

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


def _warn_of_short_window(model_name: str, window_size: int, min_drift_samples: int) -> None:
    if window_size < min_drift_samples:
        _logger.warning(
            "Monitor %r can give no verdict on drift: window_size %d is below the %d samples "
            "(min_drift_samples) a verdict needs.",
            model_name,
            window_size,
            min_drift_samples,
        )


def _thresholds(
    given: Mapping[str, float | None] | None, drift_method: str
) -> dict[str, float | None]:
    """The thresholds; a drift's that is not given is the method's own."""
    own = default_threshold(drift_method)
    thresholds = checked_thresholds(given)
    for name in (PREDICTION_DRIFT, FEATURE_DRIFT):
        if name not in (given or {}):
            thresholds[name] = (
                own if drift_method != WASSERSTEIN.name else DEFAULT_THRESHOLDS[name]
            )
    return thresholds
