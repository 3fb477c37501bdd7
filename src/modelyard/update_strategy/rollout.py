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
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import rollback_reasons
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
        step_started_at: When the step began, ISO 8601.
        started_at: When the rollout began.
        applied_to: What really serves it; nothing while only the production pointer moves.
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
        return {**asdict(self), "shares": list(self.shares), "applied_to": list(self.applied_to)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Rollout":
        """The rollout that `to_plain` described."""
        as_tuples = {name: tuple(plain[name]) for name in ("shares", "applied_to")}
        return cls(**{**plain, **as_tuples})


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


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What this process has seen of a rollout's present step.

    Attributes:
        candidate: How the candidate has been doing; None where nothing measures it by itself, in
            which case the clock alone moves the steps.
        stable: What it is compared with.
        n_at_step: Answers of the candidate at this step.
        since: When this process first saw the step. After a restart that is later than the step's
            beginning: what was measured before is gone and must be measured again.
        is_key_metric_reported: Whether either version has a value of the key metric.
    """

    candidate: Evidence | None
    stable: Evidence
    n_at_step: int
    since: datetime
    is_key_metric_reported: bool = False


def judged(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    """What to do with a rollout that is running or paused."""
    if seen.candidate is not None:
        reasons = rollback_reasons(seen.candidate, seen.stable, settings)
        if reasons and settings.auto_rollback:
            return Verdict(move=Move.ROLL_BACK, reason="; ".join(reasons))
        if reasons and rollout.status != PAUSED:
            return Verdict(move=Move.PAUSE, reason="; ".join(reasons))
    if rollout.status == PAUSED:
        return Verdict(move=Move.WAIT, reason=rollout.reason)
    return _by_time_and_samples(rollout, settings, now=now, seen=seen)


def _by_time_and_samples(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    step = timedelta(seconds=settings.step_s)
    if now - datetime.fromisoformat(rollout.step_started_at) < step:
        return Verdict(move=Move.WAIT, reason="the step has not lasted long enough")
    shortage = _shortage(seen, settings)
    if shortage is not None:
        what, missing = shortage
        if now - seen.since > PATIENCE * max(step, timedelta(seconds=1)):
            return Verdict(move=Move.PAUSE, reason=f"{what}: {missing}")
        return Verdict(move=Move.WAIT, reason=missing)
    caveat = _caveat(seen, settings)
    if rollout.step_index + 1 < len(rollout.shares):
        return Verdict(move=Move.NEXT_STEP, reason=f"the step held{caveat}")
    return Verdict(move=Move.PROMOTE, reason=f"every step held{caveat}")


def _shortage(seen: Observation, settings: UpdateSettings) -> tuple[str, str] | None:
    """What there is too little of to judge the candidate, and how much there is; None if enough.

    Values of the key metric count over the whole rollout: outcomes come late.
    """
    enough = settings.step_min_samples
    if seen.candidate is None:
        return None
    if seen.n_at_step < enough:
        missing = f"{seen.n_at_step} of {enough} answers of the candidate at this step"
        return "too little traffic", missing
    if seen.is_key_metric_reported and seen.candidate.n_key_metric < enough:
        missing = (
            f"{seen.candidate.n_key_metric} of {enough} values of {settings.key_metric} from the "
            "candidate"
        )
        return "too few outcomes", missing
    return None


def _caveat(seen: Observation, settings: UpdateSettings) -> str:
    """What the steps did not look at, because nobody reported it."""
    is_blind = settings.key_metric is not None and not seen.is_key_metric_reported
    if seen.candidate is None or not is_blind:
        return ""
    return f"; no values of {settings.key_metric} were reported"


def moved(rollout: Rollout, verdict: Verdict, *, now: datetime) -> Rollout:
    """The rollout after a move; `WAIT` changes nothing."""
    if verdict.move is Move.WAIT:
        return rollout
    if verdict.move is Move.NEXT_STEP:
        return replace(
            rollout,
            step_index=rollout.step_index + 1,
            step_started_at=now.isoformat(),
            reason=verdict.reason,
        )
    status = {Move.PROMOTE: PROMOTING, Move.ROLL_BACK: ROLLING_BACK, Move.PAUSE: PAUSED}
    return replace(rollout, status=status[verdict.move], reason=verdict.reason)


def finished(rollout: Rollout, status: str, *, now: datetime, reason: str) -> Rollout:
    """The rollout ended: "promoted", "rolled_back" or "aborted"."""
    return replace(rollout, status=status, finished_at=now.isoformat(), reason=reason)


def with_status(rollout: Rollout, status: str, *, reason: str, now: datetime) -> Rollout:
    """The rollout paused, or running again; its step then begins anew."""
    return replace(rollout, status=status, reason=reason, step_started_at=now.isoformat())
