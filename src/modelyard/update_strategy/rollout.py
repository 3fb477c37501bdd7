"""The life of a rollout: an immutable state, and the pure rule that moves it.

running -> promoting -> promoted, or -> rolling_back -> rolled_back; paused and back; aborted.
"promoting" and "rolling_back" are written before anything is moved, so a process that finds one
of them after a crash finishes what was begun.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from modelyard.storage.tables import UNFINISHED_ROLLOUTS
from modelyard.update_strategy.decisions import Evidence, rollback_reasons
from modelyard.update_strategy.settings import UpdateSettings

RUNNING = "running"
PAUSED = "paused"
PROMOTING = "promoting"
ROLLING_BACK = "rolling_back"
PROMOTED = "promoted"
ROLLED_BACK = "rolled_back"
ABORTED = "aborted"
# A step that has waited for samples this many times its own length is paused.
PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A rollout at one moment.

    Attributes:
        rollout_id: Its id.
        model_name: The model.
        old_version_id: What is being replaced; None if nothing was production.
        new_version_id: The candidate.
        trigger: Value of the `UpdateTrigger`.
        status: One of the words above.
        is_rollback: Whether it goes back to an earlier production.
        shares: The candidate's share at each step, 0 to 1.
        step_index: Step it is at.
        n_at_step: Answers of the candidate before this step began.
        step_started_at: When the step began, ISO 8601.
        started_at: When the rollout began.
        finished_at: When it ended, or None.
        reason: Why it is where it is.
        revision: Grows with every change; two who change it at once cannot both win.
    """

    rollout_id: str
    model_name: str
    old_version_id: str | None
    new_version_id: str
    trigger: str
    status: str
    is_rollback: bool
    shares: tuple[float, ...]
    step_index: int
    n_at_step: int
    step_started_at: str
    started_at: str
    finished_at: str | None = None
    reason: str = ""
    revision: int = 1

    @property
    def is_unfinished(self) -> bool:
        """Whether something may still happen to it."""
        return self.status in UNFINISHED_ROLLOUTS

    @property
    def traffic(self) -> dict[str, float]:
        """Share of the traffic by version, 0 to 1."""
        if self.old_version_id is None or self.status in {PROMOTING, PROMOTED}:
            return {self.new_version_id: 1.0}
        if self.status in {ROLLING_BACK, ROLLED_BACK, ABORTED}:
            return {self.old_version_id: 1.0}
        share = self.shares[self.step_index]
        return {self.old_version_id: 1.0 - share, self.new_version_id: share}

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "shares": list(self.shares)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Rollout":
        """The rollout that `to_plain` described."""
        return cls(**{**plain, "shares": tuple(plain["shares"])})


class Move(Enum):
    """What to do with a rollout now."""

    WAIT = "wait"
    NEXT_STEP = "next_step"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    PAUSE = "pause"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A move and the reason for it."""

    move: Move
    reason: str


def judged(
    rollout: Rollout,
    settings: UpdateSettings,
    *,
    now: datetime,
    candidate: Evidence | None,
    stable: Evidence,
) -> Verdict:
    """What to do with an unfinished rollout.

    Args:
        rollout: As it stands.
        settings: The rules.
        now: The time.
        candidate: How the candidate has been doing since the rollout began; None where nothing
            measures it, in which case the clock alone moves the steps.
        stable: How the stable version is doing at the same time.
    """
    if candidate is not None:
        reasons = rollback_reasons(candidate, stable, settings)
        if reasons:
            move = Move.ROLL_BACK if settings.auto_rollback else Move.PAUSE
            if rollout.status == PAUSED and move is Move.PAUSE:
                return Verdict(move=Move.WAIT, reason=rollout.reason)
            return Verdict(move=move, reason="; ".join(reasons))
    if rollout.status == PAUSED:
        return Verdict(move=Move.WAIT, reason=rollout.reason)
    return _by_time_and_samples(rollout, settings, now=now, candidate=candidate)


def _by_time_and_samples(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, candidate: Evidence | None
) -> Verdict:
    elapsed = now - datetime.fromisoformat(rollout.step_started_at)
    step = timedelta(seconds=settings.step_s)
    if elapsed < step:
        return Verdict(move=Move.WAIT, reason="the step has not lasted long enough")
    if candidate is not None:
        n = candidate.n - rollout.n_at_step
        if n < settings.step_min_samples:
            missing = f"{n} of {settings.step_min_samples} answers of the candidate at this step"
            if elapsed > PATIENCE * max(step, timedelta(seconds=1)):
                return Verdict(move=Move.PAUSE, reason=f"too little traffic: {missing}")
            return Verdict(move=Move.WAIT, reason=missing)
    if rollout.step_index + 1 < len(rollout.shares):
        return Verdict(move=Move.NEXT_STEP, reason="the step held")
    return Verdict(move=Move.PROMOTE, reason="every step held")


def moved(rollout: Rollout, verdict: Verdict, *, now: datetime, n_candidate: int) -> Rollout:
    """The rollout after a move; `WAIT` changes nothing."""
    at = now.isoformat()
    if verdict.move is Move.NEXT_STEP:
        return replace(
            rollout,
            step_index=rollout.step_index + 1,
            n_at_step=n_candidate,
            step_started_at=at,
            reason=verdict.reason,
        )
    status = {
        Move.PROMOTE: PROMOTING,
        Move.ROLL_BACK: ROLLING_BACK,
        Move.PAUSE: PAUSED,
        Move.WAIT: rollout.status,
    }[verdict.move]
    return replace(rollout, status=status, reason=verdict.reason)


def finished(
    rollout: Rollout, status: str, *, now: datetime, reason: str | None = None
) -> Rollout:
    """The rollout ended: "promoted", "rolled_back" or "aborted"."""
    return replace(
        rollout,
        status=status,
        finished_at=now.isoformat(),
        reason=rollout.reason if reason is None else reason,
    )


def with_status(rollout: Rollout, status: str, *, reason: str, now: datetime) -> Rollout:
    """The rollout paused, or running again; its step then begins anew."""
    return replace(rollout, status=status, reason=reason, step_started_at=now.isoformat())
