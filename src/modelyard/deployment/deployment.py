"""`Deployment`: traffic split over versions, with the stable one behind each of the others."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from modelyard._core.chance import generator
from modelyard._core.clock import Clock
from modelyard._core.errors import NotReadyError
from modelyard.deployment.answer import Answer
from modelyard.deployment.answering import accept, attempted, rescued
from modelyard.deployment.fleet import Fleet
from modelyard.deployment.requests import Requests, checked_outcome
from modelyard.deployment.routed import Routing
from modelyard.deployment.serving import VersionSource
from modelyard.monitor import Health, ModelMonitor
from modelyard.routing import N_SLOTS, slot_of

_logger = logging.getLogger("modelyard")

_NO_FALLBACK = object()


class Deployment(Fleet):
    """Serves several versions of one model in this process.

    A user keeps the version that its id falls to; when shares change, only the users who must
    move do. A version that raises or answers with NaN or infinity is counted as the error it is,
    and the stable version answers in its place, then the fallback. An input that the stable
    version refuses too is the caller's error and counts against neither. Thread-safe: requests
    read one immutable object that changes replace as a whole; a lock orders the changes.

    Args:
        version_manager: Where versions are loaded from.
        model_name: The model.
        window_size: Predictions each version's monitor looks at.
        alert_thresholds: Of each version's monitor.
        cache_size: Answers each version caches; 0, the default, computes every one.
        optimize: Whether a version's backends are measured when it is added, unless its
            attachment `tuning` holds a choice made on equal hardware; one that cannot be read is
            measured anew, with a warning. An attachment `baseline` (`ModelMonitor.save_baseline`)
            is taken by the version's monitor.
        clock: Where the time of monitors and request records comes from.
        seed: Of the routing of requests without a user id.
        store: Keeps the monitors' windows and alerts.
        timeout_s: Seconds that a version may take; after that the stable one answers, then the
            fallback, and it counts as an error. Every version is then called on threads of its
            own, which costs a change of thread a request; all of them, because what is measured on
            different threads cannot be compared. None, the default, calls them in the caller's
            thread and waits for ever.
        memory_limit_mb: Parameters and buffers of all loaded versions together, in 10^6 bytes; a
            version over it is not added. None for no limit.

    Attributes:
        model_name: The model.
    """

    def __init__(
        self,
        version_manager: VersionSource,
        model_name: str,
        *,
        window_size: int = 1000,
        alert_thresholds: Mapping[str, float | None] | None = None,
        cache_size: int = 0,
        optimize: bool = False,
        clock: Clock | None = None,
        seed: int | None = None,
        store: Any = None,
        timeout_s: float | None = None,
        memory_limit_mb: float | None = None,
    ) -> None:
        super().__init__(
            version_manager,
            model_name,
            window_size=window_size,
            alert_thresholds=alert_thresholds,
            cache_size=cache_size,
            optimize=optimize,
            clock=clock,
            store=store,
            timeout_s=timeout_s,
            memory_limit_mb=memory_limit_mb,
        )
        self._rng = generator(seed)
        self._drawing = threading.Lock()  # guards _rng
        self._requests = Requests()
        self._listeners: list[Callable[[], None]] = []
        self._has_warned = False

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every request; it should be quick. What it raises is logged."""
        with self._changing:
            self._listeners = [*self._listeners, listener]

    def predict(
        self,
        x: Any,
        user_id: str | None = None,
        request_id: str | None = None,
        fallback: Any = _NO_FALLBACK,
    ) -> Answer:
        """An answer, and which version gave it.

        Args:
            x: As `InferenceOptimizer.predict` takes it.
            user_id: Keeps a user on one version; without it the request goes anywhere by share,
                which is warned about once: one account would alternate between versions.
            request_id: Under which outcomes are recorded; made if not given.
            fallback: Output to give if no version answers.

        Raises:
            NotReadyError: No version serves.
            Exception: What the stable version raised, if it fails too and there is no fallback.
        """
        routing = self._routing
        if routing.slots is None or routing.stable is None:
            raise NotReadyError("No version serves: call serve(version_id) first.")
        request_id = request_id or self._requests.new_id()
        meant = routing.stable
        if not routing.is_stable_only:
            if user_id is None and not self._has_warned and len(routing.sharing) > 1:
                self._warn_without_user()
            meant = routing.slots.owners[self._slot(user_id)]
        made = attempted(routing, meant, x)
        if made.error is None:
            accept(routing, made, x, request_id)
            return self._told(routing, made.output, meant, request_id, meant)
        given = rescued(routing, made, made.error, x, request_id)
        if given.version_id is None and fallback is _NO_FALLBACK:
            self._tell()
            raise given.error
        output = fallback if given.version_id is None else given.output
        return self._told(
            routing, output, given.version_id, request_id, meant, error=str(given.error)
        )

    def record_outcome(self, request_id: str, metrics: Mapping[str, Any]) -> None:
        """Join what became of a request to the version that answered it.

        An outcome of a fallback, or of a version that was retired meanwhile, judges nobody; so
        does a second outcome of the same request. Values that are not finite do not count, and
        an outcome of nothing else is none: another may follow.

        Raises:
            RequestNotFoundError: Not one of the last 100,000 answered requests.
            ConfigError: No mapping from names to numbers; nothing was recorded, and the outcome
                may be given again.
        """
        values = checked_outcome(metrics)
        judged = self._requests.judged_by(request_id, values)
        if judged is None:
            return
        version_id, beside = judged
        served = self._routing.served.get(version_id)
        if served is None:
            return
        for name, value in values.items():
            served.monitor.record_metric(name, value)
        if beside is not None:
            beside.add_metrics(values)

    def n_answers(self, version_id: str) -> int:
        """How many requests a version has taken, failed ones included.

        Raises:
            ConfigError: It is not loaded.
        """
        return self.monitor(version_id).total_predictions

    def health(self, version_id: str) -> Health:
        """How one version has been doing.

        Raises:
            ConfigError: It is not loaded.
        """
        return self.monitor(version_id).health()

    def health_since_split(self, version_id: str) -> Health | None:
        """How one version has done what was meant for it since the shares last changed.

        Latency and errors, no metrics. Of a version that has no share any more, while it last had
        one; None if it never had.
        """
        recent = self._routing.recent.get(version_id)
        return None if recent is None else recent.health()

    def health_beside(self, version_id: str) -> Health | None:
        """How one version has been doing beside the others: since the last one joined them.

        Latency and errors of what was meant for it, and the outcomes of what it answered. A
        version joins by its first share, or as a shadow; `measure_anew` begins all of it again.
        None if it had no share since.
        """
        beside = self._routing.beside.get(version_id)
        return None if beside is None else beside.health()

    def monitor(self, version_id: str) -> ModelMonitor:
        """The monitor of one version.

        Raises:
            ConfigError: It is not loaded.
        """
        self._refuse_unknown(version_id)
        return self._routing.served[version_id].monitor

    # ── inside ────────────────────────────────────────────────────────────────────

    def _slot(self, user_id: str | None) -> int:
        if user_id is not None:
            return slot_of(self.model_name, "deployment", user_id)
        with self._drawing:
            return int(self._rng.integers(N_SLOTS))

    def _warn_without_user(self) -> None:
        self._has_warned = True
        _logger.warning(
            "Requests of %r are split over versions and come without a user_id: one account would "
            "alternate between them. Pass user_id=, the same for each account.",
            self.model_name,
        )

    def _told(
        self,
        routing: Routing,
        output: Any,
        version_id: str | None,
        request_id: str,
        meant: str,
        *,
        error: str | None = None,
    ) -> Answer:
        """The answer, remembered for its outcome and told to the listeners."""
        by = None if version_id is None else (version_id, routing.beside.get(version_id))
        self._requests.remember(request_id, by)
        if self._listeners:
            self._tell()
        return Answer(output, version_id, request_id, meant, error)

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                _logger.exception("A listener of the deployment of %s failed.", self.model_name)
