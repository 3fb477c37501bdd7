"""What is normal: where the baseline comes from, and how it is replaced."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import as_utc_text
from modelyard.monitor.baselines import (
    BaselineRule,
    baseline_of_data,
    baseline_of_past,
    baseline_of_window,
)
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.methods import COLUMN_METHODS, WASSERSTEIN
from modelyard.monitor.drift.verdicts import FEATURE_DRIFT
from modelyard.monitor.keeping import Keeper
from modelyard.monitor.performance.kinds import PredictionKind, kind_of
from modelyard.monitor.recording.blocks import BlockMeans
from modelyard.monitor.recording.data import WindowData
from modelyard.monitor.recording.health import Health
from modelyard.monitor.recording.labels import Labels

# Under this name a version carries its baseline.
BASELINE = "baseline"
# Who sets a baseline when nobody asked for it at the time.
MONITOR = "monitor"


class Versions(Protocol):
    """Where versions keep what is attached to them; a `ModelVersionManager` is one."""

    def attach(self, version_id: str, name: str, data: Any) -> None:
        """Add data to a version."""

    def read_attachment(self, version_id: str, name: str) -> Any:
        """What was added under this name."""


class Normal(Keeper):
    """Keeps the baseline."""

    def set_baseline(
        self,
        *,
        predictions: Any = None,
        features: Any = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        actor: str = "caller",
    ) -> None:
        """Take what is normal from now on.

        Without arguments the current window becomes the baseline; while it holds fewer than
        `min_drift_samples` predictions, the next full window will (`baseline: "collecting"`).

        Args:
            predictions: Past predictions of any length, shape (n, outputs) or (n,), oldest
                first. From eleven windows' length on, they also calibrate the limits.
            features: The same for features.
            since: The full windows of the past that ended at this time or later; text is ISO
                8601, no zone means UTC.
            until: Those that ended at this time or before.
            actor: Who does it, for `baseline_history`.

        Raises:
            ConfigError: Data that hold no (finite) numbers, or fewer than `min_drift_samples`
                rows; both data and a time; no window of that time.
        """
        at = self._clock.now().isoformat()
        has_data = predictions is not None or features is not None
        with self._working:
            if has_data and (since is not None or until is not None):
                raise ConfigError("A baseline comes from data or from the past, not from both.")
            if has_data:
                self._adopt_data(predictions, features, at=at, actor=actor)
            elif since is not None or until is not None:
                self._adopt_past(as_utc_text(since), as_utc_text(until), at=at, actor=actor)
            else:
                self._adopt_window(at=at, actor=actor)
        self._store_soon()

    def baseline_state(self) -> dict[str, Any] | None:
        """The baseline as plain values that can travel with a version; None if there is none."""
        self._settle()
        with self._lock:
            baseline = self._journal.baseline
        return None if baseline is None else baseline.to_plain()

    def load_baseline(self, state: Mapping[str, Any], *, actor: str = "caller") -> None:
        """Take a baseline that `baseline_state` gave.

        Raises:
            ConfigError: It is something else.
        """
        baseline = Baseline.from_plain(state)
        with self._working:
            self._agree_on_names(baseline)
            self._adopt(baseline, source="version", actor=actor)
        self._store_soon()

    def save_baseline(self, versions: Versions, version_id: str) -> None:
        """Store the baseline with a version, as its attachment `baseline`.

        Args:
            versions: A `ModelVersionManager`.
            version_id: Which version.

        Raises:
            ConfigError: There is no baseline yet.
            VersionNotFoundError: No such version.
        """
        state = self.baseline_state()
        if state is None:
            raise ConfigError("There is no baseline to save: call set_baseline() first.")
        versions.attach(version_id, BASELINE, state)

    def load_baseline_of(
        self, versions: Versions, version_id: str, *, actor: str = "caller"
    ) -> None:
        """Take the baseline that `save_baseline` stored with a version.

        Args:
            versions: A `ModelVersionManager`.
            version_id: Which version.
            actor: Who does it, for `baseline_history`.

        Raises:
            NotFoundError: No such version, or none was stored with it.
            ConfigError: What was stored is no baseline.
        """
        self.load_baseline(versions.read_attachment(version_id, BASELINE), actor=actor)

    def baseline_history(self) -> list[dict[str, Any]]:
        """Every baseline that was set, oldest first: when, by whom, from what."""
        self._settle()
        with self._lock:
            return self._journal.baseline_history()

    def baseline_health(self) -> Health | None:
        """Latency, errors and metrics when the baseline was set; None if nothing was known."""
        self._settle()
        with self._lock:
            baseline = self._journal.baseline
        return None if baseline is None else baseline.health

    @property
    def baseline_status(self) -> str:
        """`none`, `collecting` (the next full window becomes the baseline) or `set`."""
        self._settle()
        if self._is_armed:
            return "collecting"
        return "none" if self._journal.baseline is None else "set"

    def _agree_on_names(self, baseline: Baseline) -> None:
        """Take the names of a baseline's features, or refuse those in another order."""
        reader, names = self._window.reader, baseline.feature_names
        if not names or names == reader.feature_names:
            return
        if reader.feature_names:
            raise ConfigError(
                f"The features of this baseline are {list(names)}, those of the monitor "
                f"{list(reader.feature_names)}. Make the monitor with feature_names in the "
                "baseline's order."
            )
        reader.feature_names = names

    # ── called with `_working` held ─────────────────────────────────────────────────────────

    def _rule(
        self, predictions: NDArray[np.float64], features: NDArray[np.float64]
    ) -> BaselineRule:
        """How a baseline is made of such rows."""
        usual = self._settings.drift[FEATURE_DRIFT]
        methods = {WASSERSTEIN.name: WASSERSTEIN}
        for rule in self._settings.drift.values():
            if rule.method in COLUMN_METHODS:
                methods[rule.method] = COLUMN_METHODS[rule.method]
        reader = self._window.reader
        return BaselineRule(
            min_samples=usual.min_samples,
            window_size=self.window_size,
            block_size=self._evaluate_every,
            methods=tuple(methods.values()),
            categorical_predictions=reader.prediction_labels.columns_of(predictions),
            categorical_features=reader.feature_labels.columns_of(features),
            feature_names=reader.feature_names,
            labels={
                **reader.prediction_labels.by_code,
                **reader.feature_labels.by_code,
            },
        )

    def _adopt_armed(self, data: WindowData, blocks: BlockMeans, *, at: str) -> None:
        baseline = baseline_of_window(
            data, blocks, self._rule(data.predictions, data.features), set_at=at
        )
        self._adopt(baseline, source="window", actor="caller")

    def _kind(self, rows: Any) -> PredictionKind:
        if self._settings.kind is not None:
            return self._settings.kind
        return kind_of(
            rows, has_labels=bool(self._window.reader.prediction_labels.columns_of(rows))
        )

    def _adopt_window(
        self, *, at: str, actor: str, is_forced: bool = False, reason: str = ""
    ) -> None:
        self._digest()
        with self._lock:
            min_samples = self._settings.drift[FEATURE_DRIFT].min_samples
            self._is_armed = self._window.n_usable() < min_samples
            if self._is_armed:
                return
            data, blocks = self._window.data(), self._window.block_means()
        baseline = baseline_of_window(
            data, blocks, self._rule(data.predictions, data.features), set_at=at
        )
        self._adopt(baseline, source="window", actor=actor, is_forced=is_forced, reason=reason)

    def _adopt_data(self, predictions: Any, features: Any, *, at: str, actor: str) -> None:
        reader = self._window.reader
        labels = reader.prediction_labels
        predictions = _without_strays(reader.past(predictions, labels), labels)
        features = _without_strays(reader.past_features(features), reader.feature_labels)
        with self._lock:
            old = self._journal.baseline
            health = self._window.health() if self._window.n_records else None
        rule = self._rule(_table(predictions), _table(features))
        baseline = baseline_of_data(predictions, features, rule, old=old, health=health, set_at=at)
        self._adopt(baseline, source="data", actor=actor)

    def _adopt_past(self, since: str | None, until: str | None, *, at: str, actor: str) -> None:
        self._digest()
        with self._lock:
            windows = self._journal.windows_between(since, until)
            data = self._window.data()
        if not windows:
            raise ConfigError(
                f"No full window ended between {since or 'the beginning'} and {until or 'now'}. "
                "get_window_history() lists those there are."
            )
        baseline = baseline_of_past(
            {
                "prediction": [w.predictions for w in windows if w.predictions is not None],
                "feature": [w.features for w in windows if w.features is not None],
            },
            self._rule(data.predictions, data.features),
            health=windows[-1].health,
            set_at=at,
        )
        self._adopt(baseline, source="history", actor=actor)

    def _adopt(
        self,
        baseline: Baseline,
        *,
        source: str,
        actor: str,
        is_forced: bool = False,
        reason: str = "",
    ) -> None:
        with self._lock:
            self._journal.set_baseline(
                baseline, source=source, actor=actor, is_forced=is_forced, reason=reason
            )
            self._is_armed = False
            if actor != MONITOR:
                self._anchor = baseline
            self._baseline_since = self._window.n_records
            self._windows_since_baseline = 0


def _without_strays(given: Any, labels: Labels) -> Any:
    """Past rows without text among numbers; what is no rows stays as it is, to be refused."""
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "biuf" or not given.size:
        return given
    rows = _table(given)
    return labels.without_strays(rows).reshape(given.shape)


def _table(given: Any) -> NDArray[np.float64]:
    """Rows of numbers, shape (n, columns); none where there are none."""
    if not isinstance(given, np.ndarray) or not given.ndim or not given.size:
        return np.empty((0, 0))
    return given.reshape(len(given), -1)
