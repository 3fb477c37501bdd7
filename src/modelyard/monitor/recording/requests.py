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

    Ids that are made here are numbers behind one prefix, so that of each only its answer's
    position is kept: a fifth of the time that an id from outside takes.

    Not thread-safe: the monitor that owns it locks.

    Args:
        capacity: How many are remembered, of those that are made here and of those given.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._given: OrderedDict[str, int] = OrderedDict()
        self._made = [_DONE] * capacity
        self._prefix = _new_prefix()
        self.n_given = 0
        self.n_made = 0

    def add(self, request_id: str, position: int) -> None:
        """Remember a prediction; the oldest is forgotten when there are too many.

        Args:
            request_id: Its id.
            position: Where its answer is in the ring of predictions; -1 if it has none.
        """
        self._given[request_id] = position
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
        position = self._given.get(request_id)
        if position is not None:
            self._given[request_id] = _DONE
            return None if position == _DONE else position
        number = self._number_of(request_id)
        if number is None:
            raise RequestNotFoundError(
                f"No prediction {request_id!r} among the last {self._capacity}. Pass the id that "
                "record_prediction returned, or use record_metric(name, value)."
            )
        place = number % self._capacity
        position, self._made[place] = self._made[place], _DONE
        return None if position == _DONE else position

    def newest(self, *, n_given: int, n_made: int) -> list[tuple[str, int]]:
        """The last requests that wait for their outcome, oldest first: those given, those made."""
        given = [*islice(reversed(self._given.items()), n_given)][::-1]
        first = self.n_made - min(n_made, self.n_made, self._capacity)
        made = [
            (f"{self._prefix}{number}", self._made[number % self._capacity])
            for number in range(first, self.n_made)
        ]
        return [item for item in (*given, *made) if item[1] != _DONE]

    def after_fork(self) -> None:
        """In the child of a fork: what waits keeps its id, and new ones are not the parent's."""
        waiting = OrderedDict(self.newest(n_given=0, n_made=self._capacity))
        waiting.update(self._given)
        self._given = waiting
        self._made = [_DONE] * self._capacity
        self._prefix = _new_prefix()

    def _number_of(self, request_id: str) -> int | None:
        """The number of an id that was made here and is remembered."""
        text = str(request_id).removeprefix(self._prefix)
        if len(text) > _MOST_DIGITS or not text.isdecimal():
            return None
        number = int(text)
        is_kept = self.n_made - self._capacity <= number < self.n_made
        # "007" and digits of other alphabets are not what was made.
        return number if is_kept and request_id == f"{self._prefix}{number}" else None


def _new_prefix() -> str:
    return f"{new_id('request')}-"
