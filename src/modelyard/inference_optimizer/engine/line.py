"""Requests in the order in which they are served."""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Iterator

from modelyard.inference_optimizer.engine.requests import Request


class Line:
    """Waiting requests: highest priority first, first come first served within.

    Not thread-safe: its owner serialises.

    Attributes:
        n: How many wait, those included whose callers gave up unnoticed.
        n_deadlines: How many of these have a deadline.
    """

    def __init__(self) -> None:
        self.n = 0
        self.n_deadlines = 0
        self._usual: deque[Request] = deque()
        self._by_priority: dict[int, deque[Request]] = {0: self._usual}
        self._order = [0]  # minus the priorities, so that the highest comes first

    def __iter__(self) -> Iterator[Request]:
        for negated in self._order:
            yield from self._by_priority[-negated]

    def push(self, request: Request) -> None:
        """Add at the end of those of its priority."""
        if request.priority == 0:
            self._usual.append(request)
        else:
            self._of(request.priority).append(request)
        self.n += 1
        if request.deadline_s is not None:
            self.n_deadlines += 1

    def put_back(self, requests: Iterable[Request]) -> None:
        """Undo a `take`: those given, in the order taken, stand at the front again."""
        for request in reversed(list(requests)):
            self._of(request.priority).appendleft(request)
            self.n += 1
            self.n_deadlines += request.deadline_s is not None

    def take(self, n: int) -> list[Request]:
        """Remove the first `n`, or all if fewer wait."""
        taken: list[Request] = []
        for negated in list(self._order):
            line = self._by_priority[-negated]
            n_missing = n - len(taken)
            if len(line) <= n_missing:
                taken.extend(line)
                self._empty(-negated)
            else:
                taken.extend(line.popleft() for _ in range(n_missing))
                break
        self.n -= len(taken)
        if self.n_deadlines:
            self.n_deadlines -= sum(request.deadline_s is not None for request in taken)
        return taken

    def n_ahead(self, priority: int) -> int:
        """How many would be served before a request of this priority that came now."""
        if len(self._order) == 1:
            return self.n if priority <= 0 else 0
        return sum(
            len(self._by_priority[-negated]) for negated in self._order if -negated >= priority
        )

    def sweep(self) -> int:
        """Remove those whose callers gave up; how many they were."""
        everyone = self.take(self.n)
        kept = [request for request in everyone if not request.is_cancelled()]
        for request in kept:
            self.push(request)
        return len(everyone) - len(kept)

    def _of(self, priority: int) -> deque[Request]:
        line = self._by_priority.get(priority)
        if line is None:
            # What cannot be put in order must not stay behind in only one of the two.
            insort(self._order, -priority)
            line = self._by_priority[priority] = deque()
        return line

    def _empty(self, priority: int) -> None:
        if priority == 0:
            self._usual.clear()
        else:
            # Callers may use as many priorities as they like: none that is empty is kept.
            del self._by_priority[priority]
            self._order.remove(-priority)
