"""The life of a rollout: an immutable state, and the pure rule that moves it.

pending -> (shadow) -> running, step by step, with waiting where somebody must approve ->
promoting -> (baking) -> promoted; or -> rolling_back -> rolled_back; paused and back; aborted.
"promoting" and "rolling_back" are written before anything is moved, so a process that finds one of
them after a crash finishes what was begun.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from modelyard.storage.tables import UNFINISHED_ROLLOUTS
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.judging import Judgement, judge
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.windows import is_open, opens_at

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
# A step that has waited for samples this many times its own length is paused; one that has them,
# and needs more of them to be decided, after so many.
PATIENCE = 10.0
PATIENCE_UNDECIDED = 30.0
_ALL_OLD = frozenset({PENDING, SHADOW, ROLLING_BACK, ROLLED_BACK, ABORTED})
_ALL_NEW = frozenset({PROMOTING, BAKING, PROMOTED})


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
        step_started_at: When the step began, ISO 8601.
        started_at: When the rollout began.
        applied_to: What really serves it; nothing while only the production pointer moves.
        held: The status that a paused one goes back to; empty while it is not paused.
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
    held: str = ""
    approved: int = -1

    @property
    def is_unfinished(self) -> bool:
        """Whether something may still happen to it."""
        return self.status in UNFINISHED_ROLLOUTS

    @property
    def phase(self) -> str:
        """The status, and for a paused one that which it goes back to."""
        return self.held if self.status == PAUSED and self.held else self.status

    @property
    def shadow(self) -> str | None:
        """The version that answers copies of requests, or None."""
        return self.new_version_id if self.phase == SHADOW else None

    @property
    def traffic(self) -> dict[str, float]:
        """Share of the traffic by version, 0 to 1."""
        status = self.phase
        if self.old_version_id is None or status in _ALL_NEW:
            return {self.new_version_id: 1.0}
        if status in _ALL_OLD:
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
        return cls(**{**plain, **as_tuples})


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
    """A move, the reason for it, and the judgement it rests on, if there was one."""

    move: Move
    reason: str
    judgement: Judgement | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What this process has seen of a rollout's present step.

    Attributes:
        candidate: How the candidate has been doing; None where nothing measures it by itself, in
            which case the clock alone moves the steps.
        stable: What it is compared with: the stable version at the same time, else the baseline.
        n_at_step: Answers of the candidate at this step.
        since: When this process first saw the step. After a restart that is later than the step's
            beginning: what was measured before is gone and must be measured again.
        is_key_metric_reported: Whether either version has a value of the key metric.
        concurrent: What the stable version has done at the same time; None where it is not known.
        at_step: What both, the candidate first, have done since the shares last changed, for their
            latencies to be compared; None where they cannot be.
    """

    candidate: Evidence | None
    stable: Evidence
    n_at_step: int
    since: datetime
    is_key_metric_reported: bool = False
    concurrent: Evidence | None = None
    at_step: tuple[Evidence, Evidence] | None = None


