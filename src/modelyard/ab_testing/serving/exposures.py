"""How many users each variant was given, for the check that the split is as it should be."""

from collections import Counter

from modelyard._core.forking import RenewedLock

# So many users are told apart; of more, a random half, quarter, ... is counted.
MAX_MARKS = 200_000


class Exposures:
    """Counts users by the variant and weight epoch in which they were first seen.

    A user counts once, however often he comes. Memory is bounded: of very many users only those
    whose mark ends in so many zero bits are counted, a sample that depends on nothing else.

    Thread-safe: one lock guards what is counted; a user seen before needs none.

    Args:
        max_marks: How many users are told apart.

    Attributes:
        seen: Where each user was first seen, by mark.
    """

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self._renewed = RenewedLock()
        self._max_marks = max_marks
        self._mask = 0
        self.seen: dict[int, tuple[str, int]] = {}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._unknown: Counter[tuple[str, int]] = Counter()

    def note(self, variant: str, epoch: int, mark: int) -> None:
        """Count a user, told apart by `mark`, unless seen before."""
        if mark in self.seen or mark & self._mask:
            return
        with self._renewed.lock:
            if mark in self.seen:
                return
            self.seen[mark] = (variant, epoch)
            self._counts[variant, epoch] += 1
            if len(self.seen) > self._max_marks:
                self._thin()

    def note_unknown(self, variant: str, epoch: int) -> None:
        """Count a request of nobody in particular."""
        with self._renewed.lock:
            self._unknown[variant, epoch] += 1

    def counts(self) -> dict[tuple[str, int], int]:
        """Users, and requests of nobody in particular, by variant and epoch."""
        with self._renewed.lock:
            return dict(self._counts + self._unknown)

    @property
    def is_one_each(self) -> bool:
        """Whether every user or request was counted, and how often each came does not matter."""
        return not self._mask

    def _thin(self) -> None:
        self._mask = 2 * self._mask + 1
        self.seen = {mark: place for mark, place in self.seen.items() if not mark & self._mask}
        self._counts = Counter(self.seen.values())
