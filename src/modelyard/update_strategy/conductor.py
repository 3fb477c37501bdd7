"""Carrying a rollout through: each move is written to the store, then done."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import StaleRevisionError
from modelyard._core.ids import new_id
from modelyard.storage.leases import Lease
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.carrier import PRODUCTION, Carrier
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.observing import Observer
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.rollout import Move, Rollout, Verdict
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import Target, is_passing
from modelyard.update_strategy.windows import is_open

_logger = logging.getLogger("modelyard")

# How often a command is tried again when the leading process changes the rollout meanwhile.
_ATTEMPTS = 5
# Phases in which the pointer may have moved to the candidate already.
_HAS_MOVED = frozenset({states.PROMOTING, states.BAKING, states.ROLLING_BACK})


class Conductor:
    """Moves the rollouts of one model and what serves it.

    Production is what the registry's alias says; between rollouts whatever serves follows it.
    Not thread-safe: the strategy that owns it locks.

    Args:
        registry: Knows versions and production.
        monitor: Gets the alerts.
        target: What serves.
        log: Rollouts in the store.
        lease: Who has it decides; others serve what is decided.
        baseline: What the candidate is compared with while the stable version has few samples.
        settings: The rules.
        clock: Where the time comes from.
        actor: Who is written to the audit.

    Attributes:
        observer: How the versions are doing.
    """

    def __init__(
        self,
        registry: Registry,
        monitor: Watcher,
        target: Target,
        *,
        log: RolloutLog,
        lease: Lease,
        baseline: Baseline,
        settings: UpdateSettings,
        clock: Clock,
        actor: str,
    ) -> None:
        self._registry = registry
        self._monitor = monitor
        self._model_name = monitor.model_name
        self._target = target
        self._carrier = Carrier(registry, monitor, target)
        self._log = log
        self._lease = lease
        self._settings = settings
        self._clock = clock
        self._actor = actor
        self.observer = Observer(
            self._carrier,
            monitor,
            target,
            log=log,
            baseline=baseline,
            settings=settings,
            clock=clock,
        )
        self._fled_from = ""  # the rollout whose candidate was taken off without the store
        self._carrier.take_up(log.current())

    def production(self) -> str | None:
        """The version that is production, or None."""
        return self._carrier.production()

    # ── moving ──────────────────────────────────────────────────────────────────────────────

    def start(
        self, *, old: str | None, new: str, trigger: str, is_direct: bool, actor: str | None
    ) -> Rollout:
        """Begin a rollout to a version that has been prepared.

        Raises:
            RolloutInProgressError: Another one has begun meanwhile.
        """
        status, reason = self._first_status(is_direct=is_direct)
        begun = self._begun(old, new, status=status, trigger=trigger, reason=reason)
        return self._begin(begun, "start", actor=actor)

    def go_back(
        self, *, old: str, new: str, trigger: str, reason: str, actor: str | None
    ) -> Rollout:
        """Make an earlier version production again, at once.

        Raises:
            RolloutInProgressError: A rollout has begun meanwhile.
        """
        begun = self._begun(old, new, status=states.PROMOTING, trigger=trigger, reason=reason)
        return self._begin(replace(begun, is_rollback=True), "rollback", actor=actor)

    def advance(self) -> Rollout | None:
        """Bring what serves in line, and take the step that is due if this process leads.

        Raises:
            StaleRevisionError: Someone gave a command meanwhile; the next look sees it.
            StorageError: The store cannot be read or written; what serves goes on as it is.
        """
        try:
            return self._advanced()
        except Exception as error:
            if is_passing(error):
                self._guard_alone()
            raise

    def _advanced(self) -> Rollout | None:
        rollout = self._looked_up()
        if rollout is None or not self._carrier.is_carried(rollout, any_revision=True):
            self._carrier.let_go()
        if rollout is None:
            self._carrier.follow_production()
            return None
        if self._target.applied_to and not rollout.applied_to:
            rollout = self._claim(rollout)
        if not self._may_lead(rollout):
            self._lease.give_back()
            return rollout
        if not self._lease.is_held():
            self._carrier.assist(rollout)
            return rollout
        return self._lead(rollout)

    def _looked_up(self) -> Rollout | None:
        """The rollout that is not finished; whoever must answer everything meanwhile is held."""
        rollout, halt = self._log.current(), self._log.halt()
        is_fled_from = rollout is not None and rollout.rollout_id == self._fled_from
        self._carrier.hold(is_held=halt is not None or is_fled_from)
        return rollout

    def _guard_alone(self) -> None:
        """While the store is out of reach: have the stable version answer what a limit forbids.

        Nothing can be written now; the rollback is, when the store is back.
        """
        rollout = self._carrier.carried
        if rollout is None or not self._settings.auto_rollback:
            return
        seen = self.observer.observe(rollout)
        if seen.candidate is None or self._fled_from == rollout.rollout_id:
            return
        reasons = rollback_reasons(
            seen.candidate, seen.stable, self._settings, at_step=seen.at_step
        )
        if reasons:
            self._fled_from = rollout.rollout_id
            self._carrier.hold(is_held=True)
            _logger.warning(
                "%s answers nobody until the store is back and it can be rolled back: %s",
                rollout.new_version_id,
                "; ".join(reasons),
            )

    def command(self, change: Callable[[Rollout], Rollout | None]) -> Rollout | None:
        """Change the unfinished rollout, however often others change it meanwhile.

        Args:
            change: Gives the changed rollout, or None where the command does not apply.

        Raises:
            StaleRevisionError: Others changed it five times in between.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            rollout = self._log.current()
            if rollout is None:
                return None
            try:
                return change(rollout)
            except StaleRevisionError:
                if attempt == _ATTEMPTS:
                    raise
        return None

    def pause(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Hold a rollout; its shares stay."""
        changed = states.paused(rollout, reason=reason)
        return self._write(changed, "pause", actor=actor, reason=reason)

    def resume(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Let a paused rollout go on; its step begins anew."""
        changed = states.resumed(rollout, reason=reason, now=self._clock.now())
        return self._write(changed, "resume", actor=actor, reason=reason)

    def approve(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Give a rollout that waits for it the next share."""
        changed = states.approved(rollout, reason=reason, now=self._clock.now())
        written = self._write(changed, "approve", actor=actor, reason=reason)
        if self._may_lead(written):
            self._carrier.apply(written)
        return written

    def promote(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Give a rollout's candidate everything now; the guard and the bake stay."""
        verdict = Verdict(move=Move.PROMOTE, reason=reason)
        if self._may_lead(rollout) or not rollout.applied_to:
            return self._move(rollout, verdict, actor=actor)
        # Whoever serves it moves the pointer, and watches on.
        moved = states.moved(rollout, verdict, now=self._clock.now())
        return self._write(moved, verdict.move.value, actor=actor, reason=reason)

    def end_bake(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End the watch over a promoted version; it stays production."""
        return self._end(rollout, states.PROMOTED, "promoted", reason=reason, actor=actor)

    def abort(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End a rollout; the stable version gets all the traffic."""
        if rollout.phase in _HAS_MOVED and rollout.old_version_id:
            # The pointer may have moved already: what was begun has to be undone.
            return self.roll_back(rollout, reason=reason, actor=actor)
        return self._end(rollout, states.ABORTED, "abort", reason=reason, actor=actor)

    def roll_back(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End a rollout because the candidate is bad; one that goes back itself is finished."""
        if rollout.is_rollback and rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        if rollout.status == states.ROLLING_BACK:
            return self._finish_rollback(rollout)
        return self._move(rollout, Verdict(move=Move.ROLL_BACK, reason=reason), actor=actor)

    # ── inside: leading ─────────────────────────────────────────────────────────────────────

    def _first_status(self, *, is_direct: bool) -> tuple[str, str]:
        if is_direct:
            return states.PROMOTING, "at once, without steps"
        begins_now = is_open(self._settings.windows, self._settings.zone, self._clock.now())
        if begins_now and self._settings.shadow_minutes == 0.0:
            return states.RUNNING, "begun"
        return states.PENDING, "waits for its first step"

    def _is_halted(self, verdict: Verdict) -> bool:
        """Whether a move forward is forbidden at the moment; going back never is."""
        is_back = verdict.move in {Move.ROLL_BACK, Move.PAUSE}
        return not is_back and self._log.halt() is not None

    def _begun(
        self, old: str | None, new: str, *, status: str, trigger: str, reason: str
    ) -> Rollout:
        at = self._clock.now().isoformat()
        return Rollout(
            rollout_id=new_id("rollout"),
            model_name=self._model_name,
            old_version_id=old,
            new_version_id=new,
            trigger=trigger,
            status=status,
            is_rollback=False,
            shares=self._settings.shares,
            step_index=0,
            step_started_at=at,
            started_at=at,
            applied_to=tuple(self._target.applied_to),
            reason=reason,
        )

    def _begin(self, rollout: Rollout, action: str, *, actor: str | None) -> Rollout:
        detail = {"trigger": rollout.trigger, "reason": rollout.reason}
        self._log.start(rollout, action=action, actor=actor or self._actor, detail=detail)
        if self._may_lead(rollout):
            self._lease.is_held()
        if rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        self._carrier.apply(rollout)
        self.observer.observe(rollout)
        return rollout

    def _lead(self, rollout: Rollout) -> Rollout:
        if rollout.status == states.ROLLING_BACK:
            return self._finish_rollback(rollout)
        production = self.production()
        if production not in {rollout.old_version_id, rollout.new_version_id}:
            return self._overtaken(rollout, _moved_to(production))
        if (unservable := self._carrier.cannot_serve(rollout)) is not None:
            return self._undo(rollout, unservable)
        if rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        return self._in_line_with(production, rollout)

    def _in_line_with(self, production: str | None, rollout: Rollout) -> Rollout:
        """Do what somebody has done to production by hand; else judge."""
        is_baking = rollout.phase == states.BAKING
        if is_baking and production == rollout.old_version_id:
            reason = "someone else made the version before production again"
            return self.roll_back(rollout, reason=reason)
        if production == rollout.new_version_id and not is_baking:
            verdict = Verdict(move=Move.PROMOTE, reason="someone else made it production")
            return self._move(rollout, verdict)
        return self._judge(rollout)

    def _judge(self, rollout: Rollout) -> Rollout:
        seen = self.observer.observe(rollout)
        self.observer.note(rollout, seen)
        verdict = states.judged(rollout, self._settings, now=self._clock.now(), seen=seen)
        if verdict.move is Move.WAIT or self._is_halted(verdict):
            return rollout
        numbers: dict[str, Any] = {}
        if verdict.judgement is not None:
            numbers["checks"] = [check.to_plain() for check in verdict.judgement.checks]
        if seen.candidate is not None:
            numbers |= {
                "candidate": seen.candidate.to_plain(),
                "stable": seen.stable.to_plain(),
                "n_at_step": seen.n_at_step,
            }
        return self._move(rollout, verdict, numbers=numbers)

    def _move(
        self,
        rollout: Rollout,
        verdict: Verdict,
        *,
        numbers: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Rollout:
        """Write a move, then do it."""
        moved = states.moved(rollout, verdict, now=self._clock.now())
        written = self._write(
            moved, verdict.move.value, actor=actor, reason=verdict.reason, **(numbers or {})
        )
        if written.status == states.PROMOTING:
            return self._finish_promotion(written)
        if written.status == states.ROLLING_BACK:
            return self._finish_rollback(written)
        if written.status == states.PROMOTED:
            return self._end(rollout, states.PROMOTED, "promoted", reason=verdict.reason)
        self._carrier.apply(written)
        self.observer.observe(written)
        return written

    def _finish_promotion(self, rollout: Rollout) -> Rollout:
        if (unservable := self._carrier.cannot_serve(rollout)) is not None:
            return self._undo(rollout, unservable)
        action = "rollback" if rollout.is_rollback else "promote"
        old, new = rollout.old_version_id, rollout.new_version_id
        if not self._moved_production(old, new, action=action):
            reason = _moved_to(self.production())
            return self._end(rollout, states.ABORTED, "abort", reason=reason)
        if self._bakes(rollout):
            baking = states.baking(rollout, now=self._clock.now())
            written = self._write(baking, "bake", reason=rollout.reason)
            self._carrier.apply(written)
            self.observer.observe(written)
            return written
        return self._end(rollout, states.PROMOTED, "promoted", reason=rollout.reason)

    def _bakes(self, rollout: Rollout) -> bool:
        """Whether the promoted version is watched on: something must measure and remember it."""
        return (
            self._settings.bake_minutes > 0.0
            and self._target.is_side_by_side
            and rollout.old_version_id is not None
            and not rollout.is_rollback
        )

    def _overtaken(self, rollout: Rollout, reason: str) -> Rollout:
        """End a rollout because someone has named a third version production."""
        if rollout.phase == states.BAKING:
            return self._end(rollout, states.PROMOTED, "promoted", reason=reason)
        return self._end(rollout, states.ABORTED, "abort", reason=reason)

    def _finish_rollback(self, rollout: Rollout) -> Rollout:
        self._carrier.apply(rollout)
        old, new = rollout.old_version_id, rollout.new_version_id
        if old is not None and self.production() == new:
            self._moved_production(new, old, action="rollback")
        ended = self._end(rollout, states.ROLLED_BACK, "rolled_back", reason=rollout.reason)
        self._carrier.alert(f"{new} was rolled back: {rollout.reason}")
        return ended

    def _undo(self, rollout: Rollout, reason: str) -> Rollout:
        """End a rollout whose candidate cannot be served."""
        if rollout.old_version_id is None:
            return self._end(rollout, states.ABORTED, "abort", reason=reason)
        return self._move(rollout, Verdict(move=Move.ROLL_BACK, reason=reason))

    def _end(
        self,
        rollout: Rollout,
        status: str,
        action: str,
        *,
        reason: str,
        actor: str | None = None,
    ) -> Rollout:
        done = states.finished(rollout, status, now=self._clock.now(), reason=reason)
        try:
            written = self._write(done, action, actor=actor, reason=reason)
        except StaleRevisionError:
            written = self._log.get(rollout.rollout_id)
            if written.is_unfinished:
                raise
        self._carrier.carried = written
        self._carrier.let_go()
        return written

    def _moved_production(self, old: str | None, new: str, *, action: str) -> bool:
        """Whether production is `new` now; moves it there from `old` and from nowhere else."""
        if self.production() != new:
            try:
                self._registry.set_alias(
                    self._model_name,
                    PRODUCTION,
                    new,
                    expected_version_id=old,
                    action=action,
                    actor=self._actor,
                )
            except StaleRevisionError:
                return self.production() == new
        return True

    # ── inside: writing ─────────────────────────────────────────────────────────────────────

    def _may_lead(self, rollout: Rollout) -> bool:
        """Whoever serves a rollout also measures it; from elsewhere the clock would promote it."""
        if self._target.applied_to:
            return True
        return self._target.goes_by_clock and not rollout.applied_to

    def _claim(self, rollout: Rollout) -> Rollout:
        """Write that something serves and measures the rollout, so that the clock alone is out."""
        claimed = replace(rollout, applied_to=tuple(self._target.applied_to))
        return self._write(claimed, "claim", reason=rollout.reason)

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


def _moved_to(production: str | None) -> str:
    return f"production was moved to {production or 'nothing'} by someone else"
