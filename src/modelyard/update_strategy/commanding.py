"""What people and the strategy ask of a rollout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from modelyard._core.errors import StaleRevisionError
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.moving import Mover
from modelyard.update_strategy.next_move import first_move
from modelyard.update_strategy.rollout import Move, Rollout, Verdict
from modelyard.update_strategy.windows import is_open

# How often a command is tried again when the leading process changes the rollout meanwhile.
_ATTEMPTS = 5
# Phases in which the pointer may have moved to the candidate already.
_HAS_MOVED = frozenset({states.PROMOTING, states.BAKING, states.ROLLING_BACK})


class Commander(Mover):
    """A `Mover` that takes commands. The base of `Conductor`."""

    @contextmanager
    def prepared(self, version_id: str) -> Iterator[None]:
        """Prove that a version can serve; if the block fails, what was loaded for it is freed.

        Raises:
            Exception: It cannot be loaded, or does not answer.
        """
        is_new = self._target.prepare(version_id)
        try:
            yield
        except BaseException:
            carried = self._carrier.carried
            if is_new and (carried is None or carried.new_version_id != version_id):
                self._target.drop(version_id)
            raise

    def start(
        self, *, old: str | None, new: str, trigger: str, is_direct: bool, actor: str | None
    ) -> Rollout:
        """Begin a rollout to a version that has been prepared.

        Raises:
            RolloutInProgressError: Another one has begun meanwhile.
        """
        begun = self._begun(old, new, trigger=trigger)
        if is_direct:
            begun = replace(begun, status=states.PROMOTING, reason="at once, without steps")
        elif is_open(self._settings.windows, self._settings.zone, self._clock.now()):
            verdict = first_move(self._settings)
            if verdict.move is not Move.BEGIN_SHADOW:
                begun = states.moved(begun, verdict, now=self._clock.now())
        if old is not None and self._may_lead(begun):
            begun = replace(begun, reason=self._told_unguarded(begun.reason))
        return self._begin(begun, "start", actor=actor)

    def go_back(
        self, *, old: str, new: str, trigger: str, reason: str, actor: str | None
    ) -> Rollout:
        """Make an earlier version production again, at once.

        Raises:
            RolloutInProgressError: A rollout has begun meanwhile.
        """
        begun = replace(
            self._begun(old, new, trigger=trigger),
            status=states.PROMOTING,
            reason=reason,
            is_rollback=True,
        )
        return self._begin(begun, "rollback", actor=actor)

    def newest_earlier(self) -> tuple[str | None, list[str]]:
        """The newest earlier production that serves, and why newer ones do not."""
        return self._way_back.newest_earlier()

    def command(self, change: Callable[[Rollout], Rollout | None]) -> Rollout | None:
        """Change the unfinished rollout, however often others change it meanwhile.

        Args:
            change: Gives the changed rollout, or None where the command does not apply.

        Returns:
            The changed rollout; where somebody else ended it meanwhile, as it ended.

        Raises:
            StaleRevisionError: Others changed it five times in between.
        """
        tried: Rollout | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            rollout = self._log.current()
            if rollout is None or (tried and tried.rollout_id != rollout.rollout_id):
                return None if tried is None else self._log.get(tried.rollout_id)
            tried = rollout
            try:
                return change(rollout)
            except StaleRevisionError:
                if attempt == _ATTEMPTS:
                    raise
        return None

    def pause(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Pause a rollout; its shares stay."""
        return self._move(rollout, Verdict(move=Move.PAUSE, reason=reason), actor=actor)

    def take_off(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Pause a rollout and have the stable version answer everything until it goes on."""
        changed = states.taken_off(rollout, reason=reason, now=self._clock.now())
        written = self._write(changed, Move.PAUSE.value, actor=actor, reason=reason)
        self._carrier.assist(written)
        return written

    def resume(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Let a paused rollout go on; its step begins anew.

        Raises:
            ConflictError: All updates are stopped.
        """
        self.refuse_halted()
        changed = states.resumed(rollout, reason=reason, now=self._clock.now())
        written = self._write(changed, "resume", actor=actor, reason=changed.reason)
        if self._may_lead(written):
            self._carrier.apply(written)  # a halt may have taken its share
        return written

    def approve(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Give a rollout that waits for it the next share.

        Raises:
            ConflictError: All updates are stopped.
        """
        self.refuse_halted()
        changed = states.approved(rollout, reason=reason, now=self._clock.now())
        written = self._write(changed, "approve", actor=actor, reason=reason)
        if self._may_lead(written):
            self._carrier.apply(written)
        return written

    def promote(self, rollout: Rollout, *, reason: str, actor: str | None) -> Rollout:
        """Give a rollout's candidate everything now; the guard and the bake stay.

        Raises:
            ConflictError: All updates are stopped.
        """
        self.refuse_halted()
        verdict = Verdict(move=Move.PROMOTE, reason=reason)
        if self._may_lead(rollout) or not rollout.applied_to:
            return self._move(rollout, verdict, actor=actor)
        # Whoever serves it moves the pointer, and watches on.
        moved = states.moved(rollout, verdict, now=self._clock.now())
        return self._write(moved, verdict.move.value, actor=actor, reason=reason)

    def end_bake(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End the watch over a promoted version; it stays production.

        Raises:
            ConflictError: All updates are stopped.
        """
        self.refuse_halted()
        return self._end(rollout, states.PROMOTED, "promoted", reason=reason, actor=actor)

    def abort(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End a rollout; the stable version gets all the traffic."""
        if rollout.phase in _HAS_MOVED and rollout.old_version_id:
            # The pointer may have moved already: what was begun has to be undone.
            return self.roll_back(rollout, reason=reason, actor=actor)
        return self._end(rollout, states.ABORTED, "abort", reason=reason, actor=actor)

    def supersede(self, rollout: Rollout, *, reason: str) -> None:
        """End a rollout because another is to begin: a promoted version stays production."""
        if rollout.phase != states.BAKING:
            rollout = self.abort(rollout, reason=reason)
        if rollout.is_unfinished:
            # Promoted, or it could not go back: the next one replaces what is production now.
            self.end_bake(rollout, reason=reason)

    def roll_back(self, rollout: Rollout, *, reason: str, actor: str | None = None) -> Rollout:
        """End a rollout because the candidate is bad; one that goes back itself is finished.

        Where no earlier version can serve it is paused where it is, with a critical alert.
        """
        if rollout.is_rollback and rollout.status == states.PROMOTING:
            return self._finish_promotion(rollout)
        if rollout.status == states.ROLLING_BACK:
            return self._finish_rollback(rollout)
        return self._move(rollout, Verdict(move=Move.ROLL_BACK, reason=reason), actor=actor)
