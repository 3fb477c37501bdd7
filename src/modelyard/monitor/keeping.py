"""Keeping: full windows, and what has to be found again."""

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.ending import flush_when_python_ends
from modelyard._core.errors import StorageError
from modelyard._core.worker import worker
from modelyard.monitor.alerting.alerts import AlertEvent
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.drift.past import PastSketches
from modelyard.monitor.drift.verdicts import Past, drift_verdicts
from modelyard.monitor.evaluation import Evaluation
from modelyard.monitor.exporting.json_files import JsonLines
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.recorder import Recorder
from modelyard.monitor.recording.blocks import BlockMeans
from modelyard.monitor.recording.data import WindowData
from modelyard.monitor.recording.deltas import Delta, Mark, delta_since, mark_of, take
from modelyard.monitor.settings import MonitorSettings

_logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0
# Full windows that may wait to be summarised with their distributions.
_MOST_WAITING = 20
_N_SKETCHED = 20


class Keeper(Recorder):
    """Keeps full windows and writes what is new.

    A second lock, `_working`, lets one thread at a time work out verdicts, a third, `_writing`,
    lets one write.
    """

    def __init__(
        self,
        model_name: str,
        settings: MonitorSettings,
        *,
        window_size: int,
        evaluate_every: int,
        feature_names: Sequence[str] | None,
        background: bool,
        clock: Clock | None,
        journal: Journal,
        dispatcher: Dispatcher,
        log_dir: str | Path | None,
    ) -> None:
        super().__init__(
            model_name,
            window_size=window_size,
            evaluate_every=evaluate_every,
            feature_names=feature_names,
            background=background,
            clock=clock,
        )
        self._settings = settings
        reader = self._window.reader
        reader.prediction_labels.takes_labels = settings.kind in {None, PredictionKind.CLASS}
        reader.prediction_labels.declared = self._declared_predictions
        reader.feature_labels.declared = self._declared_features
        reader.prediction_labels.usual = self._usual_predictions
        reader.feature_labels.usual = self._usual_features
        self._journal = journal
        self._is_stored = journal.is_stored
        self._dispatcher = dispatcher
        self._log = None if log_dir is None else JsonLines(Path(log_dir), model_name)
        self._working = Lock()
        self._writing = Lock()
        self._waiting: list[tuple[WindowData, str, str, bool]] = []
        self._window_began = self._clock.now().isoformat()
        # Odd values counted when the last two windows were full.
        self._odd_marks: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._is_armed = False
        self._baseline_since = 0
        # The last baseline that somebody has set; what the monitor sets follows it.
        self._anchor = journal.baseline
        self._windows_since_baseline = 0
        self._evaluation: Evaluation | None = None
        self._flushed_at_s = self._clock.monotonic_s()
        self._is_flush_asked = False
        self._is_looking = False
        self._told_at = 0
        self._past_windows: Past | None = None
        self._mark = Mark()
        self._delivery_revision = self._dispatcher.revision
        self._restore()

    def _restore(self) -> None:
        """Find the records of the last window again."""
        now_s, now = self._clock.monotonic_s(), self._now_s()
        n_total = 0
        for chunk in self._journal.chunks():
            take(self._window, Delta(arrays=chunk.arrays, meta=chunk.meta), now_s=now_s, now=now)
            n_total = max(n_total, int(chunk.meta.get("n_total", 0)))
        self._n_before = max(0, n_total - self._window.n_records)
        self._mark = mark_of(self._window)
        self._odd_marks = (self._window.odd_counts(), self._window.odd_counts())
        self._window.begin()
        if self._is_stored:
            flush_when_python_ends(self)

    def _close_window(self) -> None:
        """Called with the lock held when a window is full."""
        ended_at = self._clock.now().isoformat()
        data = self._window.data_of_full()
        if len(self._waiting) >= _MOST_WAITING:
            data = data.without_rows()  # the worker is behind: what is large must not pile up
        self._waiting.append((data, self._window_began, ended_at, self._is_armed))
        self._is_armed = False
        self._window_began = ended_at
        self._odd_marks = (self._odd_marks[1], self._window.odd_counts())
        self._window.close()

    def _after_record(self, *, is_due: bool) -> None:
        super()._after_record(is_due=is_due)
        if not self._is_stored:
            return
        if self._settings.is_sync or not self._is_background:
            self._write_if_due()
        elif not self._is_flush_asked:
            self._ask_for_flush()

    def flush_at_exit(self) -> None:
        """As `flush`, unless it only looks."""
        if not self._is_looking:
            self.flush()

    def _ask_for_flush(self) -> None:
        """Have the worker write in a second."""
        if self._is_background:
            self._is_flush_asked = True
            worker("monitors").ask(self, after_s=FLUSH_INTERVAL_S)

    def _declared_predictions(self) -> frozenset[int]:
        """Outputs that are said to hold classes."""
        if self._settings.kind is not PredictionKind.CLASS:
            return frozenset()
        return frozenset(range(max(1, self._window.predictions.width)))

    def _declared_features(self) -> frozenset[int]:
        """Features that are said to hold categories, as far as their names are known."""
        names = self._window.reader.feature_names
        return frozenset(
            one if isinstance(one, int) else names.index(one)
            for one in self._settings.categorical_features
            if isinstance(one, int) or one in names
        )

    def _usual_predictions(self) -> frozenset[int] | None:
        """Outputs that hold categories in the baseline; None where it tells of none."""
        baseline = self._journal.baseline
        reference = None if baseline is None else baseline.predictions
        return None if reference is None else frozenset(reference.categories)

    def _usual_features(self) -> frozenset[int] | None:
        """Features that do."""
        baseline = self._journal.baseline
        reference = None if baseline is None else baseline.features
        return None if reference is None else frozenset(reference.categories)

    def _odd_lately(self) -> dict[str, int]:
        """Odd values of this window and the one before; the lock is held."""
        before = self._odd_marks[0]
        return {name: n - before.get(name, 0) for name, n in self._window.odd_counts().items()}

    def _after_fork(self) -> None:
        super()._after_fork()
        self._working, self._writing = Lock(), Lock()
        self._is_flush_asked = False
        # What the parent has recorded the parent writes.
        self._journal.after_fork()
        self._mark = mark_of(self._window)
        self._waiting.clear()

    def _settle(self) -> None:
        if self._waiting:
            with self._working:
                self._digest()

    def _send(self, events: Sequence[AlertEvent]) -> None:
        """Hand what is news to the sinks; returns at once."""
        news = [event.to_dict(model_name=self.model_name) for event in events if event.is_news]
        if news:
            self._dispatcher.submit(news)

    def _digest(self) -> None:
        """Summarise the windows that have become full; called with `_working` held."""
        while self._waiting:
            with self._lock:
                data, began_at, ended_at, is_armed = self._waiting[0]
                blocks, past = self._window.block_means(), self._past()
                baseline = self._journal.baseline
            drift = drift_verdicts(data, baseline, past, self._settings.drift)
            summary = WindowSummary.of(
                data,
                started_at=began_at,
                ended_at=ended_at,
                drift={name.removesuffix("_drift"): _short(v) for name, v in drift.items()},
            )
            if is_armed:
                self._adopt_armed(data, blocks, at=ended_at)
            with self._lock:
                self._waiting.pop(0)
                self._windows_since_baseline += 1
                self._journal.add_window(summary)
                self._past_windows = None

    def _adopt_armed(self, data: WindowData, blocks: BlockMeans, *, at: str) -> None:
        """Make a window the baseline that was waited for; called with `_working` held."""

    def _past(self) -> Past:
        """The last full windows; worked out anew when there is another; the lock is held."""
        if self._past_windows is None:
            windows = self._journal.recent(_N_SKETCHED)
            self._past_windows = Past(
                predictions=PastSketches(
                    [one.predictions for one in windows if one.predictions is not None]
                ),
                features=PastSketches(
                    [one.features for one in windows if one.features is not None]
                ),
            )
        return self._past_windows

    def flush(self) -> None:
        """Store what is new; durable on return (with a store).

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        self._is_flush_asked = False
        with self._working:
            self._digest()
            self._flushed_at_s = self._clock.monotonic_s()
            with self._lock:
                self._note_records()
                self._note_deliveries()
        # Whoever reads or evaluates does not wait for the store.
        with self._writing:
            self._journal.write(at=self._clock.now())

    def _note_records(self) -> None:
        """Take what was recorded since the last flush; the lock is held."""
        mark = mark_of(self._window)
        if not self._is_stored or mark == self._mark:
            return
        delta = delta_since(
            self._window, self._mark, now_s=self._clock.monotonic_s(), now=self._now_s()
        )
        delta = Delta(arrays=delta.arrays, meta={**delta.meta, "n_total": self.total_predictions})
        if self._journal.note_records(delta):
            self._mark = mark

    def _note_deliveries(self) -> None:
        revision = self._dispatcher.revision
        if self._is_stored and revision != self._delivery_revision:
            self._delivery_revision = revision
            self._journal.note_deliveries(self._dispatcher.undelivered())

    def _now_s(self) -> float:
        return self._clock.now().timestamp()

    def _store_soon(self) -> None:
        """Have what was said stored: at once if that was asked for, or else within a second."""
        if self._is_looking:
            return
        if self._settings.is_sync:
            self.flush()
        else:
            self._after_record(is_due=False)

    def _write_if_due(self) -> None:
        if not self._is_stored or self._is_looking:
            return
        age_s = self._clock.monotonic_s() - self._flushed_at_s
        if not self._settings.is_sync and age_s < FLUSH_INTERVAL_S:
            if self._is_flush_asked:
                self._ask_for_flush()
            return
        try:
            self.flush()
        except StorageError as error:
            self._ask_for_flush()  # it may be over by then
            _logger.warning("Monitor %r could not be stored: %s", self.model_name, error)


def _short(verdict: DriftVerdict) -> dict[str, Any]:
    return {
        "score": verdict.score,
        "effective_threshold": verdict.effective_threshold,
        "is_drifted": verdict.is_drifted,
        "calibrated": verdict.is_calibrated,
    }
