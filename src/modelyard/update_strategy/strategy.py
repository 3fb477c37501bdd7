"""`UpdateStrategy`: decides from evidence, moves in steps, goes back by itself."""

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, RolloutInProgressError, StaleRevisionError
from modelyard._core.ids import new_id
from modelyard.storage import Store
from modelyard.storage.leases import Lease
from modelyard.update_strategy import due, telling
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.conductor import PRODUCTION, Conductor, is_passing
from modelyard.update_strategy.earlier import earlier_productions
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.records import (
    RollbackDecision,
    RollbackResult,
    RolloutState,
    UpdateDecision,
    UpdateRecord,
)
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import target_for
from modelyard.update_strategy.triggers import UpdateTrigger, as_trigger

_logger = logging.getLogger("modelyard")

_LEASE_S = 30.0
# How often requests look for a step that is due: while a rollout runs, and while none does.
_LOOK_EVERY_S = 0.2
_LOOK_EVERY_CALLS = 10
_LOOK_IDLE_S = 1.0


class UpdateStrategy:
    """Decides when a model is updated, shifts its traffic and rolls back.

    Everything that happens is written to the store before it is done, so another process (or the
    next one after a crash) goes on where this one stopped. Thread-safe: one lock guards what this
    object remembers; what counts is in the store.

    A candidate is judged by the deployment's own measurements of it. So is production between
    rollouts (`should_update`, `should_rollback`): predictions and key metric each come from the
    deployment where that has `step_min_samples` of them, else from whichever has more, deployment
    or `monitor`. Drift comes from the production version's monitor in the deployment where that
    has a baseline, else from `monitor`. An optimizer measures nothing itself: what `monitor`
    records after the exchange is taken for the new version's. Without either, `monitor` it is.

    Args:
        version_manager: The registry.
        monitor: Watches the model; `monitor.model_name` says which one it is.
        config: Settings by name (`UpdateSettings`); what is left out keeps its default.
        deployment: What serves: a `Deployment`, or an `InferenceOptimizer`, whose model is
            exchanged at 100 % and then judged if the monitor records anything. Without one only
            the production pointer moves, by the clock.
        is_remote: Whether this object only gives commands to the process that serves.
        store: Where rollouts are kept; the registry's by default.
        clock: Where the time comes from.
        seed: Taken as every class with state takes it; nothing here is left to chance.
        actor: Who is written to the audit.

    Raises:
        ConfigError: An unknown setting, or one that breaks its rule.
    """

    def __init__(
        self,
        version_manager: Registry,
        monitor: Watcher,
        config: Mapping[str, Any] | None = None,
        *,
        deployment: Any = None,
        is_remote: bool = False,
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,  # noqa: ARG002 - see the docstring
        actor: str = "update_strategy",
    ) -> None:
        self.settings = UpdateSettings.from_config(config)
        self.model_name = monitor.model_name
        self._registry = version_manager
        self._monitor = monitor
        self._clock = clock or SystemClock()
        self._target = target_for(
            deployment, version_manager, monitor=monitor, is_remote=is_remote
        )
        store = store or version_manager.store
        self._log = RolloutLog(store, self.model_name)
        self._lease = Lease(
            store,
            f"rollout:{self.model_name}",
            f"{socket.gethostname()}:{os.getpid()}:{new_id('strategy')}",
            seconds=_LEASE_S,
            clock=self._clock,
        )
        self._baseline = Baseline(monitor, self.settings, store=store, clock=self._clock)
        self._lock = threading.RLock()
        self._looked_at_s = float("-inf")
        self._n_calls = 0
        self._is_idle = False
        self._has_warned = False
        self._created_at = self._clock.now()
        self._conductor = Conductor(
            version_manager,
            monitor,
            self._target,
            log=self._log,
            lease=self._lease,
            baseline=self._baseline,
            settings=self.settings,
            clock=self._clock,
            actor=actor,
        )
        subscribe = getattr(deployment, "subscribe", None)
        if subscribe is not None:
            subscribe(self._on_request)

    # ── deciding ────────────────────────────────────────────────────────────────────────────

    def set_baseline(self) -> None:
        """Make the present the baseline, of the monitor and of latency and key metric.

        Without data the monitor's baseline is armed: its next full window becomes it.
        """
        with self._lock:
            self._baseline.set()

    def should_update(self) -> UpdateDecision:
        """Whether an update is due, and why. No while a rollout runs and in the cooldown."""
        self.advance()
        now = self._conductor.present()
        found = self._due(now) if now.n >= self.settings.min_samples else []
        if self._is_scheduled():
            sentence = f"the schedule {self.settings.schedule!r} has come round"
            found.append(due.Due(trigger=UpdateTrigger.SCHEDULED, sentence=sentence))
        until = self._cooldown_until()
        blocked = self._blocked_by(now, until)
        return {
            "should_update": bool(found) and blocked is None,
            "reasons": [item.sentence for item in found],
            "triggers": list(dict.fromkeys(item.trigger.value for item in found)),
            "blocked_by": blocked,
            "n_samples": now.n,
            "cooldown_until": None if until is None else until.isoformat(),
        }

    def should_rollback(self) -> RollbackDecision:
        """Whether what serves now breaks a limit with enough samples behind it.

        The candidate of a rollout is compared with the stable version at the same time, where
        both are measured; else production's present with the baseline.
        """
        now, baseline = self._conductor.sides(self._log.current())
        reasons = rollback_reasons(now, baseline, self.settings)
        return {
            "should_rollback": bool(reasons),
            "reasons": reasons,
            "evidence": {"now": now.to_plain(), "baseline": baseline.to_plain()},
        }

    # ── moving ──────────────────────────────────────────────────────────────────────────────

    def update_model(
        self,
        new_version_id: str,
        trigger: UpdateTrigger | str = UpdateTrigger.MANUAL,
        smooth_transition: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        supersede: bool = False,
        actor: str | None = None,
    ) -> RolloutState:
        """Begin to move the traffic to a version; returns at once.

        Args:
            new_version_id: A version of this model.
            trigger: Why, an `UpdateTrigger` or its value.
            smooth_transition: Step by step; False moves everything now.
            supersede: Abort another rollout that is running.
            actor: Who asked, for the audit.

        Returns:
            The state; "already_running" if the version is production or rolling out already.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: No version id, a version of another model, or an unknown trigger.
            RolloutInProgressError: Another rollout is running.
        """
        reason = as_trigger(trigger)
        if not isinstance(new_version_id, str):
            raise ConfigError(f"new_version_id must be a version id, got {new_version_id!r}.")
        version = self._registry.get_version(new_version_id)
        if version["model_name"] != self.model_name:
            raise ConfigError(
                f"{new_version_id!r} is a version of {version['model_name']!r}; this strategy is "
                f"for {self.model_name!r}."
            )
        with self._lock:
            self.advance()
            running = self._log.current()
            production = self._conductor.production()
            if running is not None and running.new_version_id == new_version_id:
                return {**telling.state_of(running), "status": "already_running"}
            if running is None and production == new_version_id:
                return telling.already_production(
                    new_version_id, reason, n_steps=len(self.settings.steps)
                )
            if running is not None and not supersede:
                raise RolloutInProgressError(telling.in_progress(running))
            self._warn_without_target()
            # What cannot be loaded must not begin to roll out, nor end what does.
            self._target.prepare(new_version_id)
            if running is not None:
                self._conductor.abort(running, reason=f"superseded by {new_version_id}")
            started = self._conductor.start(
                old=production,
                new=new_version_id,
                trigger=reason.value,
                is_direct=production is None or not smooth_transition,
                actor=actor,
            )
            self._is_idle = not started.is_unfinished
            return telling.state_of(started)

    def rollback(self, *, reason: str = "asked for", actor: str | None = None) -> RollbackResult:
        """Go back: end the rollout that runs, or make the earlier production that again.

        An earlier version that is gone or does not load is passed over for the one before it;
        the reason says so. Nothing earlier gives `rolled_back: False` and a critical alert.

        Raises:
            StorageError: The store is out of reach; production stays as it is.
        """

        def undone(rollout: Rollout) -> Rollout | None:
            if rollout.old_version_id is None:
                return None
            return self._conductor.roll_back(rollout, reason=reason, actor=actor)

        with self._lock:
            ended = self._conductor.command(undone)
            if ended is not None:
                return telling.rollback_of(ended)
            production = self._conductor.production()
            earlier, passed_over = self._earlier_that_serves()
            if production is None or earlier is None:
                return self._nowhere_to_go(production, passed_over)
            done = self._conductor.go_back(
                old=production,
                new=earlier,
                trigger=UpdateTrigger.MANUAL.value,
                reason="; ".join([reason, *passed_over]),
                actor=actor,
            )
            return telling.rollback_of(done)

    def pause(self, *, reason: str = "asked for", actor: str | None = None) -> RolloutState | None:
        """Hold the rollout at its present shares; the guard stays on. None if none runs."""
        return self._held(states.RUNNING, states.PAUSED, "pause", reason, actor)

    def resume(
        self, *, reason: str = "asked for", actor: str | None = None
    ) -> RolloutState | None:
        """Let a paused rollout go on. None if none is paused."""
        return self._held(states.PAUSED, states.RUNNING, "resume", reason, actor)

    def abort(self, *, reason: str = "asked for", actor: str | None = None) -> RolloutState | None:
        """End the rollout; the stable version gets all the traffic. None if none runs."""

        def aborted(rollout: Rollout) -> Rollout:
            return self._conductor.abort(rollout, reason=reason, actor=actor)

        with self._lock:
            return self._told(self._conductor.command(aborted))

    def advance(self) -> RolloutState | None:
        """Look at the rollout and take the step that is due; the state, or None without one.

        Called by every method here that moves or decides and by every request to the deployment;
        call it from a timer, or use `running()`, where neither comes often enough.
        """
        with self._lock:
            self._looked_at_s = self._clock.monotonic_s()
            try:
                rollout = self._conductor.advance()
            except StaleRevisionError:
                # Someone gave a command meanwhile; the next look does what it says.
                rollout = self._log.current()
            self._is_idle = rollout is None
            return self._told(rollout)

    @contextmanager
    def running(self, *, every_s: float = 1.0) -> Iterator["UpdateStrategy"]:
        """Advance in a thread, every `every_s` seconds, while the block runs; then let others."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(every_s):
                self._advance_quietly()

        thread = threading.Thread(target=work, name="modelyard-rollout", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self.close()

    def close(self) -> None:
        """Let another process lead at once. This object may go on: it leads again if it can."""
        with self._lock:
            self._lease.give_back()

    def get_update_history(self, limit: int | None = None) -> list[UpdateRecord]:
        """Updates and rollbacks, newest first, with everything that happened to each."""
        self.advance()
        return self._log.history(limit)

    def get_rollout(self) -> RolloutState | None:
        """The rollout that is not finished, or None. Changes nothing."""
        return self._told(self._log.current())

    # ── inside ────────────────────────────────────────────────────────────────────

    def _due(self, now: Evidence) -> list[due.Due]:
        watcher = self._conductor.drift_watcher()
        drifts = {
            "prediction": watcher.detect_prediction_drift(),
            "feature": watcher.detect_feature_drift(),
        }
        return due.updates_due(now, self._baseline.evidence(), drifts, self.settings)

    def _earlier_that_serves(self) -> tuple[str | None, list[str]]:
        """The newest earlier production that can serve, and why newer ones cannot."""
        passed_over = []
        events = self._registry.get_history(self.model_name)
        for version_id in earlier_productions(events, PRODUCTION):
            try:
                self._target.prepare(version_id)
            except Exception as error:
                if is_passing(error):
                    raise
                passed_over.append(f"{version_id} was passed over: {error}")
            else:
                return version_id, passed_over
        return None, passed_over

    def _is_scheduled(self) -> bool:
        newest = self._log.newest()
        since = self._created_at
        if newest is not None:
            since = max(since, datetime.fromisoformat(newest.started_at))
        return due.is_scheduled(self.settings.schedule, since=since, now=self._clock.now())

    def _cooldown_until(self) -> datetime | None:
        newest = self._log.newest()
        if newest is None:
            return None
        since = datetime.fromisoformat(newest.finished_at or newest.started_at)
        until = since + timedelta(hours=self.settings.cooldown_hours)
        return until if until > self._clock.now() else None

    def _blocked_by(self, now: Evidence, cooldown_until: datetime | None) -> str | None:
        running = self._log.current()
        if running is not None:
            return f"{running.new_version_id} is rolling out ({running.rollout_id})"
        if cooldown_until is not None:
            return f"the cooldown after the last update lasts until {cooldown_until.isoformat()}"
        if now.n < self.settings.min_samples and self.settings.schedule is None:
            return f"{now.n} of {self.settings.min_samples} predictions"
        return None

    def _held(
        self, wanted: str, status: str, action: str, reason: str, actor: str | None
    ) -> RolloutState | None:
        def held(rollout: Rollout) -> Rollout | None:
            if rollout.status != wanted:
                return None
            return self._conductor.hold(rollout, status, action, reason=reason, actor=actor)

        with self._lock:
            return self._told(self._conductor.command(held))

    def _on_request(self) -> None:
        """What the deployment calls at every request: cheap, and never raises."""
        self._n_calls += 1
        waited_s = self._clock.monotonic_s() - self._looked_at_s
        if self._is_idle and waited_s < _LOOK_IDLE_S:
            return
        if waited_s < _LOOK_EVERY_S and self._n_calls % _LOOK_EVERY_CALLS:
            return
        # One request looks; the others must not wait for it.
        if self._lock.acquire(blocking=False):
            try:
                self._advance_quietly()
            finally:
                self._lock.release()

    def _advance_quietly(self) -> None:
        try:
            self.advance()
        except Exception as error:  # noqa: BLE001 - the model goes on serving, whatever it is
            _logger.warning("The rollout of %s could not advance: %s", self.model_name, error)

    @staticmethod
    def _told(rollout: Rollout | None) -> RolloutState | None:
        return None if rollout is None else telling.state_of(rollout)

    def _nowhere_to_go(self, production: str | None, passed_over: Sequence[str]) -> RollbackResult:
        result = telling.nowhere_to_go(self.model_name, production, passed_over)
        self._monitor.raise_alert("rollback", severity="critical", message=result["reason"])
        _logger.critical("%s", result["reason"])
        return result

    def _warn_without_target(self) -> None:
        is_pointer_only = self._target.goes_by_clock and not self._target.applied_to
        if is_pointer_only and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "UpdateStrategy of %r has no deployment: only the production pointer moves, by "
                "the clock. Pass deployment= to move traffic.",
                self.model_name,
            )