def judged(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    """What to do with a rollout that is neither promoting nor rolling back."""
    if seen.candidate is not None:
        reasons = rollback_reasons(seen.candidate, seen.stable, settings, at_step=seen.at_step)
        if reasons and settings.auto_rollback:
            return Verdict(move=Move.ROLL_BACK, reason="; ".join(reasons))
        if reasons and rollout.status != PAUSED:
            return Verdict(move=Move.PAUSE, reason="; ".join(reasons))
    if rollout.status in {PAUSED, WAITING}:
        return Verdict(move=Move.WAIT, reason=rollout.reason)
    return _forward(rollout, settings, now=now, seen=seen)


def _forward(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    """What to do with a rollout that breaks no limit and waits for nobody."""
    if rollout.status == BAKING:
        return _baked(rollout, settings, now=now)
    if not is_open(settings.windows, settings.zone, now):
        return Verdict(move=Move.WAIT, reason=_closed(settings, now))
    if rollout.status == PENDING:
        return _first_move(settings)
    return _by_time_and_samples(rollout, settings, now=now, seen=seen)


def _first_move(settings: UpdateSettings) -> Verdict:
    if settings.shadow_minutes > 0:
        return Verdict(move=Move.BEGIN_SHADOW, reason="copies of requests first")
    return Verdict(move=Move.BEGIN, reason="begun")


def _closed(settings: UpdateSettings, now: datetime) -> str:
    opening = opens_at(settings.windows, settings.zone, now)
    until = "" if opening is None else f" until {opening.isoformat()}"
    return f"outside the update windows{until}"


def _baked(rollout: Rollout, settings: UpdateSettings, *, now: datetime) -> Verdict:
    bake = timedelta(minutes=settings.bake_minutes)
    if now - datetime.fromisoformat(rollout.step_started_at) < bake:
        return Verdict(move=Move.WAIT, reason="watched after its promotion")
    return Verdict(move=Move.FINISH, reason="held after its promotion too")


def _by_time_and_samples(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    is_shadow = rollout.status == SHADOW
    step = timedelta(minutes=settings.shadow_minutes) if is_shadow else _step(settings)
    if now - datetime.fromisoformat(rollout.step_started_at) < step:
        return Verdict(move=Move.WAIT, reason="the step has not lasted long enough")
    waited = (now - seen.since) / max(step, timedelta(seconds=1))
    shortage = _shortage(seen, settings)
    if shortage is not None:
        move = Move.PAUSE if waited > PATIENCE else Move.WAIT
        return Verdict(move=move, reason=shortage)
    return _by_judgement(rollout, settings, seen=seen, is_late=waited > PATIENCE_UNDECIDED)


def _by_judgement(
    rollout: Rollout, settings: UpdateSettings, *, seen: Observation, is_late: bool
) -> Verdict:
    """The step has lasted long enough and has its samples: what do they say?"""
    judgement = _judgement(rollout, settings, seen)
    if judgement is not None and judgement.answer == "fail":
        move = Move.ROLL_BACK if settings.auto_rollback else Move.PAUSE
        return Verdict(move=move, reason=judgement.reason, judgement=judgement)
    if judgement is not None and judgement.answer == "inconclusive":
        if is_late:
            reason = f"inconclusive: {judgement.reason}"
            return Verdict(move=Move.PAUSE, reason=reason, judgement=judgement)
        return Verdict(move=Move.WAIT, reason=judgement.reason, judgement=judgement)
    caveat = _caveat(seen, settings)
    if rollout.status == SHADOW:
        reason = f"copies of requests were answered well{caveat}"
        return Verdict(move=Move.BEGIN, reason=reason, judgement=judgement)
    return _next(rollout, settings, caveat, judgement)


def _next(
    rollout: Rollout, settings: UpdateSettings, caveat: str, judgement: Judgement | None
) -> Verdict:
    index = rollout.step_index + 1
    if index >= len(rollout.shares):
        reason = f"every step held{caveat}"
        return Verdict(move=Move.PROMOTE, reason=reason, judgement=judgement)
    if _needs_approval(rollout, settings, index):
        reason = (
            f"the step held{caveat}; {rollout.shares[index]:.0%} of the traffic waits for "
            "approve()"
        )
        return Verdict(move=Move.ASK, reason=reason, judgement=judgement)
    return Verdict(move=Move.NEXT_STEP, reason=f"the step held{caveat}", judgement=judgement)


def _needs_approval(rollout: Rollout, settings: UpdateSettings, index: int) -> bool:
    asked = {round(share / 100.0, 9) for share in settings.approval_steps}
    return rollout.approved < index and round(rollout.shares[index], 9) in asked


def _judgement(rollout: Rollout, settings: UpdateSettings, seen: Observation) -> Judgement | None:
    if seen.candidate is None or seen.concurrent is None:
        return None
    index = 0 if rollout.status == SHADOW else rollout.step_index + 1
    next_share = rollout.shares[min(index, len(rollout.shares) - 1)]
    return judge(
        seen.candidate, seen.concurrent, settings, next_share=next_share, at_step=seen.at_step
    )


def _step(settings: UpdateSettings) -> timedelta:
    return timedelta(seconds=settings.step_s)


def _shortage(seen: Observation, settings: UpdateSettings) -> str | None:
    """How much there is of what the step needs to be judged; None if enough.

    A key metric needs years to be proved equal, so few values of it hold nobody up. None at all,
    where the stable version has some, are lost, or still to come.
    """
    enough = settings.step_min_samples
    if seen.candidate is None:
        return None
    if seen.n_at_step < enough:
        missing = f"{seen.n_at_step} of {enough} answers of the candidate at this step"
        return f"too little traffic: {missing}"
    if seen.is_key_metric_reported and seen.candidate.n_key_metric == 0:
        return f"no outcomes: 0 values of {settings.key_metric} from the candidate"
    return None


def _caveat(seen: Observation, settings: UpdateSettings) -> str:
    """What the steps did not look at, because there was too little of it."""
    if seen.candidate is None or settings.key_metric is None:
        return ""
    if not seen.is_key_metric_reported:
        return f"; no values of {settings.key_metric} were reported"
    n, enough = seen.candidate.n_key_metric, settings.step_min_samples
    if n < enough:
        return f"; {settings.key_metric} had only {n} of {enough} values of the candidate"
    return ""


_STATUS_AFTER = {
    Move.BEGIN_SHADOW: SHADOW,
    Move.BEGIN: RUNNING,
    Move.NEXT_STEP: RUNNING,
    Move.ASK: WAITING,
    Move.PROMOTE: PROMOTING,
    Move.FINISH: PROMOTED,
    Move.ROLL_BACK: ROLLING_BACK,
    Move.PAUSE: PAUSED,
}
_BEGINS_A_STEP = frozenset({Move.BEGIN_SHADOW, Move.BEGIN, Move.NEXT_STEP})


def moved(rollout: Rollout, verdict: Verdict, *, now: datetime) -> Rollout:
    """The rollout after a move; `WAIT` changes nothing."""
    move = verdict.move
    if move is Move.WAIT:
        return rollout
    changed = replace(
        rollout,
        status=_STATUS_AFTER[move],
        reason=verdict.reason,
        held=rollout.phase if move is Move.PAUSE else "",
    )
    if move is Move.NEXT_STEP:
        changed = replace(changed, step_index=rollout.step_index + 1)
    if move in _BEGINS_A_STEP:
        changed = replace(changed, step_started_at=now.isoformat())
    return changed


def finished(rollout: Rollout, status: str, *, now: datetime, reason: str) -> Rollout:
    """The rollout ended: "promoted", "rolled_back" or "aborted"."""
    return replace(rollout, status=status, finished_at=now.isoformat(), reason=reason, held="")


def baking(rollout: Rollout, *, now: datetime) -> Rollout:
    """The rollout whose candidate has just become production, watched from now on."""
    return replace(rollout, status=BAKING, step_started_at=now.isoformat(), held="")


def paused(rollout: Rollout, *, reason: str) -> Rollout:
    """The rollout held where it is."""
    return replace(rollout, status=PAUSED, held=rollout.phase, reason=reason)


def resumed(rollout: Rollout, *, reason: str, now: datetime) -> Rollout:
    """The paused rollout going on; its step begins anew."""
    status = rollout.held or RUNNING
    return replace(rollout, status=status, held="", reason=reason, step_started_at=now.isoformat())


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
