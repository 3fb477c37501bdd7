"""`ModelMonitor`: watches one model's predictions and says when something is wrong."""

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, StorageError
from modelyard._core.ids import checked_name, new_id
from modelyard._core.plain import finite_or_none
from modelyard.monitor.alerting.alerts import (
    AlertDict,
    Breach,
    as_utc_text,
    breaches_of,
    checked_severity,
    checked_thresholds,
)
from modelyard.monitor.arguments import as_number, at_least_one
from modelyard.monitor.drift.baseline import (
    Baseline,
    Reference,
    baseline_of_window,
    reference_of_data,
)
from modelyard.monitor.drift.verdicts import (
    FEATURE_DRIFT,
    PREDICTION_DRIFT,
    Evaluation,
    drift_verdicts,
)
from modelyard.monitor.exporting.json_files import JsonLines, write_metrics
from modelyard.monitor.history._until_wired_journal import Journal
from modelyard.monitor.history._until_wired_rows import MonitorRows
from modelyard.monitor.outputs import (
    DriftDict,
    Summary,
    drift_dict,
    feature_drift_dict,
    latency_of,
    prediction_drift_dict,
    prediction_stats,
    throughput_of,
)
from modelyard.monitor.recording.health import Health
from modelyard.monitor.recording.requests import OpenRequests
from modelyard.monitor.recording.windows import Window, WindowData, WindowSummary
from modelyard.storage import Store

_logger = logging.getLogger(__name__)

MIN_DRIFT_SAMPLES = 200
EVALUATION_INTERVAL_S = 1.0
FLUSH_INTERVAL_S = 1.0
DURABILITIES = ("batched", "sync")


