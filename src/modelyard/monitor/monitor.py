"""`ModelMonitor`: watches one model's predictions and says when something is wrong."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.book import COOLDOWN_S
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.alerting.rules import AlertRule, checked_rules
from modelyard.monitor.alerting.sinks import AlertSink
from modelyard.monitor.alerting.thresholds import DEFAULT_THRESHOLDS, checked_thresholds
from modelyard.monitor.arguments import at_least_one, columns_of, names_of, positive_number
from modelyard.monitor.drift.detection import DriftRule
from modelyard.monitor.drift.methods import WASSERSTEIN, default_threshold
from modelyard.monitor.drift.verdicts import FEATURE_DRIFT, PREDICTION_DRIFT
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.rows import MonitorRows
from modelyard.monitor.performance.kinds import checked_kind
from modelyard.monitor.settings import MonitorSettings
from modelyard.monitor.telling import Teller
from modelyard.storage import Store

_logger = logging.getLogger(__name__)

MIN_DRIFT_SAMPLES = 200
# What a monitor was made with, for those who open it later.
_SETTINGS = "monitor_settings"
_IS_ARMED = "is_armed"
_TOLD = (
    "window_size",
    "alert_thresholds",
    "evaluate_every",
    "min_drift_samples",
    "feature_names",
    "output_names",
    "categorical_features",
    "prediction_kind",
    "drift_method",
    "return_metrics",
    "periods_per_year",
)
DURABILITIES = ("batched", "sync")


class ModelMonitor(Teller):
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
        periods_per_year = positive_number(periods_per_year, what="periods_per_year")
        feature_names = names_of(feature_names, what="feature_names")
        categorical = columns_of(categorical_features, feature_names, what="categorical_features")
        returns = names_of(return_metrics, what="return_metrics")
        evaluate_every = at_least_one(evaluate_every, what="evaluate_every")
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
            categorical_features=frozenset(categorical),
            output_names=names_of(output_names, what="output_names"),
            return_metrics=frozenset(returns),
            periods_per_year=periods_per_year,
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
            "feature_names": list(feature_names) or None,
            "output_names": list(settings.output_names) or None,
            "categorical_features": list(categorical),
            "prediction_kind": prediction_kind,
            "drift_method": drift_method,
            "return_metrics": list(returns),
            "periods_per_year": periods_per_year,
        }
        self._store = store
        stored = store.load_snapshot(_SETTINGS, self.model_name) if store else None
        self._is_armed = bool((stored or {}).get(_IS_ARMED))
        self._stored_settings = stored

    def flush(self) -> None:
        """Store what is new; durable on return (with a store).

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        super().flush()
        now = {**self._told_settings, _IS_ARMED: self._is_armed}
        if self._store is None or self._is_looking or now == self._stored_settings:
            return
        self._store.save_snapshot(_SETTINGS, self.model_name, now, clock=self._clock)
        self._stored_settings = now

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
        known = {name: value for name, value in known.items() if name in _TOLD}
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
