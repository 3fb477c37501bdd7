"""Carrying a rollout through: looking at it, and taking the step that is due."""

import logging
from dataclasses import replace
from typing import Any

from modelyard._core.clock import Clock
from modelyard.storage.leases import Lease
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.carrier import Carrier
from modelyard.update_strategy.commanding import Commander
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.moving import moved_to
from modelyard.update_strategy.next_move import Observation, guarded, judged, lacks_key_metric
from modelyard.update_strategy.observing import Observer, numbers_of
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.rollout import Move, Rollout, Verdict
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import Target, is_passing

_logger = logging.getLogger("modelyard")


class Conductor(Commander):
    """Moves the rollouts of one model and what serves it, and decides when.

    One process leads; every process that serves keeps its own guard. Production is what the
    registry's alias says; between rollouts whatever serves follows it. Not thread-safe: the
    strategy that owns it locks.

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
        carrier = Carrier(registry, monitor, target)
        observer = Observer(
            carrier,
            monitor,
            target,
            log=log,
            baseline=baseline,
            settings=settings,
            clock=clock,
        )
        super().__init__(
            registry,
            monitor,
            target,
            carrier=carrier,
            observer=observer,
            log=log,
            lease=lease,
            settings=settings,
            clock=clock,
            actor=actor,
        )
        self._fled_from = ""  # the rollout whose candidate was taken off without the store
        self._carrier.take_up(log.current())

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
            return self._follow(rollout)
        return self._lead(rollout)

    def _looked_up(self) -> Rollout | None:
        """The rollout that is not finished; the stable version answers all where it must."""
        rollout, halt = self._log.current(), self._log.halt()
        is_fled_from = rollout is not None and rollout.rollout_id == self._fled_from
        self._carrier.set_stable_only(is_on=halt is not None or is_fled_from)
        return rollout

    def _claim(self, rollout: Rollout) -> Rollout:
        """Write that something serves and measures the rollout, so that the clock alone is out."""
        reason = self._told_unguarded(rollout.reason)
        claimed = replace(rollout, applied_to=tuple(self._target.applied_to), reason=reason)
        return self._write(claimed, "claim", reason=reason)

    # ── guarding ────────────────────────────────────────────────────────────────────────────

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
        verdict = guarded(rollout, self._settings, seen)
        if verdict is not None:
            self._fled_from = rollout.rollout_id
            self._carrier.set_stable_only(is_on=True)
            _logger.warning(
                "%s answers nobody until the store is back and it can be rolled back: %s",
                rollout.new_version_id,
                verdict.reason,
            )

    def _follow(self, rollout: Rollout) -> Rollout:
        """Serve what the leading process decides, and guard the traffic that comes here.

        The other has numbers of its own, and may see nothing of what goes wrong in this process.
        """
        self._carrier.assist(rollout)
        if rollout.status in {states.PROMOTING, states.ROLLING_BACK}:
            return rollout
        seen = self.observer.observe(rollout)
        verdict = guarded(rollout, self._settings, seen)
        if verdict is None:
            return rollout
        return self._decided(rollout, verdict, seen)

    # ── leading ─────────────────────────────────────────────────────────────────────────────

    def _lead(self, rollout: Rollout) -> Rollout:
        if rollout.status == states.ROLLING_BACK:
            return self._finish_rollback(rollout)
        production = self.production()
        if production not in {rollout.old_version_id, rollout.new_version_id}:
            return self._overtaken(rollout, moved_to(production))
        if (unservable := self._carrier.cannot_serve(rollout)) is not None:
            verdict = Verdict(move=Move.ROLL_BACK, reason=unservable)
            is_tried = not self._is_worth_a_try(rollout, verdict)
            return rollout if is_tried else self._undo(rollout, unservable)
        if rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        return self._in_line_with(production, rollout)

    def _overtaken(self, rollout: Rollout, reason: str) -> Rollout:
        """End a rollout because someone has named a third version production."""
        if rollout.phase == states.BAKING:
            return self._end(rollout, states.PROMOTED, "promoted", reason=reason)
        return self._end(rollout, states.ABORTED, "abort", reason=reason)

    def _in_line_with(self, production: str | None, rollout: Rollout) -> Rollout:
        """Do what somebody has done to production by hand; else judge."""
        is_baking = rollout.phase == states.BAKING
        if is_baking and production == rollout.old_version_id:
            reason = "someone else made the version before production again"
            return self.roll_back(rollout, reason=reason)
        if production == rollout.new_version_id and not is_baking:
            verdict = Verdict(move=Move.PROMOTE, reason="someone else made it production")
            return rollout if self._is_halted(verdict) else self._move(rollout, verdict)
        return self._judge(rollout)

    def _judge(self, rollout: Rollout) -> Rollout:
        seen = self.observer.observe(rollout)
        self.observer.note(rollout, seen)
        verdict = judged(rollout, self._settings, now=self._clock.now(), seen=seen)
        if verdict.move is Move.WAIT or self._is_halted(verdict):
            return rollout
        return self._decided(rollout, verdict, seen)

    def _is_halted(self, verdict: Verdict) -> bool:
        """Whether a move forward is forbidden at the moment; going back never is."""
        is_back = verdict.move in {Move.ROLL_BACK, Move.PAUSE}
        return not is_back and self._log.halt() is not None

    def _decided(self, rollout: Rollout, verdict: Verdict, seen: Observation) -> Rollout:
        """Make a move, and store the numbers that it rests on."""
        if not self._is_worth_a_try(rollout, verdict):
            return rollout
        numbers: dict[str, Any] = numbers_of(seen)
        if verdict.judgement is not None:
            numbers["checks"] = [check.to_plain() for check in verdict.judgement.checks]
        self._warn_at_end(rollout, verdict, seen)
        return self._move(rollout, verdict, numbers=numbers)

    def _warn_at_end(self, rollout: Rollout, verdict: Verdict, seen: Observation) -> None:
        """Say where a key metric was to be guarded that nobody recorded: it may be misspelt."""
        is_end = verdict.move is Move.FINISH or (
            verdict.move is Move.PROMOTE and not self._bakes(rollout)
        )
        if is_end and lacks_key_metric(seen, self._settings):
            _logger.warning(
                "The rollout of %s ends without a single value of key_metric %r: it was not "
                "guarded. Is it recorded under this name?",
                rollout.new_version_id,
                self._settings.key_metric,
            )

    def _is_worth_a_try(self, rollout: Rollout, verdict: Verdict) -> bool:
        """Whether to do it; going back is not tried at every look where nothing serves."""
        is_back = verdict.move is Move.ROLL_BACK
        return not is_back or self._way_back.is_worth_a_try(rollout, self._clock.monotonic_s())
