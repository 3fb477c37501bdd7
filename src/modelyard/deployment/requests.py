"""Which version answered which request, until its outcome comes."""

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from modelyard._core.errors import ConfigError, RequestNotFoundError
from modelyard._core.ids import new_id
from modelyard.deployment.recent import Recent

REMEMBERED = 100_000


# Whom an outcome will judge: a version, and where its numbers of that time are kept.
AnsweredBy = tuple[str, Recent | None]


class Requests:
    """The last answered requests. Thread-safe: one lock guards them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: OrderedDict[str, AnsweredBy | None] = OrderedDict()
        self._prefix = f"{new_id('request')}-{os.getpid()}"
        self._numbers = itertools.count()

    def new_id(self) -> str:
        """An id that no other request has, in any process."""
        return f"{self._prefix}-{next(self._numbers)}"

    def remember(self, request_id: str, by: AnsweredBy | None) -> None:
        """Keep who answered; an id that is used again is the newest."""
        with self._lock:
            answered = self._answered
            n_before = len(answered)
            answered[request_id] = by
            if len(answered) == n_before:
                answered.move_to_end(request_id)
            elif n_before >= REMEMBERED:
                answered.popitem(last=False)

    def judged_by(self, request_id: str, values: Mapping[str, float]) -> AnsweredBy | None:
        """Whom an outcome judges: nobody where it says nothing, or another one has judged.

        Raises:
            RequestNotFoundError: It is not one of the last answered requests.
        """
        with self._lock:
            if request_id not in self._answered:
                raise RequestNotFoundError(
                    f"{request_id!r} is not among the last {REMEMBERED} requests."
                )
            if not values:
                return None
            found = self._answered[request_id]
            self._answered[request_id] = None  # a second outcome judges nobody
            return found


def checked_outcome(metrics: Any) -> dict[str, float]:
    """The values of an outcome that are finite.

    Raises:
        ConfigError: It is no mapping from names to numbers.
    """
    if not isinstance(metrics, Mapping):
        raise ConfigError(
            "An outcome is a mapping from names to numbers, such as {'pnl': 1.5}; "
            f"got {metrics!r}. Nothing was recorded."
        )
    values = {name: _number(name, value) for name, value in metrics.items()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _number(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"The name of a metric must be text, got {name!r}. Nothing was recorded."
        )
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigError(
            f"Metric {name!r} must be a number, got {type(value).__name__} {str(value)[:80]!r}. "
            "Nothing was recorded; the outcome may be given again."
        ) from error
