"""Predictions whose outcome is still to come."""

from collections import OrderedDict
from itertools import islice

from modelyard._core.errors import RequestNotFoundError

# Stands for a position once the outcome has come.
_DONE = -2
NO_PREDICTION = -1


class OpenRequests:
    """The ids of the last predictions, with and without an outcome.

    Not thread-safe: the monitor that owns it locks.

    Args:
        capacity: How many are remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._positions: OrderedDict[str, int] = OrderedDict()
        self.n_added = 0

    def add(self, request_id: str, position: int) -> None:
        """Remember a prediction; the oldest is forgotten when there are too many.

        Args:
            request_id: Its id.
            position: Where its answer is in the ring of predictions; -1 if it has none.
        """
        self._positions[request_id] = position
        self.n_added += 1
        if len(self._positions) > self._capacity:
            self._positions.popitem(last=False)

    def finish(self, request_id: str) -> int | None:
        """Note that the outcome has come: where the answer is; None if it had come before.

        Raises:
            RequestNotFoundError: No such prediction is remembered.
        """
        position = self._positions.get(request_id)
        if position is None:
            raise RequestNotFoundError(
                f"No prediction {request_id!r} among the last {self._capacity}. Pass the id that "
                "record_prediction returned, or use record_metric(name, value)."
            )
        self._positions[request_id] = _DONE
        return None if position == _DONE else position

    def newest(self, n: int) -> list[tuple[str, int]]:
        """The last `n` requests that wait for their outcome, oldest first."""
        newest = islice(reversed(self._positions.items()), n)
        return [item for item in newest if item[1] != _DONE][::-1]
