"""`UpdateStrategy`: decides from evidence, moves in steps, goes back by itself."""

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import (
    ConfigError,
    ModelyardError,
    RolloutInProgressError,
    StaleRevisionError,
    VersionNotFoundError,
)
from modelyard._core.ids import new_id
from modelyard.storage import Store, take_lease
from modelyard.update_strategy import decisions, telling
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.decisions import Evidence
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.records import (
    RollbackDecision,
    RollbackResult,
    RolloutState,
    UpdateDecision,
    UpdateRecord,
)
from modelyard.update_strategy.rollout import Move, Rollout, Verdict
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import target_for
from modelyard.update_strategy.triggers import UpdateTrigger, as_trigger

_logger = logging.getLogger("modelyard")

PRODUCTION = "production"
_BASELINE = "update_baseline"
_LEASE_S = 30.0
_RENEW_S = 10.0
# How often requests look for a step that is due: while a rollout runs, and while none does.
_LOOK_EVERY_S = 0.2
_LOOK_EVERY_CALLS = 10
_LOOK_IDLE_S = 1.0


class UpdateStrategy:
    """Decides when a model is updated, shifts its traffic and rolls back.

    Everything that happens is written to the store before it is done, so another process (or the
    next one after a crash) goes on where this one stopped. Thread-safe: one lock guards what this
    object remembers; what counts is in the store.

    Args:
        version_manager: The registry.
        monitor: Watches the model; `monitor.model_name` says which one it is.
        config: Settings by name (`UpdateSettings`); what is left out keeps its default.
        deployment: What serves: a `Deployment`, or an `InferenceOptimizer`, whose model is
            exchanged at 100 %. Without one only the production pointer moves, by the clock.
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
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,  # noqa: ARG002 - see the docstring
        actor: str = "update_strategy",
    ) -> None:
        self.settings = UpdateSettings.from_config(config)
        self.model_name = monitor.model_name
        self._registry = version_manager
        self._monitor = monitor
        self._store = store or version_manager.store
        self._clock = clock or SystemClock()
        self._actor = actor
        self._target = target_for(deployment, version_manager)
        self._log = RolloutLog(self._store, self.model_name)
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{new_id('strategy')}"
        self._lock = threading.RLock()
        self._applied: tuple[str, int] | None = None
        self._leads_until_s = float("-inf")
        self._looked_at_s = float("-inf")
        self._n_calls = 0
        self._is_idle = False
        self._has_warned = False
        self._created_at = self._clock.now()
        self._baseline = self._stored_baseline()
        subscribe = getattr(deployment, "subscribe", None)
        if subscribe is not None:
            subscribe(self._on_request)

    # ── deciding ────────────────────────────────────────────────────────────────────────────

    def set_baseline(self) -> None:
        """Make the present the baseline, of the monitor and of latency and key metric.

        Without data the monitor's baseline is armed: its next full window becomes it.
        """
        self._monitor.set_baseline()
        evidence = Evidence.of(self._monitor.health(), self.settings)
        if evidence.n < self.settings.step_min_samples:
            self._baseline = None
            return
        self._baseline = evidence
        self._store.save_snapshot(
            _BASELINE, self.model_name, evidence.to_plain(), clock=self._clock
        )

    def should_update(self) -> UpdateDecision:
        """Whether an update is due, and why. No while a rollout runs and in the cooldown."""
        self.advance()
        now = Evidence.of(self._monitor.health(), self.settings)
        due = self._due(now) if now.n >= self.settings.min_samples else []
        if self._is_scheduled():
            sentence = f"the schedule {self.settings.schedule!r} has come round"
            due.append(decisions.Due(trigger=UpdateTrigger.SCHEDULED, sentence=sentence))
        until = self._cooldown_until()
        blocked = self._blocked_by(now, until)
        return {
            "should_update": bool(due) and blocked is None,
            "reasons": [item.sentence for item in due],
            "triggers": list(dict.fromkeys(item.trigger.value for item in due)),
            "blocked_by": blocked,
            "n_samples": now.n,
            "cooldown_until": None if until is None else until.isoformat(),
        }

    def should_rollback(self) -> RollbackDecision:
        """Whether what serves now breaks a limit with enough samples behind it.

        The candidate of a rollout is compared with the stable version at the same time, where
        both are measured; else the monitor's present with the baseline.
        """
        now, baseline = self._sides(self._log.current())
        reasons = decisions.rollback_reasons(now, baseline, self.settings)
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
            ConfigError: A version of another model, or an unknown trigger.
            RolloutInProgressError: Another rollout is running.
        """
        reason = as_trigger(trigger)
        version = self._registry.get_version(new_version_id)
        if version["model_name"] != self.model_name:
            raise ConfigError(
                f"{new_version_id!r} is a version of {version['model_name']!r}; this strategy is "
                f"for {self.model_name!r}."
            )
        with self._lock:
            running = self._log.current()
            production = self._production()
            if running is not None and running.new_version_id == new_version_id:
                return {**self._state(running), "status": "already_running"}
            if running is None and production == new_version_id:
                return telling.already_production(
                    new_version_id, reason, n_steps=len(self.settings.steps)
                )
            if running is not None:
                self._supersede(running, new_version_id, allowed=supersede)
            is_direct = production is None or not smooth_transition
            return self._begin(
                old=production,
                new=new_version_id,
                trigger=reason.value,
                is_direct=is_direct,
                is_rollback=False,
                actor=actor,
            )

    def rollback(self, *, reason: str = "asked for", actor: str | None = None) -> RollbackResult:
        """Go back: end the rollout that runs, or make the earlier production that again.

        Nothing earlier gives `rolled_back: False` and a critical alert.
        """
        with self._lock:
            running = self._log.current()
            if running is not None and running.old_version_id is not None:
                verdict = Verdict(move=Move.ROLL_BACK, reason=reason)
                done = self._move(running, verdict, n_candidate=0, actor=actor)
                return telling.rollback_of(done, self._target.applied_to)
            production = self._production()
            events = self._registry.get_history(self.model_name)
            target = decisions.earlier_production(events, PRODUCTION)
            if production is None or target is None:
                return self._nowhere_to_go(production)
            state = self._begin(
                old=production,
                new=target,
                trigger=UpdateTrigger.MANUAL.value,
                is_direct=True,
                is_rollback=True,
                actor=actor,
            )
            return telling.rollback_to(state, reason=reason)

    def pause(self, *, reason: str = "asked for", actor: str | None = None) -> RolloutState | None:
        """Hold the rollout at its present shares; the guard stays on. None if none runs."""
        return self._command(states.RUNNING, states.PAUSED, "pause", reason, actor)

    def resume(
        self, *, reason: str = "asked for", actor: str | None = None
    ) -> RolloutState | None:
        """Let a paused rollout go on. None if none is paused."""
        return self._command(states.PAUSED, states.RUNNING, "resume", reason, actor)

    def abort(self, *, reason: str = "asked for", actor: str | None = None) -> RolloutState | None:
        """End the rollout; the stable version gets all the traffic. None if none runs."""
        with self._lock:
            running = self._log.current()
            if running is None:
                return None
            return self._state(self._abort(running, reason=reason, actor=actor))

    def advance(self) -> RolloutState | None:
        """Look at the rollout and take the step that is due; the state, or None without one.

        Called by every method here and by every request to the deployment; call it from a timer,
        or use `running()`, where neither comes often enough.
        """
        with self._lock:
            self._looked_at_s = self._clock.monotonic_s()
            rollout = self._log.current()
            self._is_idle = rollout is None
            if rollout is None:
                self._follow_the_end()
                return None
            if not self._leads():
                return self._state(rollout)
            try:
                return self._state(self._advanced(rollout))
            except StaleRevisionError:
                # Someone gave a command meanwhile; the next look sees it.
                return None

    @contextmanager
    def running(self, *, every_s: float = 1.0) -> Iterator["UpdateStrategy"]:
        """Advance in a thread, every `every_s` seconds, while the block runs."""
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

    def get_update_history(self, limit: int | None = None) -> list[UpdateRecord]:
        """Updates and rollbacks, newest first, with everything that happened to each."""
        self.advance()
        return self._log.history(limit)

    def get_rollout(self) -> RolloutState | None:
        """The rollout that is not finished, or None. Changes nothing."""
        rollout = self._log.current()
        return None if rollout is None else self._state(rollout)

    # ── inside: deciding ────────────────────────────────────────────────────────────────────

    def _due(self, now: Evidence) -> list[decisions.Due]:
        drifts = {
            "prediction": self._monitor.detect_prediction_drift(),
            "feature": self._monitor.detect_feature_drift(),
        }
        return decisions.updates_due(now, self._present_baseline(), drifts, self.settings)

    def _is_scheduled(self) -> bool:
        newest = self._log.newest()
        since = self._created_at
        if newest is not None:
            since = max(since, datetime.fromisoformat(newest.started_at))
        return decisions.is_scheduled(self.settings.schedule, since=since, now=self._clock.now())

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

    def _present_baseline(self) -> Evidence:
        if self._baseline is not None:
            return self._baseline
        return Evidence.of(self._monitor.baseline_health(), self.settings)

    def _sides(self, running: Rollout | None) -> tuple[Evidence, Evidence]:
        """What serves now, and what it is compared with."""
        if running is not None and running.old_version_id is not None:
            candidate = self._target.evidence(running.new_version_id, self.settings)
            stable = self._target.evidence(running.old_version_id, self.settings)
            if candidate is not None and stable is not None:
                return candidate, self._with_baseline(stable)
        return Evidence.of(self._monitor.health(), self.settings), self._present_baseline()

    def _with_baseline(self, stable: Evidence) -> Evidence:
        """The stable version's own figures once there are enough of them, else the baseline."""
        has_enough = stable.n >= self.settings.step_min_samples
        return stable if has_enough else self._present_baseline()

    def _stored_baseline(self) -> Evidence | None:
        state = self._store.load_snapshot(_BASELINE, self.model_name)
        return None if state is None else Evidence.from_plain(state)

    # ── inside: moving ──────────────────────────────────────────────────────────────────────

    def _begin(
        self,
        *,
        old: str | None,
        new: str,
        trigger: str,
        is_direct: bool,
        is_rollback: bool,
        actor: str | None,
    ) -> RolloutState:
        # What cannot be loaded must not begin to roll out: this raises before anything is written.
        self._target.prepare(new)
        self._warn_without_target()
        at = self._clock.now().isoformat()
        rollout = Rollout(
            rollout_id=new_id("rollout"),
            model_name=self.model_name,
            old_version_id=old,
            new_version_id=new,
            trigger=trigger,
            status=states.PROMOTING if is_direct else states.RUNNING,
            is_rollback=is_rollback,
            shares=self.settings.shares,
            step_index=0,
            n_at_step=0,
            step_started_at=at,
            started_at=at,
            reason="begun",
        )
        self._log.start(
            rollout,
            action="rollback" if is_rollback else "start",
            actor=actor or self._actor,
            detail={"trigger": trigger},
        )
        self._leads()
        if is_direct:
            return self._state(self._finish_promotion(rollout))
        self._apply(rollout)
        return self._state(rollout)

    def _advanced(self, rollout: Rollout) -> Rollout:
        if rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        if rollout.status == states.ROLLING_BACK:
            return self._finish_rollback(rollout)
        if self._applied != (rollout.rollout_id, rollout.revision):
            self._apply(rollout)
        candidate = self._target.evidence(rollout.new_version_id, self.settings)
        _, stable = self._sides(rollout)
        verdict = states.judged(
            rollout, self.settings, now=self._clock.now(), candidate=candidate, stable=stable
        )
        if verdict.move is Move.WAIT:
            return rollout
        numbers = (
            {}
            if candidate is None
            else {"candidate": candidate.to_plain(), "stable": stable.to_plain()}
        )
        n = 0 if candidate is None else candidate.n
        return self._move(rollout, verdict, n_candidate=n, numbers=numbers)

    def _move(
        self,
        rollout: Rollout,
        verdict: Verdict,
        *,
        n_candidate: int,
        numbers: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Rollout:
        """Write a move, then do it."""
        moved = states.moved(rollout, verdict, now=self._clock.now(), n_candidate=n_candidate)
        written = self._write(
            moved, verdict.move.value, actor=actor, reason=verdict.reason, **(numbers or {})
        )
        if written.status == states.PROMOTING:
            return self._finish_promotion(written)
        if written.status == states.ROLLING_BACK:
            return self._finish_rollback(written)
        self._apply(written)
        return written

    def _finish_promotion(self, rollout: Rollout) -> Rollout:
        self._apply(rollout)
        if self._production() != rollout.new_version_id:
            try:
                self._registry.set_alias(
                    self.model_name,
                    PRODUCTION,
                    rollout.new_version_id,
                    expected_version_id=rollout.old_version_id,
                    action="rollback" if rollout.is_rollback else "promote",
                    actor=self._actor,
                )
            except StaleRevisionError as error:
                return self._abort(rollout, reason=str(error), actor=None)
        reason = "rolled back" if rollout.is_rollback else "promoted"
        done = states.finished(rollout, states.PROMOTED, now=self._clock.now(), reason=reason)
        written = self._write(done, "promoted", reason=reason)
        self._apply(written)
        return written

    def _finish_rollback(self, rollout: Rollout) -> Rollout:
        self._apply(rollout)
        done = states.finished(rollout, states.ROLLED_BACK, now=self._clock.now())
        written = self._write(done, "rolled_back", reason=rollout.reason)
        self._apply(written)
        self._monitor.raise_alert(
            "rollback",
            severity="critical",
            message=f"{rollout.new_version_id} was rolled back: {rollout.reason}",
        )
        return written

    def _abort(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        done = states.finished(rollout, states.ABORTED, now=self._clock.now(), reason=reason)
        written = self._write(done, "abort", actor=actor, reason=reason)
        self._apply(written)
        return written

    def _write(
        self, rollout: Rollout, action: str, *, actor: str | None = None, **detail: Any
    ) -> Rollout:
        return self._log.change(
            rollout,
            action=action,
            actor=actor or self._actor,
            now=self._clock.now(),
            detail=detail,
        )

    def _apply(self, rollout: Rollout) -> None:
        self._target.apply(rollout)
        self._is_idle = not rollout.is_unfinished
        self._applied = (rollout.rollout_id, rollout.revision)

    def _follow_the_end(self) -> None:
        """Bring what serves in line with a rollout that another process has ended."""
        if self._applied is None:
            return
        newest = self._log.newest()
        if newest is not None and (newest.rollout_id, newest.revision) != self._applied:
            self._apply(newest)

    def _supersede(self, running: Rollout, new_version_id: str, *, allowed: bool) -> None:
        if not allowed:
            raise RolloutInProgressError(
                f"{running.new_version_id} is rolling out ({running.rollout_id}). Wait, call "
                "abort(), or pass supersede=True."
            )
        self._abort(running, reason=f"superseded by {new_version_id}", actor=None)

    def _command(
        self, wanted: str, status: str, action: str, reason: str, actor: str | None
    ) -> RolloutState | None:
        with self._lock:
            rollout = self._log.current()
            if rollout is None or rollout.status != wanted:
                return None
            changed = states.with_status(rollout, status, reason=reason, now=self._clock.now())
            return self._state(self._write(changed, action, actor=actor, reason=reason))

    def _production(self) -> str | None:
        try:
            found: str = self._registry.get_by_alias(self.model_name, PRODUCTION)["version_id"]
        except VersionNotFoundError:
            return None
        return found

    def _leads(self) -> bool:
        """Whether this object is the one that advances; renews its lease in good time."""
        now_s = self._clock.monotonic_s()
        if now_s < self._leads_until_s - (_LEASE_S - _RENEW_S):
            return True
        name = f"rollout:{self.model_name}"
        leads = take_lease(self._store, name, self._holder, seconds=_LEASE_S, clock=self._clock)
        self._leads_until_s = now_s + _LEASE_S if leads else float("-inf")
        return leads

    def _on_request(self) -> None:
        """What the deployment calls at every request: cheap, and never raises."""
        self._n_calls += 1
        waited_s = self._clock.monotonic_s() - self._looked_at_s
        if self._is_idle and waited_s < _LOOK_IDLE_S:
            return
        if waited_s < _LOOK_EVERY_S and self._n_calls % _LOOK_EVERY_CALLS:
            return
        self._advance_quietly()

    def _advance_quietly(self) -> None:
        try:
            self.advance()
        except ModelyardError as error:
            # The model goes on serving; the next look tries again.
            _logger.warning("The rollout of %s could not advance: %s", self.model_name, error)

    def _state(self, rollout: Rollout) -> RolloutState:
        return telling.state_of(rollout, self._target.applied_to)

    def _nowhere_to_go(self, production: str | None) -> RollbackResult:
        result = telling.nowhere_to_go(self.model_name, production)
        self._monitor.raise_alert("rollback", severity="critical", message=result["reason"])
        _logger.critical("%s", result["reason"])
        return result

    def _warn_without_target(self) -> None:
        if not self._target.applied_to and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "UpdateStrategy of %r has no deployment: only the production pointer moves, by "
                "the clock. Pass deployment= to move traffic.",
                self.model_name,
            )
