"""`Deployment`: traffic split over versions, with the stable one behind each of the others."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import (
    ConfigError,
    InputError,
    IntegrityError,
    NotReadyError,
    RequestNotFoundError,
)
from modelyard._core.ids import new_id
from modelyard.deployment.answer import Answer
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.tuning import TuningRecord
from modelyard.monitor import Health, ModelMonitor
from modelyard.routing import N_SLOTS, SlotTable, slot_of
from modelyard.torchtools.inputs import as_inputs
from modelyard.torchtools.parity import flat_outputs

_logger = logging.getLogger("modelyard")

_REMEMBERED_REQUESTS = 100_000
_LONGEST_NAME = 120
_TOLERANCE = 1e-6  # of a sum of shares
_NO_FALLBACK = object()


class VersionSource(Protocol):
    """Where versions come from. `ModelVersionManager` is one."""

    def get_version(self, version_id: str) -> Mapping[str, Any]:
        """What is known about a version, its `model_name` among it; a `LookupError` if nothing."""
        ...

    def load_model(self, version_id: str, model_class: Any = ..., load_full: bool = ...) -> Any:  # noqa: FBT001 - as the registry has it
        """The module of a version."""
        ...

    def read_artifact(self, version_id: str, name: str) -> Any:
        """Something that travels with it."""
        ...

    def read_attachment(self, version_id: str, name: str) -> Any:
        """Something that was added to it later; a `LookupError` if nothing was."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Served:
    """One version that can answer, with what serves and what watches it."""

    version_id: str
    optimizer: InferenceOptimizer
    monitor: ModelMonitor


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What one version made of a request: an output, or the error that came instead."""

    served: _Served
    output: Any
    error: Exception | None
    latency_s: float


@dataclass(kw_only=True)
class _Asked:
    """Who answered a request, and whether its outcome is known already."""

    version_id: str | None
    has_outcome: bool = False


@dataclass(frozen=True, kw_only=True)
class _Routing:
    """Who answers what. Replaced as a whole, so no request sees half of a change."""

    served: Mapping[str, _Served] = field(default_factory=dict)
    slots: SlotTable | None = None
    stable: str | None = None


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
    ) -> None:
        self.model_name = model_name
        self._source = version_manager
        self._window_size = window_size
        self._thresholds = alert_thresholds
        self._cache_size = cache_size
        self._optimize = optimize
        self._clock = clock or SystemClock()
        self._store = store
        self._rng = generator(seed)
        self._routing = _Routing()
        self._changing = threading.RLock()  # guards changes of _routing and the listeners
        self._asking = threading.Lock()  # guards _rng and _requests
        self._requests: OrderedDict[str, _Asked] = OrderedDict()
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
        """
        with self._changing:
            if version_id in self._routing.served:
                return
            self._refuse_other_model(version_id, is_loaded=model is not None)
            served = {**self._routing.served, version_id: self._made(version_id, model)}
            self._routing = replace(self._routing, served=MappingProxyType(served))

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
            self._routing = replace(self._routing, slots=slots, stable=stable)

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
            kept = {key: one for key, one in self._routing.served.items() if key != version_id}
            self._routing = replace(self._routing, served=MappingProxyType(kept))

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
        request_id = request_id or new_id("request")
        meant = routing.slots.owners[self._slot(user_id)]
        attempts: list[_Attempt] = []
        for version_id in dict.fromkeys((meant, routing.stable)):
            attempts.append(_attempt(routing.served[version_id], x))
            if attempts[-1].error is None:
                break
        self._record(attempts, x, request_id)
        last = attempts[-1]
        if last.error is None:
            answered_by = last.served.version_id
            rescued_from = attempts[0].error
            return self._given(last.output, answered_by, request_id, meant, rescued_from)
        if fallback is _NO_FALLBACK:
            self._tell()
            raise last.error
        return self._given(fallback, None, request_id, meant, last.error)

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
            asked = self._requests[request_id]
            if asked.has_outcome:
                return
            asked.has_outcome = True
        served = self._routing.served.get(asked.version_id or "")
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

    def _made(self, version_id: str, model: Any) -> _Served:
        module = self._source.load_model(version_id, load_full=True) if model is None else model
        optimizer = InferenceOptimizer(module, cache_size=self._cache_size, clock=self._clock)
        example = self._example_of(version_id)
        if example is not None:
            # A version that cannot answer must not get traffic.
            _refuse_non_finite(optimizer.predict(example), version_id)
        if self._optimize:
            optimizer.optimize_for_inference(example, reuse=self._tuning_of(version_id))
        monitor = ModelMonitor(
            _monitor_name(version_id),
            window_size=self._window_size,
            alert_thresholds=self._thresholds,
            clock=self._clock,
            store=self._store,
        )
        self._give_baseline(monitor, version_id)
        return _Served(version_id=version_id, optimizer=optimizer, monitor=monitor)

    def _example_of(self, version_id: str) -> Any:
        try:
            return as_inputs(self._source.read_artifact(version_id, "example_input"))
        except LookupError:
            return None

    def _give_baseline(self, monitor: ModelMonitor, version_id: str) -> None:
        """Have a monitor that knows no baseline take the one that is stored with the version."""
        if monitor.baseline_status != "none":
            return
        try:
            state = self._source.read_attachment(version_id, "baseline")
            monitor.load_baseline(state, actor="deployment")
        except LookupError:
            return  # none was stored with it
        except (ValueError, IntegrityError) as error:
            _logger.warning(
                "The baseline stored with %s cannot be used, so that its drift is not judged "
                "until another is set: %s",
                version_id,
                error,
            )

    def _tuning_of(self, version_id: str) -> Any:
        """The choice of backends that was stored with the version; None if none can be read."""
        try:
            found = self._source.read_attachment(version_id, "tuning")
            TuningRecord.from_dict(found)
        except LookupError:
            return None
        except (ValueError, IntegrityError) as error:
            _logger.warning(
                "The tuning stored with %s cannot be used, so that its backends are measured "
                "anew: %s",
                version_id,
                error,
            )
            return None
        return found

    def _slot(self, user_id: str | None) -> int:
        if user_id is not None:
            return slot_of(self.model_name, "deployment", user_id)
        with self._asking:
            return int(self._rng.integers(N_SLOTS))

    @staticmethod
    def _record(attempts: Sequence[_Attempt], x: Any, request_id: str) -> None:
        """What each version took and whether it failed, unless the input is to blame."""
        if len(attempts) > 1 and all(isinstance(one.error, InputError) for one in attempts):
            return
        for attempt in attempts:
            attempt.served.monitor.record_prediction(
                attempt.output,
                attempt.latency_s,
                features=x if isinstance(x, torch.Tensor | np.ndarray) else None,
                error=attempt.error is not None,
                request_id=request_id,
                version_id=attempt.served.version_id,
            )

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
            self._requests[request_id] = _Asked(version_id=version_id)
            if len(self._requests) > _REMEMBERED_REQUESTS:
                self._requests.popitem(last=False)
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


def _check_shares(shares: Mapping[str, float]) -> None:
    is_split = all(0.0 <= share <= 1.0 for share in shares.values())
    if not is_split or abs(sum(shares.values()) - 1.0) > _TOLERANCE:
        raise ConfigError(f"Shares must lie between 0 and 1 and add up to 1, got {dict(shares)}.")


def _monitor_name(version_id: str) -> str:
    """Each version's windows and alerts are stored under its own name, of at most 120 letters."""
    return version_id[-_LONGEST_NAME:].lstrip("._-")


def _attempt(served: _Served, x: Any) -> _Attempt:
    """One version's try at a request, timed."""
    output, error = None, None
    started = time.perf_counter()
    try:
        output = served.optimizer.predict(x)
        _refuse_non_finite(output, served.version_id)
    except Exception as failure:  # noqa: BLE001 - whatever a candidate does, stable answers
        output, error = None, failure
    latency_s = time.perf_counter() - started
    return _Attempt(served=served, output=output, error=error, latency_s=latency_s)


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Metric {name!r} must be a number, got {value!r}.") from error


def _refuse_non_finite(output: Any, version_id: str) -> None:
    tensors = flat_outputs(as_inputs(output))
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError(f"{version_id} answered with NaN or infinity.")
