"""Keeps a bandit in a store, together with the other processes that run it."""

import logging
from threading import Lock
from typing import Any, cast
from zlib import crc32

import numpy as np

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.ending import flush_when_python_ends
from modelyard._core.errors import StorageError
from modelyard._core.ids import new_id
from modelyard._core.worker import worker
from modelyard.ab_testing.bandits import chunk, state
from modelyard.ab_testing.bandits.choices import fill_propensities
from modelyard.ab_testing.bandits.inherited import Inherited
from modelyard.ab_testing.bandits.learner import Learner, Outbox
from modelyard.ab_testing.bandits.log import LoggedChoice, Times
from modelyard.ab_testing.bandits.rows import BanditRows, StoredChunk
from modelyard.ab_testing.durability import FLUSH_INTERVAL_S, LONGEST_PAUSE_S

_logger = logging.getLogger(__name__)

# A parent that has not stored what it held by then has ended without.
_PARENT_TIMEOUT_S = 3600.0
# While more choices than this wait for their reward, the state, which lists them, is stored when
# as much has happened since the last time. What happened is stored each time.
_FEW_PENDING = 1000


class SharedBandit:
    """Sends what happens to a learner to the store, and takes in what happened elsewhere.

    Thread-safe: `lock`, which is the learner's owner's, is held while the learner is looked at or
    changed, and never while the store works; a lock of its own keeps flushes apart.

    Args:
        learner: New; becomes what is stored, if something is.
        rows: Where it is stored.
        lock: Guards the learner.
        clock: Tells the time.
        times: What times the learner's monotonic seconds are.
        log_size: How many choices the learner's log holds.
        is_sync: Store everything before the call that brings it returns.

    Raises:
        ConfigError: Another bandit is stored under the name.
        StorageError: The store refuses.
    """

    def __init__(
        self,
        learner: Learner,
        rows: BanditRows,
        lock: Lock,
        clock: Clock,
        times: Times,
        *,
        log_size: int,
        is_sync: bool,
    ) -> None:
        self._learner = learner
        self._rows = rows
        self._lock = lock
        self._clock = clock
        self._is_sync = is_sync
        self._times = times
        self._flush_lock = Lock()
        self._recorder_id = new_id("bandit")
        self._n_keys = 0
        self._last_seq = 0
        # The newest chunk of its own, and what is being stored now; replaced as a whole.
        self._sent: tuple[int, Outbox | None] = (0, None)
        # In a child of a fork, by recorder: what it will find in the store and holds already.
        self._inherited: dict[str, Inherited] = {}
        self._forked_at_s = clock.monotonic_s()
        self._is_stored = False
        self._n_since_state = 0
        self._is_apart = False
        self._flushed_at_s = clock.monotonic_s()
        self._is_flush_asked = False
        self._pause_s = FLUSH_INTERVAL_S
        self._open(log_size)
        learner.outbox = Outbox()
        flush_when_python_ends(self)

    def flush(self) -> None:
        """Store what is new, durably, and take in what other processes stored.

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        with self._flush_lock:
            self._exchange(is_whole=True)

    def share(self) -> None:
        """Store what has just happened: at once, or within a second by the process's worker.

        Whoever chooses or rewards does not wait for a store that others hold. Where time does not
        go by itself it is stored here when the last flush is a second ago.

        Raises:
            StorageError: The store refuses, and everything has to be stored at once.
        """
        if self._is_sync:
            with self._flush_lock:
                self._exchange()
        elif isinstance(self._clock, SystemClock):
            self._ask_for_flush()
        else:
            self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush when the last time is a second ago; a store that refuses is only logged."""
        if self._clock.monotonic_s() - self._flushed_at_s < FLUSH_INTERVAL_S:
            self._ask_for_flush()
            return
        if not self._flush_lock.acquire(blocking=False):
            self._ask_for_flush()  # another thread is at it, perhaps without the newest
            return
        try:
            self._exchange()
        except StorageError as error:
            # The caller's loop goes on; what waits is kept and flush() will say so again.
            self._flushed_at_s = self._clock.monotonic_s()
            self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
            _logger.warning("A bandit's rewards could not be stored: %s", error)
            self._ask_for_flush()  # the store may be there again by then
        finally:
            self._flush_lock.release()

    def work(self) -> None:
        """Flush what nobody's call has flushed for a second; called by the process's worker."""
        self._is_flush_asked = False
        if self._has_news():
            self.flush_if_due()

    def flush_at_exit(self) -> None:
        """Flush what the last second has left."""
        if self._has_news():
            self.flush()

    def after_fork(self, lock: Lock) -> None:
        """In a child: what the parent has recorded the parent stores.

        Args:
            lock: Of the learner's owner, made anew.
        """
        self._lock, self._flush_lock = lock, Lock()
        self._is_flush_asked = False
        (own_seq, in_flight), waiting = self._sent, self._learner.outbox or Outbox()
        if in_flight is not None and in_flight is not waiting:
            waiting = in_flight.before(waiting)
        self._inherited[self._recorder_id] = Inherited.of(own_seq, waiting)
        self._recorder_id = new_id("bandit")
        self._sent = (0, None)
        self._forked_at_s = self._clock.monotonic_s()
        self._learner.outbox = Outbox()
        self._learner.choices.disown_all(self._recorder_id)
        self._jump()  # it would draw what its parent draws

    def stored_choices(self) -> list[LoggedChoice]:
        """Every choice that was ever stored, by whichever process."""
        return chunk.join(stored.body for stored in self._rows.chunks())

    def _ask_for_flush(self) -> None:
        """Have the worker flush in a second, if time goes by itself."""
        if not self._is_flush_asked and isinstance(self._clock, SystemClock):
            self._is_flush_asked = True
            worker("experiments").ask(self, after_s=self._pause_s)

    def _has_news(self) -> bool:
        with self._lock:
            outbox = self._learner.outbox
            return outbox is not None and not outbox.is_empty

    def _open(self, log_size: int) -> None:
        stored, chunks = self._rows.load(log_size)
        self._is_stored = stored is not None
        times = self._times
        if stored is not None:
            state.check_same(self._learner, stored, self._rows.name)
            state.restore(self._learner, stored, times)
        known = [one for one in chunks if stored is not None and one.is_in(stored)]
        seen = {one.seq for one in known}
        # Those first, although others may be older: a reward in both is in the sums already.
        for one in known:
            chunk.remember(self._learner, one.body, times)
        recorder_id = None if stored is None else stored.get("recorder_id")
        for one in chunks:
            if one.seq not in seen:
                take_in = chunk.go_on if one.recorder_id == recorder_id else chunk.learn
                take_in(self._learner, one.body, times)
            self._last_seq = max(self._last_seq, one.seq)

    def _exchange(self, *, is_whole: bool = False) -> None:
        learner = self._learner
        with self._lock:
            choices = list(learner.outbox.choices) if learner.outbox else []
        # Outside of the lock: it may take long.
        fill_propensities(choices)
        started_s = self._clock.monotonic_s()
        with self._lock:
            outbox = learner.outbox or Outbox()
            self._sent = (self._sent[0], outbox)
            learner.outbox = Outbox()
            self._name_pending(outbox)
            generator = learner.rng.bit_generator.state
            plain = None
            # Whoever reads a state adds the chunks that it does not hold: what is inherited twice.
            if not self._inherited and (is_whole or self._is_state_due(outbox)):
                plain = state.to_plain(learner, self._times, with_log=False)
        try:
            news, last_seq = self._store(outbox, generator, plain)
        except Exception:
            with self._lock:
                self._sent = (self._sent[0], None)
                learner.outbox = outbox.before(learner.outbox)
            raise
        self._flushed_at_s = started_s
        self._pause_s = FLUSH_INTERVAL_S
        with self._lock:
            self._learn(news, last_seq)

    def _is_state_due(self, outbox: Outbox) -> bool:
        return not self._is_stored or self._n_since_state + outbox.n >= self._n_listed()

    def _n_listed(self) -> int:
        """How many pending choices the state lists; 0 for few."""
        n_pending = int(sum(self._learner.sums.pending))
        return n_pending if n_pending > _FEW_PENDING else 0

    def _store(
        self, outbox: Outbox, generator: Any, plain: dict[str, object] | None
    ) -> tuple[list[StoredChunk], int]:
        """Chunks of others that are new here, and up to which chunk everything is known then."""
        is_behind = plain is not None and self._n_since_state > 0
        if outbox.is_empty and (self._is_stored or self._inherited) and not is_behind:
            self._sent = (self._sent[0], None)
            news = self._rows.chunks(after_seq=self._last_seq)
            last_seq = max((one.seq for one in news), default=self._last_seq)
            return [one for one in news if one.recorder_id != self._recorder_id], last_seq
        news, own_seq = self._rows.exchange(
            self._recorder_id,
            {**chunk.to_plain(outbox, self._times), "generator": generator},
            plain,
            after_seq=self._last_seq,
            at=self._clock.now().isoformat(),
        )
        self._sent = (own_seq, None)
        self._is_stored = self._is_stored or plain is not None
        self._n_since_state = self._n_since_state + outbox.n if plain is None else 0
        return news, own_seq

    def _name_pending(self, outbox: Outbox) -> None:
        """Give every choice a key whose reward will come in a later chunk."""
        for choice in outbox.choices:
            if choice.is_pending and choice.key is None:
                self._n_keys += 1
                choice.key = f"{self._recorder_id}/{self._n_keys}"

    def _learn(self, news: list[StoredChunk], last_seq: int) -> None:
        learner = self._learner
        if news and not self._is_apart:
            # Another process may have taken up the same state, and would draw the same.
            self._jump()
            learner.choices.disown(self._recorder_id)
            self._is_apart = True
        for one in news:
            inherited = self._inherited.get(one.recorder_id)
            if inherited is None or one.seq > inherited.seq:
                chunk.learn(learner, one.body, self._times, inherited)
        self._last_seq = last_seq
        is_given_up = self._clock.monotonic_s() - self._forked_at_s > _PARENT_TIMEOUT_S
        for recorder_id, inherited in [*self._inherited.items()]:
            if is_given_up or inherited.is_met(self._last_seq):
                del self._inherited[recorder_id]

    def _jump(self) -> None:
        """Draw from here on otherwise than who has the same state."""
        jumps = crc32(self._recorder_id.encode())
        self._learner.rng = np.random.Generator(_jumped(self._learner.rng, jumps))


def _jumped(rng: np.random.Generator, jumps: int) -> np.random.PCG64:
    far = np.random.PCG64()
    far.state = cast("Any", rng.bit_generator.state)
    return far.jumped(jumps)
