"""Predictions whose outcome is still to come."""

from collections import OrderedDict
from itertools import islice

from modelyard._core.errors import RequestNotFoundError
from modelyard._core.ids import new_id

# Stands for a position once the outcome has come.
_DONE = -2
NO_PREDICTION = -1
_MOST_DIGITS = 18


class OpenRequests:
    """The last predictions by id, with and without an outcome.

    Ids that are made here are numbers behind a prefix, so that of each only its answer's position
    is kept: a fifth of the time that an id from outside takes.

    Not thread-safe: the monitor that owns it locks.

    Args:
        capacity: How many are remembered, of those that are made here and of those given.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # Position, and how many ids had been made before it was given.
        self._given: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._made = [_DONE] * capacity
        # Numbers from which on a prefix holds, oldest first: a fork begins another.
        self._prefixes = [(0, _new_prefix())]
        self._prefix = self._prefixes[-1][1]
        self.n_given = 0
        self.n_made = 0

    def add(self, request_id: str, position: int) -> None:
        """Remember a prediction; the oldest is forgotten when there are too many.

        Args:
            request_id: Its id.
            position: Where its answer is in the ring of predictions; -1 if it has none.
        """
        self._given[request_id] = (position, self.n_made)
        self.n_given += 1
        if len(self._given) > self._capacity:
            self._given.popitem(last=False)

    def add_new(self, position: int) -> str:
        """Remember a prediction as `add` does, under an id that is made for it."""
        number = self.n_made
        self._made[number % self._capacity] = position
        self.n_made = number + 1
        return f"{self._prefix}{number}"

    def finish(self, request_id: str) -> int | None:
        """Note that the outcome has come: where the answer is; None if it had come before.

        Raises:
            RequestNotFoundError: No such prediction is remembered.
        """
        given, number = self._given.get(request_id), self._number_of(request_id)
        if given is None and number is None:
            raise RequestNotFoundError(
                f"No prediction {request_id!r} among the last {self._capacity}. Pass the id that "
                "record_prediction returned, or use record_metric(name, value)."
            )
        position = _DONE
        if number is not None:
            place = number % self._capacity
            position, self._made[place] = self._made[place], _DONE
        if given is not None:  # one that was made and given again is the newer prediction
            position = given[0]
            self._given[request_id] = (_DONE, given[1])
        return None if position == _DONE else position

    def newest(self, *, n_given: int, n_made: int) -> list[tuple[str, int]]:
        """The last requests that wait for their outcome, in the order in which they came.

        Args:
            n_given: How many of those that were given are looked at.
            n_made: How many of those that were made here.
        """
        given = [
            (n_before, request_id, position)
            for request_id, (position, n_before) in islice(reversed(self._given.items()), n_given)
        ][::-1]
        first = self.n_made - min(max(n_made, 0), self.n_made, self._capacity)
        made = [
            (number, f"{self._prefix_of(number)}{number}", self._made[number % self._capacity])
            for number in range(first, self.n_made)
        ]
        # Stable: what was given before a number was made comes before it.
        both = sorted((*given, *made), key=lambda one: one[0])
        return [(name, position) for _, name, position in both if position != _DONE]

    def after_fork(self) -> None:
        """In the child of a fork: what waits keeps its id, and new ones are not the parent's."""
        self._prefix = _new_prefix()
        self._prefixes.append((self.n_made, self._prefix))

    def _number_of(self, request_id: str) -> int | None:
        """The number of an id that was made here and is remembered."""
        prefix, dash, text = str(request_id).rpartition("-")
        if len(text) > _MOST_DIGITS or not text.isdecimal():
            return None
        number = int(text)
        if not max(0, self.n_made - self._capacity) <= number < self.n_made:
            return None
        # "007" and digits of other alphabets are not what was made.
        is_made = prefix + dash == self._prefix_of(number) and text == str(number)
        return number if is_made else None

    def _prefix_of(self, number: int) -> str:
        return next(prefix for first, prefix in reversed(self._prefixes) if first <= number)


def _new_prefix() -> str:
    return f"{new_id('request')}-"
