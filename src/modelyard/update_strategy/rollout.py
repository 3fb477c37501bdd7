"""The life of a rollout: an immutable state, and what each move makes of it.

pending -> (shadow) -> running, step by step, with waiting where somebody must approve ->
promoting -> (baking) -> promoted; or -> rolling_back -> rolled_back; paused and back; aborted.
"promoting" and "rolling_back" are written before anything is moved, so a process that finds one of
them after a crash finishes what was begun.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any

from modelyard.storage.tables import UNFINISHED_ROLLOUTS
from modelyard.update_strategy.judging import Judgement

PENDING = "pending"
SHADOW = "shadow"
RUNNING = "running"
WAITING = "waiting"
PAUSED = "paused"
PROMOTING = "promoting"
BAKING = "baking"
ROLLING_BACK = "rolling_back"
PROMOTED = "promoted"
ROLLED_BACK = "rolled_back"
ABORTED = "aborted"
_ALL_OLD = frozenset({PENDING, SHADOW, ROLLING_BACK, ROLLED_BACK, ABORTED})
_ALL_NEW = frozenset({PROMOTING, BAKING, PROMOTED})
# Attributes that have another name in what was stored before.
_RENAMED = {"held": "paused_in"}


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
        step_index: Step it is at; -1 while it waits for the approval of its first one.
        step_started_at: When what it is at began, ISO 8601: shadow, step or bake; a resumed one
            begins anew.
        started_at: When the rollout began.
        applied_to: What really serves it; nothing while only the production pointer moves.
        paused_in: The status that a paused one goes back to; empty while it is not paused.
        is_blamed: Whether it is paused because a limit was broken.
        is_taken_off: Whether all updates were stopped while it ran or was paused: the stable
            version answers everything until it goes on.
        measured_since: From when on the versions are measured, ISO 8601, where a person let it go
            on after a limit was broken; empty where from its beginning on.
        approved: Index of the last step that somebody has approved; -1 for none.
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
    step_started_at: str
    started_at: str
    applied_to: tuple[str, ...] = ()
    finished_at: str | None = None
    reason: str = ""
    revision: int = 1
    paused_in: str = ""
    approved: int = -1
    is_blamed: bool = False
    measured_since: str = ""
    is_taken_off: bool = False

    @property
    def is_unfinished(self) -> bool:
        """Whether something may still happen to it."""
        return self.status in UNFINISHED_ROLLOUTS

    @property
    def phase(self) -> str:
        """The status, and for a paused one that which it goes back to."""
        return self.paused_in if self.status == PAUSED and self.paused_in else self.status

    @property
    def shadow(self) -> str | None:
        """The version that answers copies of requests, or None."""
        return self.new_version_id if self.phase == SHADOW else None

    @property
    def traffic(self) -> dict[str, float]:
        """Share of the traffic by version, 0 to 1."""
        status = self.phase
        if self.old_version_id is not None and self.is_taken_off:
            return {self.old_version_id: 1.0}
        if self.old_version_id is None or status in _ALL_NEW:
            return {self.new_version_id: 1.0}
        if status in _ALL_OLD or self.step_index < 0:
            return {self.old_version_id: 1.0}
        share = self.shares[self.step_index]
        return {self.old_version_id: 1.0 - share, self.new_version_id: share}

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "shares": list(self.shares), "applied_to": list(self.applied_to)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Rollout":
        """The rollout that `to_plain` described."""
        as_tuples = {name: tuple(plain[name]) for name in ("shares", "applied_to")}
        known = {_RENAMED.get(name, name): value for name, value in plain.items()}
        return cls(**{**known, **as_tuples})


class Move(Enum):
    """What to do with a rollout now."""

    WAIT = "wait"
    BEGIN_SHADOW = "shadow"
    BEGIN = "begin"
    NEXT_STEP = "next_step"
    ASK = "ask_for_approval"
    PROMOTE = "promote"
    FINISH = "finish"
    ROLL_BACK = "roll_back"
    PAUSE = "pause"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A move, the reason for it, and the judgement it rests on, if there was one.

    `is_blame` says that a limit is broken.
    """

    move: Move
    reason: str
    judgement: Judgement | None = None
    is_blame: bool = False


