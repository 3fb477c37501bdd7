"""Predictions whose outcome is still to come."""

from collections import OrderedDict

from modelyard._core.errors import RequestNotFoundError


class OpenRequests:
    """The ids of the last predictions, with and without an outcome.

    Not thread-safe: the monitor that owns it locks.

    Args:
        capacity: How many are remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # True once the outcome has come.
        self._is_done: OrderedDict[str, bool] = OrderedDict()

    def add(self, request_id: str) -> None:
        """Remember a prediction; the oldest is forgotten when there are too many."""
        self._is_done[request_id] = False
        if len(self._is_done) > self._capacity:
            self._is_done.popitem(last=False)

    def finish(self, request_id: str) -> bool:
        """Note that the outcome has come; False if it had come before.

        Raises:
            RequestNotFoundError: No such prediction is remembered.
        """
        done = self._is_done.get(request_id)
        if done is None:
            raise RequestNotFoundError(
                f"No prediction {request_id!r} among the last {self._capacity}. Pass the id that "
                "record_prediction returned, or use record_metric(name, value)."
            )
        self._is_done[request_id] = True
        return not done
