"""Answers whose outcome is still to come."""

from collections import OrderedDict
from dataclasses import dataclass

from modelyard._core.forking import RenewedLock

MAX_OPEN_REQUESTS = 100_000


@dataclass(frozen=True, slots=True)
class Request:
    """Who answered a request.

    Attributes:
        variant: Name of the variant.
        epoch: Weight epoch at the time.
        unit: The user or the block of time, if known.
        counts: Whether its outcome takes part; not one of a forced user.
    """

    variant: str
    epoch: int
    unit: str | None
    counts: bool = True


class OpenRequests:
    """The last 100,000 requests without an outcome. Thread-safe: one lock guards them."""

    def __init__(self) -> None:
        self._renewed = RenewedLock()
        self._requests: OrderedDict[str, Request] = OrderedDict()

    def remember(self, request_id: str, request: Request) -> None:
        """Keep a request; the oldest goes when there are too many."""
        with self._renewed.lock:
            self._requests[request_id] = request
            if len(self._requests) > MAX_OPEN_REQUESTS:
                self._requests.popitem(last=False)

    def get(self, request_id: str) -> Request | None:
        """The request, or None."""
        return self._requests.get(request_id)

    def forget(self, request_id: str) -> None:
        """Drop a request; no error if it is gone."""
        with self._renewed.lock:
            self._requests.pop(request_id, None)
