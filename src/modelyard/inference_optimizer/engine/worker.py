"""A thread that does one thing after another."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Worker:
    """Runs jobs in order on one thread, which starts with the first of them.

    Daemonic, so that a model that hangs does not keep the process from ending. Jobs do not raise.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, job: Job) -> None:
        """Run `job` after those before it. Called from one thread only."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="modelyard-engine", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        """End after the jobs put so far; does not wait."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
