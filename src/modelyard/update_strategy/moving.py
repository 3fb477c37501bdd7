"""Moving a rollout: each move is written to the store, then done."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import ConflictError, StaleRevisionError
from modelyard._core.ids import new_id
from modelyard.storage.leases import Lease
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.carrier import PRODUCTION, Carrier
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.observing import Observer
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.rollout import Move, Rollout, Verdict
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import Target
from modelyard.update_strategy.way_back import WayBack

_logger = logging.getLogger("modelyard")


class Mover:
    """Begins, moves and ends the rollouts of one model. The base of `Commander`.

    Not thread-safe: the strategy that owns it locks.

    Args:
        registry: Knows versions and production.
        monitor: Gets the alerts.
        target: What serves.
        carrier: Makes the traffic what is decided.
        observer: How the versions are doing.
        log: Rollouts in the store.
        lease: Who has it decides; others serve what is decided.
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
        carrier: Carrier,
        observer: Observer,
        log: RolloutLog,
        lease: Lease,
        settings: UpdateSettings,
        clock: Clock,
        actor: str,
    ) -> None:
        self.observer = observer
        self._registry = registry
        self._model_name = monitor.model_name
        self._target = target
        self._carrier = carrier
        self._log = log
        self._lease = lease
        self._settings = settings
        self._clock = clock
        self._actor = actor
        self._way_back = WayBack(registry, target, self._model_name)
        self._has_warned_unguarded = False

    def production(self) -> str | None:
        """The version that is production, or None."""
        return self._carrier.production()

    def refuse_halted(self) -> None:
        """Nothing while updates may go forward.

        Raises:
            ConflictError: All updates are stopped.
        """
        halt = self._log.halt()
        if halt is not None:
            raise ConflictError(halt.refusal(self._model_name))

    # ── beginning ───────────────────────────────────────────────────────────────────────────

    def _begun(self, old: str | None, new: str, *, trigger: str) -> Rollout:
        at = self._clock.now().isoformat()
        return Rollout(
            rollout_id=new_id("rollout"),
            model_name=self._model_name,
            old_version_id=old,
            new_version_id=new,
            trigger=trigger,
            status=states.PENDING,
            is_rollback=False,
            shares=self._settings.shares,
            step_index=0,
            step_started_at=at,
            started_at=at,
            applied_to=tuple(self._target.applied_to),
            reason="waits for its first step",
        )

    def _told_unguarded(self, reason: str) -> str:
        """A rollout's reason; without a key metric, also that errors and latency alone count."""
        if self._settings.key_metric is not None:
            return reason
        # Where nothing serves there is a warning already, that the pointer alone moves.
        if self._target.applied_to and not self._has_warned_unguarded:
            self._has_warned_unguarded = True
            _logger.warning(
                "key_metric of %r is not set: errors and latency alone send a candidate back, "
                "whatever it earns. Name the metric that outcomes are recorded under, as in "
                '{"key_metric": "sharpe"}.',
                self._model_name,
            )
        return f"{reason}; no key metric is set: errors and latency alone are guarded"

    def _begin(self, rollout: Rollout, action: str, *, actor: str | None) -> Rollout:
        detail = {"trigger": rollout.trigger, "reason": rollout.reason}
        self._log.start(rollout, action=action, actor=actor or self._actor, detail=detail)
        if self._may_lead(rollout):
            self._lease.is_held()
        try:
            if rollout.status == states.PROMOTING:
                return self._finish_promotion(rollout)
        except StaleRevisionError:
            # Another process has found it and goes on with it, or has ended it.
            return self._log.get(rollout.rollout_id)
        self._carrier.apply(rollout)
        self.observer.observe(rollout)
        return rollout

    # ── moving ──────────────────────────────────────────────────────────────────────────────

    def _move(
        self,
        rollout: Rollout,
        verdict: Verdict,
        *,
        numbers: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> Rollout:
        """Write a move, then do it."""
        if verdict.move is Move.FINISH:
            return self._end(
                rollout, states.PROMOTED, "promoted", reason=verdict.reason, numbers=numbers
            )
        if verdict.move is Move.ROLL_BACK:
            return self._go_back_from(rollout, verdict, numbers=numbers, actor=actor)
        moved = states.moved(rollout, verdict, now=self._clock.now())
        written = self._write(
            moved, verdict.move.value, actor=actor, reason=verdict.reason, **(numbers or {})
        )
        if written.status == states.PROMOTING:
            return self._finish_promotion(written)
        self._carrier.apply(written)
        self.observer.observe(written)
        return written

    def _finish_promotion(self, rollout: Rollout) -> Rollout:
        if self._log.halt() is not None and not rollout.is_rollback:
            return rollout  # left standing until updates may go forward, or somebody goes back
        if (unservable := self._carrier.cannot_serve(rollout)) is not None:
            return self._undo(rollout, unservable)
        action = "rollback" if rollout.is_rollback else "promote"
        old, new = rollout.old_version_id, rollout.new_version_id
        if not self._moved_production(old, new, action=action):
            reason = moved_to(self.production())
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

    def _undo(self, rollout: Rollout, reason: str) -> Rollout:
        """End a rollout whose candidate cannot be served."""
        if rollout.old_version_id is None:
            return self._end(rollout, states.ABORTED, "abort", reason=reason)
        return self._move(rollout, Verdict(move=Move.ROLL_BACK, reason=reason))

    # ── going back ──────────────────────────────────────────────────────────────────────────

    def _go_back_from(
        self,
        rollout: Rollout,
        verdict: Verdict,
        *,
        numbers: Mapping[str, Any] | None,
        actor: str | None,
    ) -> Rollout:
        """Write that it goes back, once it is proved where to; then do it."""
        to, passed_over = self._way_back.find(rollout, production=self.production())
        reason = "; ".join([verdict.reason, *passed_over])
        if to is None:
            return self._stay(rollout, reason, actor=actor)
        moved = states.moved(rollout, replace(verdict, reason=reason), now=self._clock.now())
        written = self._write(
            replace(moved, old_version_id=to),
            verdict.move.value,
            actor=actor,
            reason=reason,
            **(numbers or {}),
        )
        ended = self._carry_back(written)
        if to != rollout.old_version_id and rollout.old_version_id is not None:
            self._target.drop(rollout.old_version_id)
        return ended

    def _finish_rollback(self, rollout: Rollout) -> Rollout:
        """Do what was written, perhaps by a process that died; its target is proved again."""
        to, passed_over = self._way_back.find(rollout, production=self.production())
        if to is None:
            return self._stay(rollout, "; ".join([rollout.reason, *passed_over]))
        if to != rollout.old_version_id:
            reason = "; ".join([rollout.reason, *passed_over])
            changed = replace(rollout, old_version_id=to, reason=reason)
            rollout = self._write(changed, Move.ROLL_BACK.value, reason=reason)
        return self._carry_back(rollout)

    def _carry_back(self, rollout: Rollout) -> Rollout:
        self._carrier.apply(rollout)
        old, new = rollout.old_version_id, rollout.new_version_id
        if old is not None and self.production() == new:
            self._moved_production(new, old, action="rollback")
        ended = self._end(rollout, states.ROLLED_BACK, "rolled_back", reason=rollout.reason)
        self._carrier.alert(f"{new} was rolled back: {rollout.reason}")
        return ended

    def _stay(self, rollout: Rollout, reason: str, *, actor: str | None = None) -> Rollout:
        """Pause a rollout that has to go back and cannot, and make it known."""
        told = (
            f"{rollout.new_version_id} has to go back and cannot: {reason}. It stays as it is. "
            "Restore an earlier version and call rollback(), call promote() to keep it, or "
            "replace it by update_model(..., supersede=True)"
        )
        if rollout.status == states.PAUSED and rollout.reason == told:
            return rollout
        written = self._write(
            states.stuck(rollout, reason=told), "cannot_roll_back", actor=actor, reason=told
        )
        self._way_back.remember_none(written, self._clock.monotonic_s())
        self._carrier.assist(written)
        self._carrier.alert(told)
        return written

    # ── writing ─────────────────────────────────────────────────────────────────────────────

    def _end(
        self,
        rollout: Rollout,
        status: str,
        action: str,
        *,
        reason: str,
        actor: str | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> Rollout:
        done = states.finished(rollout, status, now=self._clock.now(), reason=reason)
        written = self._write(done, action, actor=actor, reason=reason, **(numbers or {}))
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

    def _may_lead(self, rollout: Rollout) -> bool:
        """Whoever serves a rollout also measures it; from elsewhere the clock would promote it."""
        if self._target.applied_to:
            return True
        return self._target.goes_by_clock and not rollout.applied_to

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


def moved_to(production: str | None) -> str:
    """That somebody has named a production by hand."""
    return f"production was moved to {production or 'nothing'} by someone else"