_STATUS_AFTER = {
    Move.BEGIN_SHADOW: SHADOW,
    Move.BEGIN: RUNNING,
    Move.NEXT_STEP: RUNNING,
    Move.ASK: WAITING,
    Move.PROMOTE: PROMOTING,
    Move.ROLL_BACK: ROLLING_BACK,
    Move.PAUSE: PAUSED,
}
_BEGINS_A_STEP = frozenset({Move.BEGIN_SHADOW, Move.BEGIN, Move.NEXT_STEP})


def moved(rollout: Rollout, verdict: Verdict, *, now: datetime) -> Rollout:
    """The rollout after a move; `WAIT` changes nothing, and to `FINISH` is `finished`."""
    move = verdict.move
    if move is Move.WAIT:
        return rollout
    changed = replace(
        rollout,
        status=_STATUS_AFTER[move],
        reason=verdict.reason,
        paused_in=rollout.phase if move is Move.PAUSE else "",
        is_blamed=verdict.is_blame and move is Move.PAUSE,
        is_taken_off=False,
    )
    if move is Move.NEXT_STEP:
        changed = replace(changed, step_index=rollout.step_index + 1)
    if move is Move.ASK and rollout.phase in {PENDING, SHADOW}:
        changed = replace(changed, step_index=-1)
    if move in _BEGINS_A_STEP:
        changed = replace(changed, step_started_at=now.isoformat())
    return changed


def finished(rollout: Rollout, status: str, *, now: datetime, reason: str) -> Rollout:
    """The rollout ended: "promoted", "rolled_back" or "aborted"."""
    at = now.isoformat()
    return replace(
        rollout,
        status=status,
        finished_at=at,
        reason=reason,
        paused_in="",
        is_taken_off=False,
    )


def taken_off(rollout: Rollout, *, reason: str, now: datetime) -> Rollout:
    """The rollout paused, if it is not, with the stable version answering everything."""
    if rollout.status != PAUSED:
        rollout = moved(rollout, Verdict(move=Move.PAUSE, reason=reason), now=now)
    return replace(rollout, is_taken_off=True)


def baking(rollout: Rollout, *, now: datetime) -> Rollout:
    """The rollout whose candidate has just become production, watched from now on."""
    return replace(rollout, status=BAKING, step_started_at=now.isoformat(), paused_in="")


def stuck(rollout: Rollout, *, reason: str) -> Rollout:
    """The rollout that has to go back and cannot: it stays where it is until somebody helps."""
    phase = BAKING if rollout.phase == ROLLING_BACK else rollout.phase
    return replace(rollout, status=PAUSED, paused_in=phase, reason=reason, is_blamed=True)


def resumed(rollout: Rollout, *, reason: str, now: datetime) -> Rollout:
    """The paused rollout going on; its step or bake begins anew.

    After a broken limit what was measured counts no more: it would pause it again at once.
    """
    at = now.isoformat()
    return replace(
        rollout,
        status=rollout.paused_in or RUNNING,
        paused_in="",
        reason=f"{reason}; what was measured begins anew" if rollout.is_blamed else reason,
        step_started_at=at,
        measured_since=at if rollout.is_blamed else rollout.measured_since,
        is_blamed=False,
        is_taken_off=False,
    )


def approved(rollout: Rollout, *, reason: str, now: datetime) -> Rollout:
    """The waiting rollout with its next step allowed, which begins."""
    index = rollout.step_index + 1
    return replace(
        rollout,
        status=RUNNING,
        step_index=index,
        approved=index,
        reason=reason,
        step_started_at=now.isoformat(),
    )
