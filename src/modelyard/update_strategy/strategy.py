"""`UpdateStrategy`: decides from evidence, moves in steps, goes back by itself."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError, RolloutInProgressError
from modelyard.storage import Store
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy import telling
from modelyard.update_strategy.decider import Decider
from modelyard.update_strategy.history import Halt
from modelyard.update_strategy.looking import Looker
from modelyard.update_strategy.outputs import refuse_other_outputs
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.records import RollbackResult, RolloutState
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.triggers import UpdateTrigger, as_trigger

_logger = logging.getLogger("modelyard")

# How often requests look for a step that is due: while a rollout runs, and while none does.
_LOOK_EVERY_S = 0.2
_LOOK_EVERY_CALLS = 10
_LOOK_IDLE_S = 1.0
# Looks come many times a second: what keeps failing is told once a minute.
_TELL_EVERY_S = 60.0
_CAN_PAUSE = frozenset(
    {states.PENDING, states.SHADOW, states.RUNNING, states.WAITING, states.BAKING}
)


class UpdateStrategy(Decider):
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
        seed: int | None = None,
        actor: str = "update_strategy",
    ) -> None:
        super().__init__(
            version_manager,
            monitor,
            config,
            deployment=deployment,
            is_remote=is_remote,
            store=store,
            clock=clock,
            seed=seed,
            actor=actor,
        )
        self._looker = Looker(self._look, name=self.model_name, clock=self._clock)
        self._n_calls = 0
        self._has_warned = False
        self._told_at_s: dict[type[Exception], float] = {}
        subscribe = getattr(deployment, "subscribe", None)
        if subscribe is not None:
            subscribe(self._on_request)

    def update_model(
        self,
        new_version_id: str,
        trigger: UpdateTrigger | str = UpdateTrigger.MANUAL,
        smooth_transition: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        supersede: bool = False,
        allow_other_outputs: bool = False,
        actor: str | None = None,
    ) -> RolloutState:
        """Begin to move the traffic to a version; returns at once.

        Args:
            new_version_id: A version of this model.
            trigger: Why, an `UpdateTrigger` or its value.
            smooth_transition: Step by step; False moves everything now.
            supersede: Abort another rollout that is running.
            allow_other_outputs: Begin although the version answers in another form than
                production: callers can read both.
            actor: Who asked, for the audit.

        Returns:
            The state; "already_running" if the version is production or rolling out already.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: No version id, a version of another model, an unknown trigger, or one
                whose signature tells of other outputs (number, sizes, kind) than production's.
            RolloutInProgressError: Another rollout is running.
            ConflictError: All updates of the model are stopped.
        """
        reason = as_trigger(trigger)
        self._refuse_foreign(new_version_id)
        with self._lock:
            self.advance()
            running = self._log.current()
            if running is not None and running.new_version_id == new_version_id:
                return {**telling.state_of(running), "status": "already_running"}
            if running is None and self._conductor.production() == new_version_id:
                return telling.already_production(
                    new_version_id, reason, n_steps=len(self.settings.steps)
                )
            self._conductor.refuse_halted()
            if running is not None and not supersede:
                raise RolloutInProgressError(telling.in_progress(running))
            stable = self._conductor.production()
            if stable is not None and not allow_other_outputs:
                refuse_other_outputs(self._registry, stable, new_version_id)
            self._warn_without_target()
            # What cannot be loaded must not begin to roll out, nor end what does.
            with self._conductor.prepared(new_version_id):
                if running is not None:
                    self._conductor.supersede(running, reason=f"superseded by {new_version_id}")
                production = self._conductor.production()
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
        the reason says so. Nothing that serves gives `rolled_back: False` and a critical alert;
        a rollout that runs is then paused where it is.

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
            earlier, passed_over = self._conductor.newest_earlier()
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
        """Pause the rollout at its present shares; the guard stays on. None if none runs."""

        def paused(rollout: Rollout) -> Rollout | None:
            if rollout.status not in _CAN_PAUSE:
                return None
            return self._conductor.pause(rollout, reason=reason, actor=actor)

        return self._commanded(paused)

    def resume(
        self, *, reason: str = "asked for", actor: str | None = None
    ) -> RolloutState | None:
        """Let a paused rollout go on; its step or bake begins anew. None if none is paused.

        After a broken limit what was measured begins anew, too: it would pause it again at once.

        Raises:
            ConflictError: All updates of the model are stopped.
        """

        def resumed(rollout: Rollout) -> Rollout | None:
            if rollout.status != states.PAUSED:
                return None
            return self._conductor.resume(rollout, reason=reason, actor=actor)

        return self._commanded(resumed)

    def approve(
        self, *, reason: str = "approved", actor: str | None = None
    ) -> RolloutState | None:
        """Give a rollout that waits for it its next share. None if none waits.

        Raises:
            ConflictError: All updates of the model are stopped.
        """

        def approved(rollout: Rollout) -> Rollout | None:
            if rollout.status != states.WAITING:
                return None
            return self._conductor.approve(rollout, reason=reason, actor=actor)

        return self._commanded(approved)

    def promote(
        self, *, reason: str = "asked for", actor: str | None = None
    ) -> RolloutState | None:
        """Give the candidate everything now, or end the watch over one that is promoted.

        None if no rollout runs. What cannot be loaded is rolled back instead.

        Raises:
            ConflictError: All updates of the model are stopped.
        """

        def promoted(rollout: Rollout) -> Rollout | None:
            if rollout.phase == states.BAKING:
                return self._conductor.end_bake(rollout, reason=reason, actor=actor)
            if rollout.status in {states.PROMOTING, states.ROLLING_BACK}:
                return None
            return self._conductor.promote(rollout, reason=reason, actor=actor)

        return self._commanded(promoted)

    def halt(self, *, reason: str, actor: str | None = None) -> RolloutState | None:
        """Stop all updates of the model at once, in every process, until `release`.

        The stable version answers everything, the rollout that runs is paused, none can begin,
        and `should_update` says no. Going back stays possible.

        Args:
            reason: Why, for whoever finds it.
            actor: Who asked.

        Returns:
            The rollout that runs, paused unless it is going back; None if none runs. One that was
            about to be promoted is left standing.
        """

        def taken_off(rollout: Rollout) -> Rollout | None:
            if rollout.is_taken_off or rollout.status not in {*_CAN_PAUSE, states.PAUSED}:
                return None
            told = f"all updates are stopped: {reason}"
            return self._conductor.take_off(rollout, reason=told, actor=actor)

        with self._lock:
            now, by = self._clock.now(), actor or self._actor
            halt = Halt(actor=by, at=now.isoformat(), reason=reason)
            self._log.set_halt(halt, actor=by, reason=reason, now=now)
            paused = self._commanded(taken_off)
            self.advance()
            return paused or self.get_rollout()

    def release(self, *, reason: str = "asked for", actor: str | None = None) -> bool:
        """Allow updates again after `halt`.

        What was paused stays so, and the stable version answers everything, until `resume`.

        Returns:
            Whether they were stopped.
        """
        with self._lock:
            if self._log.halt() is None:
                return False
            by = actor or self._actor
            self._log.set_halt(None, actor=by, reason=reason, now=self._clock.now())
            self.advance()
            return True

    def abort(self, *, reason: str = "asked for", actor: str | None = None) -> RolloutState | None:
        """End the rollout; the stable version gets all the traffic. None if none runs."""

        def aborted(rollout: Rollout) -> Rollout:
            return self._conductor.abort(rollout, reason=reason, actor=actor)

        return self._commanded(aborted)

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

    # ── inside ────────────────────────────────────────────────────────────────────

    def _refuse_foreign(self, version_id: Any) -> None:
        """Nothing for a version of this model.

        Raises:
            ConfigError: It is no version id, or one of another model.
        """
        if not isinstance(version_id, str):
            raise ConfigError(f"new_version_id must be a version id, got {version_id!r}.")
        model_name = self._registry.get_version(version_id)["model_name"]
        if model_name != self.model_name:
            raise ConfigError(
                f"{version_id!r} is a version of {model_name!r}; this strategy is "
                f"for {self.model_name!r}."
            )

    def _commanded(self, change: Callable[[Rollout], Rollout | None]) -> RolloutState | None:
        with self._lock:
            return self._told(self._conductor.command(change))

    def _on_request(self) -> None:
        """What the deployment calls at every request: cheap, never long, and never raises."""
        self._n_calls += 1
        waited_s = self._clock.monotonic_s() - self._looked_at_s
        if self._is_idle and waited_s < _LOOK_IDLE_S:
            return
        if waited_s < _LOOK_EVERY_S and self._n_calls % _LOOK_EVERY_CALLS:
            return
        self._looker.look()

    def _look(self) -> None:
        """A look on behalf of a request; nothing while someone else is at it."""
        if self._lock.acquire(blocking=False):
            try:
                self._advance_quietly()
            finally:
                self._lock.release()

    def _advance_quietly(self) -> None:
        try:
            self.advance()
        except Exception as error:  # noqa: BLE001 - the model goes on serving, whatever it is
            now_s, told_at_s = self._clock.monotonic_s(), self._told_at_s.get(type(error))
            if told_at_s is None or now_s - told_at_s >= _TELL_EVERY_S:
                self._told_at_s[type(error)] = now_s
                _logger.warning("The rollout of %s could not advance: %s", self.model_name, error)

    def _nowhere_to_go(self, production: str | None, passed_over: Sequence[str]) -> RollbackResult:
        result = telling.nowhere_to_go(self.model_name, production, passed_over)
        self._monitor.raise_alert("rollback", severity="critical", message=result["reason"])
        if self._target.applied_to or self._target.goes_by_clock:
            _logger.critical("%s", result["reason"])  # who gives commands from afar is answered
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
