"""A thread that does one thing after another."""

import atexit
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from modelyard.inference_optimizer.engine.hosts import GRACE_S

Job = Callable[[], None]


class Worker:
    """Runs jobs in order on one thread, which starts with the first of them.

    Daemonic, so that a model that hangs does not keep the process from ending; at exit the job
    that runs is waited for a moment, since a thread inside native code would abort the process.
    Jobs do not raise.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process_id = os.getpid()

    def put(self, job: Job) -> None:
        """Run `job` after those before it. Called from one thread only."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name="modelyard-engine", daemon=True
            )
            self._thread.start()
            atexit.register(self._exit)
        self._jobs.put(job)

    def stop(self) -> None:
        """End after the jobs put so far; does not wait."""
        self._jobs.put(None)

    def _exit(self) -> None:
        if self._thread is not None and self._process_id == os.getpid():
            self.stop()
            self._thread.join(GRACE_S)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
        atexit.unregister(self._exit)
