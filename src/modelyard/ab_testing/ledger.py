"""Everything that changes in an experiment, behind one lock: results, assignment, status.

With a store the ledger sends its results there and takes in what other processes sent.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Condition, RLock
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.ending import flush_when_python_ends
from modelyard._core.errors import ExperimentStoppedError, StorageError
from modelyard._core.forking import call_after_fork
from modelyard._core.worker import worker
from modelyard.ab_testing.durability import FLUSH_INTERVAL_S, LONGEST_PAUSE_S, check_durability
from modelyard.ab_testing.persistence import PAUSED, RUNNING, STOPPED, ExperimentRows, News
from modelyard.ab_testing.recording.results import Result, grouped
from modelyard.ab_testing.recording.snapshots import Snapshot
from modelyard.ab_testing.recording.sums import Sums
from modelyard.ab_testing.serving.assignment import Assignment

_logger = logging.getLogger(__name__)

# Without a store the history holds so many outcomes; with one, all.
N_REMEMBERED = 100_000
# In the place of a variant: an outcome of the request, whoever answered it.
ANY_VARIANT = ""


class Ledger:
    """The state of one experiment.

    Thread-safe: `lock`, re-entrant, guards all of it. `assignment` is immutable and replaced
    whole, so that it can be read without the lock. The process's worker stores what waits without
    the lock: whoever records does not wait for a store that others hold.

    Args:
        sums: Where outcomes are added up; empty.
        assignment: The first assignment.
        clock: Tells the time.
        durability: `batched` or `sync`.
        is_paired: Whether results that share a request id form a pair.

    Raises:
        ConfigError: Another durability.
    """

    def __init__(
        self,
        sums: Sums,
        assignment: Assignment,
        *,
        clock: Clock,
        durability: str,
        is_paired: bool,
    ) -> None:
        check_durability(durability)
        self.lock = RLock()
        self.assignment = assignment
        self.status = RUNNING
        self.sums = sums
        self.n_ignored = 0
        self._recent: deque[Result] = deque(maxlen=N_REMEMBERED)
        self._rows: ExperimentRows | None = None
        self._clock = clock
        self._is_sync = durability == "sync"
        self._is_paired = is_paired
        self._seen: set[tuple[str, str]] = set()
        # With planned looks and a store: the sums in the store's order, the same everywhere.
        self._in_order = sums.emptied() if sums.has_planned_looks else None
        self._seen_in_order: set[tuple[str, str]] = set()
        self._waiting: list[Result] = []
        # In a child of a fork: what is in the sums, and will come from the store as well.
        self._of_parent: Counter[Any] = Counter()
        self._last_seq = 0
        self._flushed_at_s = clock.monotonic_s()
        self._is_flush_asked = False
        self._pause_s = FLUSH_INTERVAL_S
        # While the worker stores what waits, nobody else stores or takes in anything.
        self._is_sending = False
        self._has_sent = Condition(self.lock)
        call_after_fork(self._after_fork)

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
        flush_when_python_ends(self)
        self.assignment = stored.assignment
        self.status = stored.status
        for news in rows.all_news():
            self._take(news)

    def has_seen(self, request_id: str) -> bool:
        """Whether an outcome of this request was recorded, or is not to be."""
        names = (*self.sums.sample_counts, ANY_VARIANT)
        return any((request_id, name) in self._seen for name in names)

    def leave_out(self, request_id: str) -> None:
        """Remember that the outcome of this request came and does not count."""
        with self.lock:
            self._seen.add((request_id, ANY_VARIANT))

    def record(self, results: Sequence[Result], *, is_late: bool = False) -> None:
        """Take in what belongs to one input.

        While the experiment is paused only outcomes of earlier requests are.

        Args:
            results: Of one variant, or of several on the same input.
            is_late: Whether the request was answered before.

        Raises:
            ExperimentStoppedError: The experiment has ended.
            StorageError: The store refuses, with durability `sync`; nothing is lost.
        """
        with self.lock:
            if self._is_sync and self._rows is not None:
                # What others did counts: an experiment that was stopped takes nothing more.
                self._wait_for_worker()
                self._take(self._rows.news(after_seq=self._last_seq))
            self.require_running()
            if self.status == PAUSED and not is_late:
                self.n_ignored += len(results)
                self.exchange_if_due()
                return
            fresh = self._unseen(results)
            self._add(fresh)
            if self._rows is None:
                return
            self._waiting.extend(fresh)
            if self._is_sync:
                self.flush()
            else:
                self.exchange_if_due()
                self._ask_for_flush()

    def work(self) -> None:
        """Store what waits; called by the process's worker a second after it came."""
        with self.lock:
            self._is_flush_asked = False
            if self._rows is None or self._is_sending or not self._waiting:
                return
            self._is_sending = True
            sent, rows, after_seq = tuple(self._waiting), self._rows, self._last_seq
        news = None
        try:
            news = rows.exchange(sent, after_seq=after_seq)
        except StorageError as error:
            _warn(error)
        finally:
            with self.lock:
                self._is_sending = False
                if news is None:
                    self._pause_longer()
                else:
                    self._pause_s = FLUSH_INTERVAL_S
                    del self._waiting[: len(sent)]
                    self._take(news)
                    self._note_order(sent)
                self._has_sent.notify_all()
                self._ask_for_flush()  # what came meanwhile; or the store may be there again

    def flush_at_exit(self) -> None:
        """Flush what the last second has left."""
        if self._waiting:
            self.flush()

    def flush(self) -> None:
        """Send what waits and take in what others sent.

        Raises:
            StorageError: The store refuses; what waits is kept for the next time.
        """
        if self._rows is None:
            return
        with self.lock:
            self._wait_for_worker()
            if self._waiting:
                news = self._rows.exchange(self._waiting, after_seq=self._last_seq)
            else:
                news = self._rows.news(after_seq=self._last_seq)
            sent, self._waiting = self._waiting, []
            self._flushed_at_s = self._clock.monotonic_s()
            self._pause_s = FLUSH_INTERVAL_S
            self._take(news)
            self._note_order(sent)

    def exchange_if_due(self) -> None:
        """Flush when the last time is a second ago; a store that refuses is only logged.

        Where the worker stores, only what others sent is taken in: reading waits for nobody.
        """
        if not self._is_due():
            return
        with self.lock:
            if not self._is_due():
                return  # another thread was quicker
            if self._has_worker():
                self._take_news_or_warn()
            else:
                self._flush_or_warn()

    def _ask_for_flush(self) -> None:
        """Have the worker flush in a second, if anything waits and time goes by itself."""
        if self._waiting and not self._is_flush_asked and self._has_worker():
            self._is_flush_asked = True
            worker("experiments").ask(self, after_s=self._pause_s)

    def _after_fork(self) -> None:
        """In a child: what the parent has recorded the parent stores."""
        self.lock = RLock()
        self._has_sent = Condition(self.lock)
        self._is_sending = False
        self._of_parent.update(_mark(result) for result in self._waiting)
        self._waiting = []
        self._is_flush_asked = False

    def _flush_or_warn(self) -> None:
        try:
            self.flush()
        except StorageError as error:
            # The caller's loop goes on; what waits is kept and flush() will say so again.
            self._flushed_at_s = self._clock.monotonic_s()
            self._pause_longer()
            _warn(error)

    def _pause_longer(self) -> None:
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)

    def _take_news_or_warn(self) -> None:
        if self._rows is None or self._is_sending:
            return  # who stores what waits takes in what others sent
        self._flushed_at_s = self._clock.monotonic_s()
        try:
            self._take(self._rows.news(after_seq=self._last_seq))
        except StorageError as error:
            _warn(error)

    def _has_worker(self) -> bool:
        """Whether time goes by itself, so that the worker stores what waits."""
        return not self._is_sync and isinstance(self._clock, SystemClock)

    def _wait_for_worker(self) -> None:
        """Return when nobody stores what waits; the lock is held, and let go meanwhile."""
        while self._is_sending:
            self._has_sent.wait()

    def snapshot(self) -> Snapshot:
        """The running sums now, with what other processes stored up to a second ago."""
        with self.lock:
            self.exchange_if_due()
            return self.sums.snapshot()

    def planned_looks(self) -> list[Snapshot]:
        """The running sums as they were at the planned looks that were reached."""
        with self.lock:
            if self._rows is None or self._in_order is None:
                return list(self.sums.planned_looks)
            if self._waiting:
                self._flush_or_warn()
            return list(self._in_order.planned_looks)

    def looks(self) -> list[Snapshot]:
        """The running sums as they were over time, and now."""
        with self.lock:
            return [*self.sums.looks, self.snapshot()]

    def metrics(self) -> list[str]:
        """Every metric that was recorded, in the order of appearance."""
        with self.lock:
            self.exchange_if_due()
            return list(self.sums.metrics)

    def reassign(self, change: Callable[[Assignment], Assignment]) -> None:
        """Begin a weight epoch with what `change` makes of the assignment.

        Durable on return (with a store).

        Raises:
            ExperimentStoppedError: The experiment has ended.
        """
        with self.lock:
            self.flush()
            self.require_running()
            if self._rows is None:
                self.assignment = change(self.assignment)
            else:
                self.assignment = self._rows.reassign(change)

    def set_status(self, status: str) -> None:
        """Pause, resume or end the experiment. Durable on return (with a store).

        Raises:
            ExperimentStoppedError: It has ended, and shall not stay so.
        """
        with self.lock:
            self.flush()
            if status != STOPPED:
                self.require_running()
            self.status = status if self._rows is None else self._rows.set_status(status)

    def history(self) -> Iterator[Result]:
        """Every outcome, oldest first: all that are stored, or the last 100,000 in memory."""
        self.flush()
        if self._rows is not None:
            return self._rows.history()
        with self.lock:
            return iter(list(self._recent))

    def require_running(self) -> None:
        """Check that the experiment has not ended.

        Raises:
            ExperimentStoppedError: It has.
        """
        if self.status == STOPPED:
            raise ExperimentStoppedError(
                f"Experiment {self.assignment.test_name!r} was stopped and takes no more changes "
                "or outcomes. Start another one under a new test_name."
            )

    def _is_due(self) -> bool:
        since_s = self._clock.monotonic_s() - self._flushed_at_s
        return self._rows is not None and since_s >= FLUSH_INTERVAL_S

    def _unseen(
        self, results: Sequence[Result], seen: set[tuple[str, str]] | None = None
    ) -> list[Result]:
        """Those whose request has no outcome yet; a pair's results share its request."""
        seen = self._seen if seen is None else seen
        fresh = []
        for result in results:
            if result.request_id is not None:
                variant = result.variant if self._is_paired else ANY_VARIANT
                key = (result.request_id, variant)
                if key in seen:
                    continue
                seen.add(key)
            fresh.append(result)
        return fresh

    def _add(self, results: Sequence[Result]) -> None:
        if self._rows is None:
            self._recent.extend(results)
        self._add_to(self.sums, results)

    def _add_to(self, sums: Sums, results: Sequence[Result]) -> None:
        if self._is_paired and results:
            sums.add_pair(results)
            return
        for result in results:
            sums.add(result)

    def _take(self, news: News) -> None:
        self._last_seq = news.last_seq
        self.assignment = news.stored.assignment
        self.status = news.stored.status
        others = [result for result in news.results if not self._is_of_parent(result)]
        for group in grouped(self._unseen(others)):
            self._add(group)
        self._note_order(news.results)

    def _is_of_parent(self, result: Result) -> bool:
        if not self._of_parent or not self._of_parent[_mark(result)]:
            return False
        self._of_parent[_mark(result)] -= 1
        return True

    def _note_order(self, results: Sequence[Result]) -> None:
        """Add up what has its place in the store, where planned looks are taken in that order."""
        if self._in_order is None:
            return
        for group in grouped(self._unseen(results, self._seen_in_order)):
            self._add_to(self._in_order, group)


def _warn(error: StorageError) -> None:
    _logger.warning("An experiment's results could not be stored: %s", error)


def _mark(result: Result) -> tuple[Any, ...]:
    """What a result is known by again when it comes from the store."""
    return result.variant, result.at, tuple(sorted(result.metrics.items()))
