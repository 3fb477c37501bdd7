"""Judging: what is normal, whether it still is, and who is told."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelyard.monitor.alerting.alerts import Breach, Severity
from modelyard.monitor.alerting.thresholds import threshold_readings
from modelyard.monitor.arguments import positive_number
from modelyard.monitor.changes import change_points
from modelyard.monitor.drift.detection import DriftRule, detect_drift
from modelyard.monitor.drift.explaining import explain_shift
from modelyard.monitor.drift.methods import default_threshold
from modelyard.monitor.drift.verdicts import (
    FEATURE_DRIFT,
    PREDICTION_DRIFT,
    drift_verdicts,
)
from modelyard.monitor.evaluation import Evaluation
from modelyard.monitor.figures import rule_figures
from modelyard.monitor.normal import MONITOR, Normal
from modelyard.monitor.outputs import (
    DriftDict,
    PredictionStats,
    drift_dict,
    explained_by,
    feature_drift_dict,
    prediction_drift_dict,
)
from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.performance.report import Known, PerformanceDict, performance_of
from modelyard.monitor.recording.outcomes import pairs_of

_logger = logging.getLogger(__name__)

EVALUATION_INTERVAL_S = 1.0
# Thresholds that a window may be away from the last baseline somebody has set, to be the next one.
_FURTHEST = 2.0


class Judge(Normal):
    """Works out verdicts from what was recorded; `ModelMonitor` tells them."""

    def refresh_baseline(self, *, force: bool = False, actor: str = "caller") -> dict[str, Any]:
        """Make the current window the baseline unless it has drifted.

        Args:
            force: Also where it has.
            actor: Who does it, for `baseline_history`.

        Returns:
            `refreshed`, and the `reason`.
        """
        evaluation = self._fresh()
        with self._working:
            reason = self._reason_not_to_refresh(evaluation)
            if reason and not force:
                return {"refreshed": False, "reason": reason}
            at = self._clock.now().isoformat()
            self._adopt_window(at=at, actor=actor, is_forced=bool(reason), reason=reason)
        self._store_soon()
        return {"refreshed": True, "reason": reason or "nothing has drifted"}

    # ── drift ───────────────────────────────────────────────────────────────────────────────

    def detect_prediction_drift(
        self, *, method: str | None = None, threshold: float | None = None
    ) -> DriftDict:
        """Whether predictions have moved away from the baseline, and which features explain it.

        Args:
            method: Another one than the monitor's, for this call.
            threshold: Another one, in the method's unit.

        Raises:
            ConfigError: No such method.
            MissingDependencyError: `domain_classifier` needs scikit-learn.
        """
        evaluation, verdict = self._verdict(PREDICTION_DRIFT, method, threshold)
        result = prediction_drift_dict(verdict, self._settings.output_names)
        baseline, data = evaluation.baseline, evaluation.data
        if verdict.is_drifted and baseline and baseline.predictions and baseline.features:
            worst = 0 if verdict.columns is None else verdict.columns.worst
            found = explain_shift(
                worst,
                *data.paired(),
                prediction_reference=baseline.predictions,
                feature_reference=baseline.features,
            )
            result["explained_by"] = explained_by(found, self._window.reader.feature_names)
        return result

    def detect_feature_drift(
        self, *, method: str | None = None, threshold: float | None = None
    ) -> DriftDict:
        """Whether features have moved away from the baseline, and which moved most.

        Args:
            method: As `detect_prediction_drift`.
            threshold: As `detect_prediction_drift`.

        Raises:
            ConfigError: No such method.
            MissingDependencyError: `domain_classifier` needs scikit-learn.
        """
        _, verdict = self._verdict(FEATURE_DRIFT, method, threshold)
        return feature_drift_dict(verdict, self._window.reader.feature_names)

    # ── evaluating ──────────────────────────────────────────────────────────────────────────

    def work(self) -> None:
        """Evaluate, and write if the last flush is a second old."""
        if not self._working.acquire(blocking=False):
            return  # someone else is at it
        try:
            evaluation = self._evaluation
            n_new = self._window.n_records - (evaluation.n_records if evaluation else 0)
            if n_new >= self._evaluate_every:
                self._evaluate()
        finally:
            self._working.release()
        self._write_if_due()

    def _verdict(
        self, name: str, method: str | None, threshold: float | None
    ) -> tuple[Evaluation, Any]:
        evaluation = self._fresh()
        if method is None and threshold is None:
            return evaluation, evaluation.drift[name]
        usual = self._settings.drift[name]
        wanted = usual.method if method is None else method
        rule = DriftRule(
            threshold=default_threshold(wanted)
            if threshold is None
            else positive_number(threshold, what="threshold"),
            method=wanted,
            min_samples=usual.min_samples,
            window_size=usual.window_size,
            seed=usual.seed,
        )
        baseline, data, past = evaluation.baseline, evaluation.data, evaluation.past
        if name == PREDICTION_DRIFT:
            reference = baseline.predictions if baseline else None
            return evaluation, detect_drift(reference, data.predictions, past.predictions, rule)
        reference = baseline.features if baseline else None
        return evaluation, detect_drift(reference, data.features, past.features, rule)

    def _fresh(self) -> Evaluation:
        """The last evaluation, or a new one if that is too old for a reader."""
        with self._working:
            self._digest()
            evaluation = self._evaluation
            if evaluation is None or self._is_stale(evaluation):
                evaluation = self._evaluate()
        self._store_soon()
        return evaluation

    def _is_stale(self, evaluation: Evaluation) -> bool:
        n_new = self._window.n_records - evaluation.n_records
        age_s = self._clock.monotonic_s() - evaluation.monotonic_s
        return (
            evaluation.baseline is not self._journal.baseline
            or n_new >= min(self._evaluate_every, max(1, self.window_size // 10))
            or (n_new > 0 and age_s >= EVALUATION_INTERVAL_S)
        )

    def _evaluate(self) -> Evaluation:
        """Work out verdicts on a copy of the window, without holding the recorders up."""
        self._digest()
        before = self._evaluation
        with self._lock:
            data, n_records = self._window.data(), self._window.n_records
            blocks, odd_counts = self._window.block_means(), self._odd_lately()
            baseline, past = self._journal.baseline, self._past()
            versions = dict(self._window.versions)
        evaluation = Evaluation(
            at=self._clock.now(),
            monotonic_s=self._clock.monotonic_s(),
            n_records=n_records,
            baseline=baseline,
            data=data,
            past=past,
            odd_counts=odd_counts,
            versions=versions,
            drift=drift_verdicts(data, baseline, past, self._settings.drift),
            changes=change_points(
                blocks,
                baseline.norms if baseline else {},
                self._names(),
                since=self._baseline_since,
            ),
        )
        n_new = n_records - self._told_at
        is_full = before is None or n_new >= self._evaluate_every
        if is_full and self._is_news(evaluation):
            # One breach alone says nothing, and the window may have filled since the last look.
            self._tell(self._earlier(evaluation))
        # The same records seen twice are no second evaluation.
        if is_full or n_new >= max(1, data.health.n_predictions // 10):
            self._tell(evaluation)
            self._told_at = n_records
        self._evaluation = evaluation
        self._log_evaluation(evaluation)
        self._refresh_if_due(evaluation)
        return evaluation

    def _earlier(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation of the window without its newest records."""
        data = evaluation.data.without_newest(
            min(self._evaluate_every, max(1, evaluation.data.health.n_predictions // 10))
        )
        drift = drift_verdicts(data, evaluation.baseline, evaluation.past, self._settings.drift)
        return evaluation.of(data, drift)

    def _is_news(self, evaluation: Evaluation) -> bool:
        """Whether it would open an alert if it were the second in breach."""
        readings = self._readings(evaluation)
        with self._lock:
            return self._journal.alerts.would_open(readings)

    def _tell(self, evaluation: Evaluation) -> None:
        if self._is_looking:
            return
        readings = self._readings(evaluation)
        with self._lock:
            events = self._journal.note_readings(readings, at=evaluation.at)
        self._send(events)

    def _readings(self, evaluation: Evaluation) -> list[Any]:
        settings = self._settings
        readings = threshold_readings(
            evaluation.data.health,
            evaluation.drift,
            evaluation.odd_counts,
            settings.thresholds,
            began_at=evaluation.began_at(),
        )
        if settings.rules:
            figures = rule_figures(
                evaluation, self._performance(evaluation), self._prediction_stats(evaluation)
            )
            readings += [rule.reading(figures) for rule in settings.rules]
        return readings

    def _prediction_stats(self, evaluation: Evaluation) -> PredictionStats:
        if self._kind(evaluation.data.predictions) is not PredictionKind.CLASS:
            return evaluation.prediction_stats
        with self._lock:
            labels = dict(self._window.reader.prediction_labels.by_code)
        return evaluation.class_stats(labels)

    def _performance(self, evaluation: Evaluation) -> PerformanceDict:
        settings = self._settings
        outcomes = self._window.outcomes
        with self._lock:
            kept, n_unmatched = outcomes.kept(), outcomes.n_unmatched
            labels = dict(outcomes.labels.by_code)
        predictions, truths = pairs_of(kept)
        return performance_of(
            self._kind(evaluation.data.predictions),
            evaluation.data.predictions,
            Known(predictions=predictions, truths=truths, labels=labels, n_unmatched=n_unmatched),
            evaluation.data.metrics,
            output_names=settings.output_names,
            return_metrics=settings.return_metrics,
            periods_per_year=settings.periods_per_year,
        )

    def _log_evaluation(self, evaluation: Evaluation) -> None:
        if self._log is None:
            return
        drift = {name: drift_dict(verdict) for name, verdict in evaluation.drift.items()}
        body = {**evaluation.data.health.to_plain(), "drift": drift}
        try:
            self._log.append("evaluation", evaluation.at.isoformat(), body)
        except OSError as error:
            _logger.warning("The log of monitor %r cannot be written: %s", self.model_name, error)

    def _reason_not_to_refresh(self, evaluation: Evaluation) -> str:
        """Why the window is not to become the baseline; empty if nothing speaks against it."""
        if evaluation.data.health.n_predictions < self.window_size:
            return f"the window is not full: {evaluation.data.health.n_predictions} predictions"
        for name, verdict in evaluation.drift.items():
            if verdict.is_drifted or verdict.problem:
                return f"{name}: {verdict.reason}"
        with self._lock:
            active = self._journal.alerts.select(active=True)
        urgent = [a.breach.name for a in active if a.breach.severity.rank > Severity.INFO.rank]
        return f"alerts are active: {', '.join(urgent)}" if urgent else ""

    def _refresh_if_due(self, evaluation: Evaluation) -> None:
        every = self._settings.refresh_every
        if self._is_looking or every is None or self._windows_since_baseline < every:
            return
        if self._journal.baseline is None or self._reason_not_to_refresh(evaluation):
            return
        if self._has_wandered(evaluation):
            self._windows_since_baseline = 0  # asked again after as many windows
            return
        at = self._clock.now().isoformat()
        self._adopt_window(at=at, actor=MONITOR, reason=f"every {every} windows")

    def _has_wandered(self, evaluation: Evaluation) -> bool:
        """Whether the window is far from what somebody once called normal; tells it if so.

        A drift that is slow enough is none from one baseline to the next, and any distance in all.
        """
        rules = {
            name: replace(rule, threshold=_FURTHEST * rule.threshold)
            for name, rule in self._settings.drift.items()
        }
        verdicts = drift_verdicts(evaluation.data, self._anchor, evaluation.past, rules)
        if self._anchor is None or not any(one.is_drifted for one in verdicts.values()):
            return False
        breach = Breach(
            name="baseline_refresh",
            severity=Severity.WARNING,
            value=math.nan,
            threshold=math.nan,
            message="The baseline is not refreshed any more: the window is far from the one that "
            f"was set on {self._anchor.set_at[:10]}. If this is normal now, call set_baseline().",
        )
        with self._lock:
            events = self._journal.report(breach, at=evaluation.at)
        self._send(events)
        return True

    def _names(self) -> dict[str, Sequence[str]]:
        return {
            "latency_ms": ("latency",),
            "error_rate": ("error_rate",),
            "prediction": self._settings.output_names,
            "feature": self._window.reader.feature_names,
        }
