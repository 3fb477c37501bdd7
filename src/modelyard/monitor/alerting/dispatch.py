"""`Dispatcher`: hands events of alerts to every sink without holding anyone up."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import AlertEventDict, Severity
from modelyard.monitor.alerting.queues import (
    MAX_WAITING,
    Backoff,
    DeliveryDict,
    SinkQueue,
    SinkStateDict,
    wait_for_all,
)
from modelyard.monitor.alerting.sinks import AlertSink


class Dispatcher:
    """Delivers events to sinks, to each in order, each until it is taken.

    `submit` returns at once: each sink has a thread of its own while something waits for it, so
    a slow or failing sink delays no caller and no other sink. A failed delivery is tried again
    after 1, 2, 4 ... up to 300 seconds (half of it random) with the same `event_id`. What is not
    delivered is in `undelivered()`; whoever stores that and hands it in again after a restart
    loses nothing. At the interpreter's end, what waits is tried for two seconds more.

    Thread-safe. After a fork the child begins with nothing to deliver.

    Args:
        sinks: Each of another name.
        clock: For the times of failures.
        seed: Of the random part of the waits.
        outbox: What an earlier dispatcher's `undelivered()` gave; it is tried at once, also what
            had been refused. Events of a sink that is not there any more are kept.
        backoff: Waits between attempts.
        max_waiting: Events that may wait for one sink; beyond it the oldest go, which is counted
            and logged.

    Raises:
        ConfigError: Something that is no sink, or two of one name.
    """

    def __init__(
        self,
        sinks: Sequence[AlertSink],
        *,
        clock: Clock | None = None,
        seed: int | None = None,
        outbox: Sequence[Mapping[str, Any]] = (),
        backoff: Backoff | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        _check(sinks)
        generators = generator(seed).spawn(len(sinks))
        self._queues = {
            sink.name: SinkQueue(
                sink,
                clock=clock or SystemClock(),
                backoff=backoff or Backoff(),
                rng=rng,
                max_waiting=max_waiting,
            )
            for sink, rng in zip(sinks, generators, strict=True)
        }
        earlier = [cast("DeliveryDict", dict(delivery)) for delivery in outbox]
        self._orphans = [item for item in earlier if item["sink"] not in self._queues]
        for name, queue in self._queues.items():
            queue.add([item for item in earlier if item["sink"] == name])

    @property
    def revision(self) -> int:
        """Changes whenever `undelivered` does, so that it need not be stored again if not."""
        return sum(queue.revision for queue in self._queues.values())

    def submit(self, events: Sequence[AlertEventDict]) -> None:
        """Take events for every sink whose `min_severity` they reach; returns at once."""
        for name, queue in self._queues.items():
            least = queue.sink.min_severity.rank
            queue.add(
                [
                    {"delivery_id": f"{event['event_id']}:{name}", "sink": name, "event": event}
                    for event in events
                    if Severity(event["alert"]["severity"]).rank >= least
                ]
            )

    def undelivered(self) -> list[DeliveryDict]:
        """Every event that a sink has not taken, per sink oldest first; plain values."""
        waiting = [item for queue in self._queues.values() for item in queue.undelivered()]
        return [*self._orphans, *waiting]

    def states(self) -> dict[str, SinkStateDict]:
        """How each sink is doing, by name."""
        return {name: queue.state() for name, queue in self._queues.items()}

    def drain(self, timeout_s: float) -> bool:
        """Try what waits once now and wait for it.

        Returns:
            Whether nothing waits any more. What a receiver refused does not wait.
        """
        return wait_for_all(list(self._queues.values()), timeout_s)

    def close(self, timeout_s: float = 0.0) -> bool:
        """Deliver what can be within `timeout_s` seconds, and begin no attempt after that.

        Returns:
            Whether nothing waits any more.
        """
        is_done = self.drain(timeout_s)
        for queue in self._queues.values():
            queue.close()
        return is_done


def _check(sinks: Sequence[AlertSink]) -> None:
    names = set()
    for sink in sinks:
        name = getattr(sink, "name", None)
        is_sink = callable(getattr(sink, "deliver", None))
        if not (is_sink and isinstance(name, str) and name):
            raise ConfigError(
                f"A sink has a name, a min_severity and a method deliver(event); got {sink!r}. "
                "CallbackSink(function) makes one of a function."
            )
        if not isinstance(getattr(sink, "min_severity", None), Severity):
            raise ConfigError(f"min_severity of sink {name!r} must be a Severity.")
        if name in names:
            raise ConfigError(f"Two sinks are named {name!r}: give one of them another name=.")
        names.add(name)
