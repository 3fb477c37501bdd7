"""Everything that changes in an experiment, behind one lock: results, assignment, status.

With a store the ledger sends its results there and takes in what other processes sent.
"""

import logging
from collections.abc import Mapping, Sequence
from threading import RLock
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError, ExperimentStoppedError, StorageError
from modelyard.ab_testing.assignment import Assignment
from modelyard.ab_testing.persistence import RUNNING, STOPPED, ExperimentRows, News
from modelyard.ab_testing.results import Result, Results, Snapshot, grouped

_logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 1.0
DURABILITIES = ("batched", "sync")


class Ledger:
    """The state of one experiment.

    Thread-safe: `lock`, re-entrant, guards all of it. `assignment` is immutable and replaced
    whole, so that it can be read without the lock.

    Args:
        names: The variants, in order.
        assignment: The first assignment.
        clock: Tells the time.
        durability: `batched` or `sync`.
        is_paired: Whether results that share a request id form a pair.

    Raises:
        ConfigError: Another durability.
    """

    def __init__(
        self,
        names: Sequence[str],
        assignment: Assignment,
        *,
        clock: Clock,
        durability: str,
        is_paired: bool,
    ) -> None:
        if durability not in DURABILITIES:
            raise ConfigError(
                f"durability must be one of {', '.join(DURABILITIES)}; got {durability!r}."
            )
        self.lock = RLock()
        self.assignment = assignment
        self.status = RUNNING
        self.results = Results(names)
        self._rows: ExperimentRows | None = None
        self._clock = clock
        self._is_sync = durability == "sync"
        self._is_paired = is_paired
        self._seen: set[tuple[str, str]] = set()
        self._waiting: list[Result] = []
        self._last_seq = 0
        self._flushed_at_s = clock.monotonic_s()

    @property
    def is_stored(self) -> bool:
        """Whether there is a store behind it."""
        return self._rows is not None

    def open(self, rows: ExperimentRows, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Create the experiment in a store, or take up the stored one.

        Raises:
            ExperimentExistsError: It exists and `resume` is False.
            ConfigError: It exists with other settings.
        """
        at = self._clock.now().isoformat()
        stored = rows.open(settings, self.assignment, at=at, resume=resume)
        self._rows = rows
        self.assignment = stored.assignment
        self.status = stored.status
        self._take(rows.news(after_seq=0))

    def has_seen(self, request_id: str) -> bool:
        """Whether an outcome of this request was recorded."""
        return any((request_id, name) in self._seen for name in self.results.sample_counts)

    def record(self, results: Sequence[Result]) -> None:
        """Take in what belongs to one input.

        Raises:
            ExperimentStoppedError: The experiment has ended.
            StorageError: The store refuses, with durability `sync`; nothing is lost.
        """
        with self.lock:
            self.require_running()
            fresh = self._unseen(results)
            self._add(fresh)
            if self._rows is None:
                return
            self._waiting.extend(fresh)
            if self._is_sync:
                self.flush()
            else:
                self.exchange_if_due()

    def flush(self) -> None:
        """Send what waits and take in what others sent.

        Raises:
            StorageError: The store refuses; what waits is kept for the next time.
        """
        if self._rows is None:
            return
        with self.lock:
            news = self._rows.exchange(self._waiting, after_seq=self._last_seq)
            self._waiting = []
            self._flushed_at_s = self._clock.monotonic_s()
            self._take(news)

    def exchange_if_due(self) -> None:
        """Flush when the last time is a second ago; a store that refuses is only logged."""
        if self._rows is None:
            return
        with self.lock:
            if self._clock.monotonic_s() - self._flushed_at_s < FLUSH_INTERVAL_S:
                return
            try:
                self.flush()
            except StorageError as error:
                # The caller's loop goes on; what waits is kept and flush() will say so again.
                self._flushed_at_s = self._clock.monotonic_s()
                _logger.warning("An experiment's results could not be stored: %s", error)

    def snapshot(self) -> Snapshot:
        """The running sums now, with what other processes stored up to a second ago."""
        with self.lock:
            self.exchange_if_due()
            return self.results.snapshot()

    def looks(self) -> list[Snapshot]:
        """The running sums as they were over time, and now."""
        with self.lock:
            return [*self.results.looks, self.snapshot()]

    def metrics(self) -> list[str]:
        """Every metric that was recorded, in the order of appearance."""
        with self.lock:
            self.exchange_if_due()
            return list(self.results.metrics)

    def reweight(self, weights: Mapping[str, float]) -> None:
        """Begin a weight epoch. Durable on return (with a store).

        Raises:
            ExperimentStoppedError: The experiment has ended.
        """
        at = self._clock.now()
        with self.lock:
            self.flush()
            self.require_running()
            if self._rows is None:
                self.assignment = self.assignment.reweighted(weights, at=at)
            else:
                self.assignment = self._rows.reassign(
                    lambda stored: stored.reweighted(weights, at=at)
                )

    def stop(self) -> None:
        """End the experiment. Durable on return (with a store)."""
        with self.lock:
            self.flush()
            if self._rows is not None:
                self._rows.stop()
            self.status = STOPPED

    def require_running(self) -> None:
        """Check that the experiment has not ended.

        Raises:
            ExperimentStoppedError: It has.
        """
        if self.status != RUNNING:
            raise ExperimentStoppedError(
                f"Experiment {self.assignment.test_name!r} was stopped and takes no more changes "
                "or outcomes. Start another one under a new test_name."
            )

    def _unseen(self, results: Sequence[Result]) -> list[Result]:
        fresh = []
        for result in results:
            if result.request_id is not None:
                key = (result.request_id, result.variant)
                if key in self._seen:
                    continue
                self._seen.add(key)
            fresh.append(result)
        return fresh

    def _add(self, results: Sequence[Result]) -> None:
        if self._is_paired and results:
            self.results.add_pair(results)
            return
        for result in results:
            self.results.add(result)

    def _take(self, news: News) -> None:
        self._last_seq = news.last_seq
        self.assignment = news.stored.assignment
        self.status = news.stored.status
        for group in grouped(self._unseen(news.results)):
            self._add(group)
