"""Where events of alerts go: the log, a file, a function. The webhook has a file of its own.

A sink delivers one event or raises. It is called from a thread of its own, one event at a time
and in order; what raises is tried again later with the same `event_id`.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from modelyard._core.errors import ConfigError, ModelyardError
from modelyard.monitor.alerting.alerts import (
    AlertEventDict,
    EventKind,
    Severity,
    checked_severity,
)


class DeliveryRefusedError(ModelyardError, RuntimeError):
    """The receiver will never take this event: trying again is of no use."""


class AlertSink(Protocol):
    """Takes events of alerts.

    Attributes:
        name: Unique among the sinks of a monitor; undelivered events are kept under it.
        min_severity: Events of alerts below it are not for this sink.
    """

    name: str
    min_severity: Severity

    def deliver(self, event: AlertEventDict) -> None:
        """Deliver one event; blocks as long as it takes.

        Raises:
            DeliveryRefusedError: It will never be taken; it is not tried again.
            Exception: Anything else is tried again later.
        """
        ...


class LogSink:
    """Writes one line to Python's logging for each event.

    An alert's severity is the level (info, warning; critical as error); the end of one and an
    acknowledgement are info.

    Args:
        logger: Where to; the logger `modelyard.alerts` if not given.
        name: Of the sink.
        min_severity: `info`, `warning` or `critical`; lower ones are left out.

    Raises:
        ConfigError: No such severity.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        name: str = "log",
        min_severity: str = "info",
    ) -> None:
        self.name = name
        self.min_severity = severity_of(min_severity)
        self._logger = logger or logging.getLogger("modelyard.alerts")

    def deliver(self, event: AlertEventDict) -> None:
        """Log the event."""
        alert = event["alert"]
        self._logger.log(
            _level_of(event),
            "%s alert %s of %s %s: %s",
            alert["severity"],
            alert["name"],
            event["model_name"],
            event["event"],
            alert["message"],
        )


class JsonLinesSink:
    """Appends each event as a line of JSON to a file; it is on the disk on return.

    A line is whole or not there: what a full disk cut off is taken back, and a line that a crash
    cut off is ended before the next one.

    Args:
        path: The file; its folder is made with the first event.
        name: Of the sink.
        min_severity: `info`, `warning` or `critical`; lower ones are left out.

    Raises:
        ConfigError: No such severity.
    """

    def __init__(
        self, path: str | Path, *, name: str = "json_lines", min_severity: str = "info"
    ) -> None:
        self.name = name
        self.min_severity = severity_of(min_severity)
        self._path = Path(path)

    def deliver(self, event: AlertEventDict) -> None:
        """Append the event.

        Raises:
            OSError: The file cannot be written; it is as it was.
        """
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b", buffering=0) as file:
            size_bytes = file.seek(0, os.SEEK_END)
            if size_bytes:
                file.seek(size_bytes - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line
            try:
                _write_all(file.fileno(), line)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size_bytes)
                raise


class CallbackSink:
    """Calls a function of yours with each event.

    Args:
        function: Gets the event as a dict of its own; what it raises is tried again later.
        name: Of the sink.
        min_severity: `info`, `warning` or `critical`; lower ones are left out.

    Raises:
        ConfigError: No function, or no such severity.
    """

    def __init__(
        self,
        function: Callable[[AlertEventDict], object],
        *,
        name: str = "callback",
        min_severity: str = "info",
    ) -> None:
        if not callable(function):
            raise ConfigError(f"CallbackSink takes a function of one event, got {function!r}.")
        self.name = name
        self.min_severity = severity_of(min_severity)
        self._function = function

    def deliver(self, event: AlertEventDict) -> None:
        """Call the function."""
        self._function(event)


def severity_of(min_severity: str) -> Severity:
    """The severity of this name.

    Raises:
        ConfigError: No such severity.
    """
    found = checked_severity(min_severity)
    if found is None:
        raise ConfigError("min_severity must be 'info', 'warning' or 'critical', got None.")
    return found


_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.ERROR,
}


def _level_of(event: AlertEventDict) -> int:
    if event["event"] in {EventKind.RESOLVED, EventKind.ACKNOWLEDGED}:
        return logging.INFO
    return _LEVELS[Severity(event["alert"]["severity"])]


def _write_all(descriptor: int, data: bytes) -> None:
    # A full disk takes a part before it refuses the rest.
    while data:
        data = data[os.write(descriptor, data) :]
