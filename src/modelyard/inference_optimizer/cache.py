"""An exact cache of answers: the least recently used goes first, none is computed twice."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard._core.errors import ConflictError
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.keys import Key
from modelyard.inference_optimizer.records import CacheStats


@dataclass(slots=True, eq=False)
class Computation:
    """An answer that one thread computes and others may wait for.

    Attributes:
        thread_id: Who computes.
        is_over: Set in the end; made only when somebody waits.
        answer: None if there is none.
    """

    thread_id: int = field(default_factory=threading.get_ident)
    is_over: threading.Event | None = None
    answer: Any = None


# An answer, whether it was computed alone, when it gets too old (None: never). A tuple,
# since it is looked at in every cached call.
_Entry = tuple[Any, bool, float | None]


class AnswerCache:
    """Answers by the key of their input. Thread-safe: one lock guards everything.

    An entry tells whether its input was computed alone. One computed among others may differ in
    the last bits, so `get` and `begin` give only the former: what `predict` answers then never
    depends on what was asked before.

    Args:
        max_size: How many answers are kept; 0 keeps none.
        ttl_s: Seconds after which an answer is computed anew; None for never.
        now_s: Tells the time; used only with `ttl_s`.
    """

    def __init__(
        self,
        max_size: int,
        *,
        ttl_s: float | None = None,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self.max_size = max_size
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._computing: dict[Key, Computation] = {}
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        call_after_fork(self._after_fork)

    def renewed(self, max_size: int | None = None) -> "AnswerCache":
        """An empty cache of the same settings, with counts from zero."""
        size = self.max_size if max_size is None else max_size
        return AnswerCache(size, ttl_s=self._ttl_s, now_s=self._now_s)

    def get(self, key: Key) -> Any | None:
        """The answer for `key` if it is there. The caller must not change it."""
        with self._lock:
            entry = self._entries.get(key)
            if entry and entry[1] and (entry[2] is None or not self._is_stale(entry)):
                self._hits += 1
                self._entries.move_to_end(key)
                return entry[0]
        return None

    def begin(self, key: Key, computation: Computation) -> Any | None:
        """The answer for `key`, or None: then it is the caller who computes it.

        Waits while another thread computes it. However this ends, `end` must be called.

        Raises:
            ConflictError: The thread asks for what it is computing, and would wait for ever.
        """
        while True:
            found = self.get(key)
            if found is not None:
                return found
            with self._lock:
                running = self._computing.get(key)
                if running is None:
                    self._computing[key] = computation
                    self._misses += 1
                    return None
                if running.thread_id == computation.thread_id:
                    raise ConflictError(
                        "The model asks for the answer that it is computing. Call the module "
                        "itself there, not predict."
                    )
                over = running.is_over = running.is_over or threading.Event()
            over.wait()
            if running.answer is not None:
                with self._lock:
                    self._hits += 1
                return running.answer
            # Whoever computed it failed; this thread tries for itself.

    def end(self, key: Key, computation: Computation, answer: Any | None) -> None:
        """End what `begin` began; the answer is given away, None if there is none.

        It is kept unless the cache was cleared meanwhile. Does nothing where nothing began.
        """
        with self._lock:
            if self._computing.get(key) is computation:
                del self._computing[key]
                if answer is not None:
                    self._put(key, answer, is_alone=True)
            computation.answer = answer
            over = computation.is_over
        if over is not None:
            over.set()

    def get_many(self, keys: Sequence[Key], *, alone: bool = False) -> dict[Key, Any]:
        """The answers that are there; a key asked for twice counts twice.

        Args:
            keys: Of the inputs.
            alone: Whether only answers that were computed alone will do.
        """
        found = {}
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None or (alone and not entry[1]) or self._is_stale(entry):
                    self._misses += 1
                    continue
                self._hits += 1
                self._entries.move_to_end(key)
                found[key] = entry[0]
        return found

    def put_many(self, answers: Mapping[Key, Any], *, alone: bool = False) -> None:
        """Keep answers, which the caller gives away; one computed alone is never replaced."""
        with self._lock:
            for key, answer in answers.items():
                entry = self._entries.get(key)
                if alone or entry is None or not entry[1] or self._is_stale(entry):
                    self._put(key, answer, is_alone=alone)

    def clear(self) -> None:
        """Forget every answer, also those being computed; the counts stay."""
        with self._lock:
            self._entries.clear()
            self._computing = {}

    def stats(self) -> CacheStats:
        """Counts since the start."""
        with self._lock:
            looked_up = self._hits + self._misses
            return {
                "hits": self._hits,
                "misses": self._misses,
                "hit_rate": self._hits / looked_up if looked_up else 0.0,
                "size": len(self._entries),
                "max_size": self.max_size,
                "evictions": self._evictions,
            }

    def _put(self, key: Key, answer: Any, *, is_alone: bool) -> None:
        """Keep one answer; the lock is held."""
        expires_s = None
        if self._ttl_s is not None and self._now_s is not None:
            expires_s = self._now_s() + self._ttl_s
        if key in self._entries:
            self._entries.move_to_end(key)
        self._entries[key] = (answer, is_alone, expires_s)
        if len(self._entries) > self.max_size:
            self._entries.popitem(last=False)
            self._evictions += 1

    def _is_stale(self, entry: _Entry) -> bool:
        return entry[2] is not None and self._now_s is not None and self._now_s() >= entry[2]

    def _after_fork(self) -> None:
        """In a child: whoever held the lock or was computing is not here."""
        self._lock = threading.Lock()
        self._computing = {}