class ModelMonitor:
    """Records predictions, compares them with a baseline and keeps alerts.

    One call of `record_prediction` is one prediction; a batch of b rows in one call adds b rows
    to the distributions. Recording never raises for what it is given. Verdicts are worked out
    every `evaluate_every` predictions, at most once a second, and when something is read and since
    the last verdict `evaluate_every` predictions or a tenth of a window came, or any and a second
    has passed.

    Thread-safe: one lock guards all state and is held for copies only; a second one lets one
    thread at a time work out verdicts or write.

    Args:
        model_name: Whose predictions; also the name under which a store keeps them.
        window_size: Predictions (and rows of outputs and features) in the window.
        alert_thresholds: Any of `latency_p99_ms` (100), `error_rate` (0.05), `prediction_drift`
            and `feature_drift` (0.3 standard deviations); None switches one off.
        log_dir: Folder of `<model_name>.jsonl`, which gets a line at each evaluation.
        evaluate_every: Predictions between two evaluations.
        min_drift_samples: Rows below which there is no verdict on drift.
        feature_names: For the reports.
        output_names: For the reports.
        store: Keeps full windows, alerts and baseline, and gives them to the next monitor of this
            name.
        clock: Tells the time.
        seed: Taken as every class with state takes it; nothing here is left to chance.
        durability: `batched`: stored by `flush()`, which recording calls when the last one is a
            second old; `sync`: before the call returns.

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
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,  # noqa: ARG002 - see the docstring
        durability: str = "batched",
    ) -> None:
        self.model_name = checked_name(model_name, what="model_name")
        self.window_size = at_least_one(window_size, what="window_size")
        self._evaluate_every = at_least_one(evaluate_every, what="evaluate_every")
        self._min_drift_samples = at_least_one(min_drift_samples, what="min_drift_samples")
        if window_size < min_drift_samples:
            _logger.warning(
                "Monitor %r can give no verdict on drift: window_size %d is below the %d samples "
                "(min_drift_samples) a verdict needs.",
                model_name,
                window_size,
                min_drift_samples,
            )
        self._thresholds = checked_thresholds(alert_thresholds)
        self._feature_names, self._output_names = feature_names, output_names
        if durability not in DURABILITIES:
            raise ConfigError(f"durability must be one of {DURABILITIES}; got {durability!r}.")
        self._is_sync = durability == "sync"
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._working = Lock()
        self._window = Window(window_size)
        self._requests = OpenRequests(max(10_000, 10 * window_size))
        self._run_id = new_id("request")
        self._versions: dict[str, int] = {}
        self._journal = Journal(None if store is None else MonitorRows(store, model_name))
        self._log = None if log_dir is None else JsonLines(Path(log_dir), model_name)
        self._is_armed = False
        self._evaluation: Evaluation | None = None
        self._evaluated = (0, self._clock.monotonic_s())
        self._flushed_at_s = self._clock.monotonic_s()

    def record_prediction(
        self,
        prediction: Any,
        latency: float,
        features: Any = None,
        error: bool = False,  # noqa: FBT001, FBT002 - the document's signature
        *,
        request_id: str | None = None,
        version_id: str | None = None,
    ) -> str:
        """Record one prediction.

        What cannot be used (NaN, another width, no numbers at all) is counted in the summary's
        `odd_values` and raises an `info` alert, never an error.

        Args:
            prediction: Number, list, array or tensor, shape (outputs,) or (batch, outputs). None
                for a failed one.
            latency: Seconds.
            features: Same forms, shape (features,) or (batch, features); at most 4,096 wide.
            error: Whether it failed.
            request_id: Yours; a new one is made if there is none.
            version_id: Which version answered, for the summary's counts.

        Returns:
            The request id, for `record_outcome`.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            window = self._window
            if request_id is None:
                request_id = f"{self._run_id}-{window.n_records}"
            window.record(prediction, latency, features, error=bool(error), now_s=now_s)
            self._requests.add(request_id)
            if version_id is not None:
                self._versions[version_id] = self._versions.get(version_id, 0) + 1
            if window.is_full():
                self._close_window()
            n_evaluated, evaluated_s = self._evaluated
            is_due = (
                window.n_records - n_evaluated >= self._evaluate_every
                and now_s - evaluated_s >= EVALUATION_INTERVAL_S
            )
        if is_due:
            self._evaluate_if_free()
        if self._journal.is_stored:
            self._write_if_due(now_s)
        return request_id

    def record_outcome(self, request_id: str, metrics: Mapping[str, Any]) -> None:
        """Record what came of a prediction, when it is known. A second outcome is ignored.

        Args:
            request_id: What `record_prediction` returned.
            metrics: Numbers by name; what is not finite is counted only.

        Raises:
            RequestNotFoundError: No such prediction among those remembered (ten windows, 10,000
                at least).
            ConfigError: A metric that is no number.
        """
        values = {name: as_number(name, value) for name, value in metrics.items()}
        with self._lock:
            if self._requests.finish(request_id):
                for name, value in values.items():
                    self._window.record_metric(name, value)

    def record_metric(self, name: str, value: float) -> None:
        """Record one value of a business metric such as `sharpe`.

        Args:
            name: Of the metric.
            value: In its unit; what is not finite is counted only.

        Raises:
            ConfigError: The value is no number.
        """
        number = as_number(name, value)
        with self._lock:
            self._window.record_metric(name, number)

    def set_baseline(self, *, predictions: Any = None, features: Any = None) -> None:
        """Take what is normal from now on.

        Without arguments the current window becomes the baseline; while it holds fewer than
        `min_drift_samples` predictions, the next full window will (`baseline: "collecting"`).

        Args:
            predictions: Past predictions of any length, shape (n, outputs) or (n,), oldest
                first. From eleven windows' length on, they also calibrate the threshold.
            features: The same for features, shape (n, features).

        Raises:
            ConfigError: Data that hold no (finite) numbers, or fewer than `min_drift_samples`
                rows.
        """
        at = self._clock.now().isoformat()
        if predictions is not None or features is not None:
            self._adopt(
                self._reference(predictions, what="predictions"),
                self._reference(features, what="features"),
                at=at,
            )
        else:
            with self._lock:
                self._is_armed = self._window.n_usable() < self._min_drift_samples
                if not self._is_armed:
                    self._set_baseline_from(self._window.data(), at=at)
        if self._is_sync:
            self.flush()

    def baseline_state(self) -> dict[str, Any] | None:
        """The baseline as plain values that can travel with a version; None if there is none."""
        with self._lock:
            baseline = self._journal.baseline
        return None if baseline is None else baseline.to_plain()

    def load_baseline(self, state: Mapping[str, Any]) -> None:
        """Take a baseline that `baseline_state` gave.

        Raises:
            ConfigError: It is something else.
        """
        baseline = Baseline.from_plain(state)
        with self._lock:
            self._journal.set_baseline(baseline)
            self._is_armed = False
        if self._is_sync:
            self.flush()

    def health(self) -> Health:
        """Latency, errors and metrics of the current window; always fresh."""
        with self._lock:
            return self._window.health()

    def baseline_health(self) -> Health | None:
        """Latency, errors and metrics when the baseline was set; None if nothing was known."""
        with self._lock:
            baseline = self._journal.baseline
        return None if baseline is None else baseline.health

    @property
    def total_predictions(self) -> int:
        """Predictions recorded so far."""
        return self._window.n_records

    @property
    def baseline_status(self) -> str:
        """`none`, `collecting` (the next full window becomes the baseline) or `set`."""
        if self._is_armed:
            return "collecting"
        return "none" if self._journal.baseline is None else "set"

    def detect_prediction_drift(self) -> DriftDict:
        """Whether predictions have moved away from the baseline."""
        verdict = self._fresh().drift[PREDICTION_DRIFT]
        return prediction_drift_dict(verdict, self._output_names)

    def detect_feature_drift(self) -> DriftDict:
        """Whether features have moved away from the baseline, and which moved most."""
        verdict = self._fresh().drift[FEATURE_DRIFT]
        return feature_drift_dict(verdict, self._feature_names)

    def get_summary(self) -> Summary:
        """Everything about the current window."""
        evaluation = self._fresh()
        data = evaluation.data
        with self._lock:
            alerts = self._journal.alerts.select(active=True)
            odd_values, versions = self._window.odd_counts(), dict(self._versions)
            # Cheap, so never older than the call, whatever the age of the verdicts.
            health, n_records = self._window.health(), self._window.n_records
        return {
            "model_name": self.model_name,
            "at": evaluation.at,
            "total_predictions": n_records,
            "window_size": self.window_size,
            "n_window": health.n_predictions,
            "latency": latency_of(health),
            "throughput_qps": throughput_of(data),
            "error_rate": finite_or_none(health.error_rate),
            "prediction": prediction_stats(data.predictions),
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
            self._journal.report(breach, at=self._clock.now().isoformat())
        if self._is_sync:
            self.flush()

    def get_window_history(self) -> list[dict[str, Any]]:
        """Health of the last 20 full windows, oldest first, each with `ended_at`."""
        with self._lock:
            windows = list(self._journal.windows)
        return [{"ended_at": window.ended_at, **window.health.to_plain()} for window in windows]

    def export_metrics(self, output_path: str | Path) -> str:
        """Write summary, drift, alerts and window history as JSON; the folder is made.

        Returns:
            The path.

        Raises:
            StorageError: The path cannot be written.
        """
        metrics = {
            "summary": self.get_summary(),
            "prediction_drift": self.detect_prediction_drift(),
            "feature_drift": self.detect_feature_drift(),
            "alerts": self.get_alerts(),
            "windows": self.get_window_history(),
        }
        return write_metrics(Path(output_path), metrics)

    def flush(self) -> None:
        """Store full windows, alerts and baseline; durable on return (with a store).

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        with self._working:
            self._flushed_at_s = self._clock.monotonic_s()
            self._journal.write(at=self._clock.now().isoformat())

    def _fresh(self) -> Evaluation:
        """The last evaluation, or a new one if that is too old for a reader."""
        with self._working:
            evaluation = self._evaluation
            if evaluation is None or self._is_stale(evaluation):
                evaluation = self._evaluate()
        if self._is_sync:
            self.flush()
        return evaluation

    def _is_stale(self, evaluation: Evaluation) -> bool:
        n_new = self._window.n_records - evaluation.n_records
        age_s = self._clock.monotonic_s() - evaluation.monotonic_s
        return (
            evaluation.baseline is not self._journal.baseline
            or n_new >= min(self._evaluate_every, max(1, self.window_size // 10))
            or (n_new > 0 and age_s >= EVALUATION_INTERVAL_S)
        )

    def _evaluate_if_free(self) -> None:
        if self._working.acquire(blocking=False):
            try:
                self._evaluate()
            finally:
                self._working.release()

    def _evaluate(self) -> Evaluation:
        """Work out verdicts on a copy of the window, without holding the recorders up."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            at = self._clock.now().isoformat()
            data, baseline = self._window.data(), self._journal.baseline
            history, n_records = list(self._journal.windows), self._window.n_records
            odd_counts = self._window.odd_counts()
            self._evaluated = (n_records, now_s)
        evaluation = Evaluation(
            at=at,
            monotonic_s=now_s,
            n_records=n_records,
            baseline=baseline,
            data=data,
            drift=drift_verdicts(
                data,
                baseline,
                history,
                thresholds=self._thresholds,
                min_samples=self._min_drift_samples,
                window_size=self.window_size,
            ),
        )
        breaches = breaches_of(data.health, evaluation.drift, odd_counts, self._thresholds)
        with self._lock:
            self._evaluation = evaluation
            self._journal.note_breaches(breaches, at=at)
        self._log_evaluation(evaluation)
        return evaluation

    def _log_evaluation(self, evaluation: Evaluation) -> None:
        if self._log is None:
            return
        drift = {name: drift_dict(verdict) for name, verdict in evaluation.drift.items()}
        body = {**evaluation.data.health.to_plain(), "drift": drift}
        try:
            self._log.append("evaluation", evaluation.at, body)
        except OSError as error:
            _logger.warning("The log of monitor %r cannot be written: %s", self.model_name, error)

    def _write_if_due(self, now_s: float) -> None:
        if not self._journal.has_news:
            return
        if not self._is_sync and now_s - self._flushed_at_s < FLUSH_INTERVAL_S:
            return
        try:
            self.flush()
        except StorageError as error:
            _logger.warning("Monitor %r could not be stored: %s", self.model_name, error)

    def _close_window(self) -> None:
        data, at = self._window.data(), self._clock.now().isoformat()
        self._window.close()
        self._journal.add_window(WindowSummary.of(data, ended_at=at))
        if self._is_armed:
            self._is_armed = False
            self._set_baseline_from(data, at=at)

    def _set_baseline_from(self, data: WindowData, *, at: str) -> None:
        self._journal.set_baseline(
            baseline_of_window(data, set_at=at, min_samples=self._min_drift_samples)
        )

    def _reference(self, given: Any, *, what: str) -> Reference | None:
        if given is None:
            return None
        return reference_of_data(
            given, what=what, min_samples=self._min_drift_samples, block_size=self.window_size
        )

    def _adopt(
        self, predictions: Reference | None, features: Reference | None, *, at: str
    ) -> None:
        """Set the parts that are given; the other stays as it was."""
        with self._lock:
            old = self._journal.baseline
            health = self._window.health() if self._window.n_records else None
            self._is_armed = False
            self._journal.set_baseline(
                Baseline(
                    set_at=at,
                    predictions=predictions or (old.predictions if old else None),
                    features=features or (old.features if old else None),
                    health=health or (old.health if old else None),
                )
            )
