"""`Deployment`: traffic split over versions, with the stable one behind each of the others."""

import itertools
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import (
    CapacityError,
    ConfigError,
    InputError,
    NotReadyError,
    RequestNotFoundError,
)
from modelyard._core.ids import new_id
from modelyard.deployment.answer import Answer
from modelyard.deployment.attempts import Attempt, Deadline
from modelyard.deployment.recent import Recent
from modelyard.deployment.routed import Routing, record
from modelyard.deployment.serving import Maker, VersionSource, size_of
from modelyard.deployment.shadowing import Shadow, ShadowComparison
from modelyard.monitor import Health, ModelMonitor
from modelyard.routing import N_SLOTS, SlotTable, slot_of

_logger = logging.getLogger("modelyard")

_REMEMBERED_REQUESTS = 100_000
_MB = 1e6
_TOLERANCE = 1e-6  # of a sum of shares
_NO_FALLBACK = object()
_T = TypeVar("_T")


class Deployment:
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
        for name, value in (("timeout_s", timeout_s), ("memory_limit_mb", memory_limit_mb)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0 or None, got {value!r}.")
        self.model_name = model_name
        self._source = version_manager
        self._clock = clock or SystemClock()
        self._maker = Maker(
            source=version_manager,
            window_size=window_size,
            thresholds=alert_thresholds,
            cache_size=cache_size,
            optimize=optimize,
            clock=self._clock,
            store=store,
        )
        self._timeout_s = timeout_s
        self._memory_limit_mb = memory_limit_mb
        self._rng = generator(seed)
        self._routing = Routing()
        self._changing = threading.RLock()  # guards changes of _routing and the listeners
        self._asking = threading.Lock()  # guards _rng and _requests
        # Whom an outcome will judge.
        self._requests: OrderedDict[str, str | None] = OrderedDict()
        self._id_prefix = f"{new_id('request')}-{os.getpid()}"
        self._numbers = itertools.count()
        self._listeners: list[Callable[[], None]] = []

    # ── versions ────────────────────────────────────────────────────────────────────────────

    def serve(self, version_id: str) -> None:
        """Give all the traffic to one version.

        Raises:
            ConfigError: It is a version of another model.
            VersionNotFoundError, IntegrityError, UntrustedClassError: It cannot be loaded.
            InputError: It does not answer.
        """
        self.add_version(version_id)
        self.set_shares({version_id: 1.0}, stable=version_id)

    def add_version(self, version_id: str, model: Any = None) -> None:
        """Make a version ready to answer; it gets no traffic yet. Nothing if it is ready.

        Args:
            version_id: Which one.
            model: Its module if it is loaded already.

        Raises:
            ConfigError: It is a version of another model.
            VersionNotFoundError, IntegrityError, UntrustedClassError: It cannot be loaded.
            InputError: It does not run on the example input saved with it, or answers with NaN or
                infinity.
            CapacityError: With it, the loaded versions would be over `memory_limit_mb`.
        """
        with self._changing:
            if version_id in self._routing.served:
                return
            self._refuse_other_model(version_id, is_loaded=model is not None)
            module = self._maker.loaded(version_id, model)
            self._refuse_too_large(version_id, module)
            made = self._maker.made(version_id, module)
            deadlines = {**self._routing.deadlines}
            if self._timeout_s is not None:
                deadlines[version_id] = Deadline(self._timeout_s)
            served = {**self._routing.served, version_id: made}
            self._routing = replace(self._routing, served=served, deadlines=deadlines)

    def set_shares(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Split the traffic, at once.

        Args:
            shares: Part of the traffic by version, 0 to 1, adding up to 1.
            stable: The version that answers what another fails to.

        Raises:
            ConfigError: Shares that do not add up, or a version that was not added.
        """
        with self._changing:
            unknown = sorted({*shares, stable} - self._routing.served.keys())
            if unknown:
                raise ConfigError(f"{unknown[0]!r} is not loaded: call add_version() first.")
            _check_shares(shares)
            weights = {version_id: share for version_id, share in shares.items() if share > 0}
            before = self._routing.slots
            slots = before.reassigned(weights) if before else SlotTable.from_weights(weights)
            recent = self._routing.recent
            if slots != before:
                # A version that has no share any more keeps what it did while it had one.
                recent = {**recent, **self._recent_of(weights)}
            self._routing = replace(self._routing, slots=slots, stable=stable, recent=recent)

    def retire(self, version_id: str) -> None:
        """Forget a version that has no traffic; its memory is freed. Nothing if it is unknown.

        Raises:
            ConfigError: It still has traffic, or stands behind the others.
        """
        with self._changing:
            if self.shares().get(version_id) or version_id == self._routing.stable:
                raise ConfigError(
                    f"{version_id!r} still has traffic or is stable: set_shares() first."
                )
            if self._routing.shadow is not None and self._routing.shadow.version_id == version_id:
                self.set_shadow(None)
            routing = self._routing
            deadline = routing.deadlines.get(version_id)
            if deadline is not None:
                deadline.close()
            self._routing = replace(
                routing,
                served=_without(version_id, routing.served),
                deadlines=_without(version_id, routing.deadlines),
                recent=_without(version_id, routing.recent),
            )

    def set_shadow(self, version_id: str | None) -> None:
        """Have a version answer copies of requests from now on, or none.

        Its answers are compared with the stable version's (`shadow_comparison`); nobody gets
        them. It answers on a thread of its own, and where more requests come than it can answer,
        copies are dropped and counted. Its own monitor sees nothing of it: latencies on such a
        thread are not those of real requests.

        Raises:
            ConfigError: It was not added.
        """
        with self._changing:
            before = self._routing.shadow
            if before is not None and before.version_id == version_id:
                return
            made = None
            if version_id is not None:
                self.monitor(version_id)
                made = Shadow(
                    self._routing.served[version_id],
                    window_size=self._maker.window_size,
                    clock=self._clock,
                )
            self._routing = replace(self._routing, shadow=made)
            if before is not None:
                before.stop()

    def shadow_health(self, version_id: str) -> Health | None:
        """Answers and errors of a version on copies of requests; None if it gets none."""
        shadow = self._routing.shadow
        if shadow is None or shadow.version_id != version_id:
            return None
        return shadow.health()

    def shadow_comparison(self) -> ShadowComparison | None:
        """How the answers to copies differ from the stable version's; None without a shadow."""
        shadow = self._routing.shadow
        return None if shadow is None else shadow.comparison()

    def hold_on_stable(self, *, is_held: bool = True) -> None:
        """Have the stable version answer everything, whatever the shares are; or no longer."""
        with self._changing:
            self._routing = replace(self._routing, is_held=is_held)

    def memory_mb(self) -> float:
        """Parameters and buffers of all loaded versions, in 10^6 bytes."""
        return sum(served.size_bytes for served in self._routing.served.values()) / _MB

    def shares(self) -> dict[str, float]:
        """Part of the traffic by version, 0 to 1."""
        slots = self._routing.slots
        return {} if slots is None else slots.shares()

    def versions(self) -> list[str]:
        """Versions that are ready to answer, in the order they were added."""
        return list(self._routing.served)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every request; it should be quick. What it raises is logged."""
        with self._changing:
            self._listeners = [*self._listeners, listener]

    # ── requests ────────────────────────────────────────────────────────────────────────────

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
            user_id: Keeps a user on one version; without it the request goes anywhere by share.
            request_id: Under which outcomes are recorded; made if not given.
            fallback: Output to give if no version answers.

        Raises:
            NotReadyError: No version serves.
            Exception: What the stable version raised, if it fails too and there is no fallback.
        """
        routing = self._routing
        if routing.slots is None or routing.stable is None:
            raise NotReadyError("No version serves: call serve(version_id) first.")
        request_id = request_id or f"{self._id_prefix}-{next(self._numbers)}"
        stable = routing.stable
        meant = stable if routing.is_held else routing.slots.owners[self._slot(user_id)]
        made = routing.attempt(meant, x)
        if made.error is not None:
            return self._rescued(routing, made, x, request_id, fallback)
        record(made, x, request_id)
        routing.note(made)
        if routing.shadow is not None and meant == stable:
            routing.shadow.offer(x, made.output, request_id)
        return self._given(made.output, meant, request_id, meant, None)

    def record_outcome(self, request_id: str, metrics: Mapping[str, Any]) -> None:
        """Join what became of a request to the version that answered it.

        An outcome of a fallback, or of a version that was retired meanwhile, judges nobody; so
        does a second outcome of the same request. Values that are not finite do not count.

        Raises:
            RequestNotFoundError: Not one of the last 100,000 answered requests.
            ConfigError: A metric that is no number; the outcome may be given again.
        """
        values = {name: _as_number(name, value) for name, value in metrics.items()}
        with self._asking:
            if request_id not in self._requests:
                raise RequestNotFoundError(
                    f"{request_id!r} is not among the last {_REMEMBERED_REQUESTS} requests."
                )
            version_id = self._requests[request_id]
            self._requests[request_id] = None  # a second outcome judges nobody
        served = self._routing.served.get(version_id or "")
        if served is not None:
            for name, value in values.items():
                served.monitor.record_metric(name, value)

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

    def monitor(self, version_id: str) -> ModelMonitor:
        """The monitor of one version.

        Raises:
            ConfigError: It is not loaded.
        """
        served = self._routing.served.get(version_id)
        if served is None:
            known = ", ".join(sorted(self._routing.served)) or "none"
            raise ConfigError(f"{version_id!r} is not loaded. Loaded are: {known}.")
        return served.monitor

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _refuse_other_model(self, version_id: str, *, is_loaded: bool) -> None:
        try:
            model_name = self._source.get_version(version_id)["model_name"]
        except LookupError:
            # Whoever brings the module along needs no stored version for it.
            if is_loaded:
                return
            raise
        if model_name != self.model_name:
            raise ConfigError(
                f"{version_id!r} is a version of {model_name!r}; this deployment serves "
                f"{self.model_name!r}."
            )

    def _slot(self, user_id: str | None) -> int:
        if user_id is not None:
            return slot_of(self.model_name, "deployment", user_id)
        with self._asking:
            return int(self._rng.integers(N_SLOTS))

    def _refuse_too_large(self, version_id: str, module: Any) -> None:
        limit = self._memory_limit_mb
        needed = self.memory_mb() + size_of(module) / _MB
        if limit is not None and needed > limit:
            loaded = ", ".join(self._routing.served) or "none"
            raise CapacityError(
                f"With {version_id} the loaded versions would take {needed:.1f} MB, over "
                f"memory_limit_mb={limit:g}. Loaded are: {loaded}. Retire one, or raise the limit."
            )

    def _recent_of(self, version_ids: Iterable[str]) -> dict[str, Recent]:
        return {version_id: Recent(self._maker.window_size) for version_id in version_ids}

    def _rescued(
        self, routing: Routing, failed: Attempt, x: Any, request_id: str, fallback: Any
    ) -> Answer:
        """What the stable version answers in place of one that failed; then the fallback."""
        meant, stable = failed.served.version_id, routing.stable
        attempts = [failed]
        if stable is not None and meant != stable:
            attempts.append(routing.attempt(stable, x))
        # What the stable version refuses too, the input is to blame for.
        if len(attempts) == 1 or not all(isinstance(one.error, InputError) for one in attempts):
            for made in attempts:
                record(made, x, request_id)
            routing.note(failed)
        last = attempts[-1]
        if last.error is None:
            return self._given(last.output, stable, request_id, meant, failed.error)
        if fallback is _NO_FALLBACK:
            self._tell()
            raise last.error
        return self._given(fallback, None, request_id, meant, last.error)

    def _given(
        self,
        output: Any,
        version_id: str | None,
        request_id: str,
        routed_to: str,
        error: Exception | None,
    ) -> Answer:
        """The answer, remembered for its outcome and told to the listeners."""
        with self._asking:
            self._requests[request_id] = version_id
            if len(self._requests) > _REMEMBERED_REQUESTS:
                self._requests.popitem(last=False)
        if self._listeners:
            self._tell()
        return Answer(
            output=output,
            version_id=version_id,
            request_id=request_id,
            routed_to=routed_to,
            error=None if error is None else str(error),
        )

    def _tell(self) -> None:
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                _logger.exception("A listener of the deployment of %s failed.", self.model_name)


def _without(version_id: str, kept: Mapping[str, _T]) -> dict[str, _T]:
    return {key: one for key, one in kept.items() if key != version_id}


def _check_shares(shares: Mapping[str, float]) -> None:
    is_split = all(0.0 <= share <= 1.0 for share in shares.values())
    if not is_split or abs(sum(shares.values()) - 1.0) > _TOLERANCE:
        raise ConfigError(f"Shares must lie between 0 and 1 and add up to 1, got {dict(shares)}.")


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Metric {name!r} must be a number, got {value!r}.") from error
