"""What a rollout does next: a pure rule of time, evidence and settings."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.judging import Judgement, judge
from modelyard.update_strategy.rollout import (
    BAKING,
    PAUSED,
    PENDING,
    SHADOW,
    WAITING,
    Move,
    Rollout,
    Verdict,
)
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.telling import percent
from modelyard.update_strategy.windows import closed_until, time_open

# A step that has waited for samples this many times its own length is paused; one that has them,
# and needs more of them to be decided, after so many.
PATIENCE = 10.0
PATIENCE_UNDECIDED = 30.0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What this process has seen of a rollout's present step.

    Attributes:
        candidate: How the candidate has been doing since it got traffic or copies; None where
            nothing measures it by itself, in which case the clock alone moves the steps.
        reference: What the guard compares with: the stable version since then, before that, or
            the baseline, whichever first has enough.
        n_at_step: Answers of the candidate at this step.
        since: When this process first saw the step. After a restart that is later than the step's
            beginning: what was measured before is gone and must be measured again.
        lasted: How long the step has lasted, by a clock that is not set; None where only the
            wall clock tells.
        is_key_metric_reported: Whether either version has a value of the key metric.
        stable: What the stable version has done since the candidate got traffic or copies; None
            where they are not side by side.
        at_step: What both, the candidate first, have done since the shares last changed, for their
            latencies to be compared; None where they cannot be.
        is_baseline: Whether the reference is the baseline.
        model: Where nothing measures the candidate by itself: what the model's monitor has
            recorded since the rollout began; None where that is nobody's fault.
    """

    candidate: Evidence | None
    reference: Evidence
    n_at_step: int
    since: datetime
    lasted: timedelta | None = None
    is_key_metric_reported: bool = False
    stable: Evidence | None = None
    at_step: tuple[Evidence, Evidence] | None = None
    is_baseline: bool = False
    model: Evidence | None = None


def guarded(rollout: Rollout, settings: UpdateSettings, seen: Observation) -> Verdict | None:
    """What the fast guard does about a rollout; None where no limit is broken."""
    watched = seen.model if seen.candidate is None else seen.candidate
    if watched is None:
        return None
    reasons = rollback_reasons(
        watched, seen.reference, settings, at_step=seen.at_step, beside=seen.stable
    )
    if reasons and settings.auto_rollback:
        return Verdict(move=Move.ROLL_BACK, reason="; ".join(reasons), is_blame=True)
    if reasons and rollout.status != PAUSED:
        return Verdict(move=Move.PAUSE, reason="; ".join(reasons), is_blame=True)
    return None


def judged(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    """What to do with a rollout that is neither promoting nor rolling back."""
    verdict = guarded(rollout, settings, seen)
    if verdict is not None:
        return verdict
    if rollout.status in {PAUSED, WAITING}:
        return Verdict(move=Move.WAIT, reason=rollout.reason)
    return _forward(rollout, settings, now=now, seen=seen)


def first_move(settings: UpdateSettings) -> Verdict:
    """How a rollout begins inside its windows."""
    if settings.shadow_minutes > 0:
        return Verdict(move=Move.BEGIN_SHADOW, reason="copies of requests come first")
    return _first_step(settings)


def _first_step(
    settings: UpdateSettings, *, passed: str = "", judgement: Judgement | None = None
) -> Verdict:
    """The first share, or the question for it."""
    share = settings.shares[0]
    if _is_asked_for(share, settings):
        reason = f"{passed}; {_asked(share)}" if passed else _asked(share)
        return Verdict(move=Move.ASK, reason=reason, judgement=judgement)
    reason = passed or f"the first step is {percent(share)} of the traffic"
    return Verdict(move=Move.BEGIN, reason=reason, judgement=judgement)


def _forward(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    """What to do with a rollout that breaks no limit and waits for nobody."""
    if rollout.status == BAKING:
        return _baked(rollout, settings, now=now, seen=seen)
    closed = closed_until(settings.windows, settings.zone, now)
    if closed is not None:
        return Verdict(move=Move.WAIT, reason=closed)
    if rollout.status == PENDING:
        return first_move(settings)
    return _by_time_and_samples(rollout, settings, now=now, seen=seen)


def lacks_key_metric(seen: Observation, settings: UpdateSettings) -> bool:
    """Whether what is watched has answered, and has no value of the key metric that is set."""
    watched = seen.model if seen.candidate is None else seen.candidate
    return settings.key_metric is not None and watched is not None and watched.n_key_metric == 0


def _baked(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    bake = timedelta(minutes=settings.bake_minutes)
    if _lasted(rollout, now=now, seen=seen) < bake:
        return Verdict(move=Move.WAIT, reason="watched after its promotion")
    reason = "broke no limit after its promotion either"
    if lacks_key_metric(seen, settings):
        reason += f"; no values of {settings.key_metric} were reported of it"
    return Verdict(move=Move.FINISH, reason=reason)


def _by_time_and_samples(
    rollout: Rollout, settings: UpdateSettings, *, now: datetime, seen: Observation
) -> Verdict:
    is_shadow = rollout.status == SHADOW
    step = timedelta(minutes=settings.shadow_minutes) if is_shadow else _step(settings)
    lasted = _lasted(rollout, now=now, seen=seen)
    if lasted < step:
        return Verdict(move=Move.WAIT, reason="the step has not lasted long enough")
    # Hours in which it may take no step are no reason to lose patience with it, nor is a clock
    # that was set.
    open_for = min(lasted, time_open(settings.windows, settings.zone, seen.since, now))
    waited = open_for / max(step, timedelta(seconds=1))
    shortage = _shortage(seen, settings)
    if shortage is not None:
        move = Move.PAUSE if waited > PATIENCE else Move.WAIT
        return Verdict(move=move, reason=shortage)
    return _by_judgement(rollout, settings, seen=seen, is_late=waited > PATIENCE_UNDECIDED)


def _lasted(rollout: Rollout, *, now: datetime, seen: Observation) -> timedelta:
    """How long the present step or bake has lasted."""
    if seen.lasted is not None:
        return seen.lasted
    return now - datetime.fromisoformat(rollout.step_started_at)


def _by_judgement(
    rollout: Rollout, settings: UpdateSettings, *, seen: Observation, is_late: bool
) -> Verdict:
    """The step has lasted long enough and has its samples: what do they say?"""
    judgement = _judgement(rollout, settings, seen)
    if judgement is not None and judgement.answer == "fail":
        move = Move.ROLL_BACK if settings.auto_rollback else Move.PAUSE
        return Verdict(move=move, reason=judgement.reason, judgement=judgement, is_blame=True)
    if judgement is not None and judgement.answer == "inconclusive":
        if is_late:
            reason = f"inconclusive: {judgement.reason}"
            return Verdict(move=Move.PAUSE, reason=reason, judgement=judgement)
        return Verdict(move=Move.WAIT, reason=judgement.reason, judgement=judgement)
    caveat = _caveats(seen, judgement, settings)
    if rollout.status == SHADOW:
        passed = f"copies of requests were answered well{caveat}"
        return _first_step(settings, passed=passed, judgement=judgement)
    return _next(rollout, settings, caveat, judgement)


def _next(
    rollout: Rollout, settings: UpdateSettings, caveat: str, judgement: Judgement | None
) -> Verdict:
    index = rollout.step_index + 1
    if index >= len(rollout.shares):
        reason = f"every step passed{caveat}"
        return Verdict(move=Move.PROMOTE, reason=reason, judgement=judgement)
    share = rollout.shares[index]
    if rollout.approved < index and _is_asked_for(share, settings):
        reason = f"the step passed{caveat}; {_asked(share)}"
        return Verdict(move=Move.ASK, reason=reason, judgement=judgement)
    return Verdict(move=Move.NEXT_STEP, reason=f"the step passed{caveat}", judgement=judgement)


def _is_asked_for(share: float, settings: UpdateSettings) -> bool:
    return round(share, 9) in {round(step / 100.0, 9) for step in settings.approval_steps}


def _asked(share: float) -> str:
    return f"{percent(share)} of the traffic waits for approve()"


def _judgement(rollout: Rollout, settings: UpdateSettings, seen: Observation) -> Judgement | None:
    if seen.candidate is None or seen.stable is None:
        return None
    index = 0 if rollout.status == SHADOW else rollout.step_index + 1
    next_share = rollout.shares[min(index, len(rollout.shares) - 1)]
    return judge(
        seen.candidate,
        seen.stable,
        settings,
        next_share=next_share,
        at_step=seen.at_step,
        is_stable_serving=rollout.traffic.get(rollout.old_version_id or "", 0.0) > 0.0,
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


def _caveats(seen: Observation, judgement: Judgement | None, settings: UpdateSettings) -> str:
    """What the step did not look at, because there was too little of it."""
    if seen.candidate is None:
        n = 0 if seen.model is None else seen.model.n
        looked = f"the model's monitor broke no limit in {n} predictions" if n else ""
        return f"; by the clock; {looked or 'nothing was measured'}"
    caveat = ""
    if judgement is not None and not judgement.checks:
        caveat = "; nothing was compared: the stable version had no traffic beside the candidate"
    elif judgement is None:
        caveat = "; the guard alone looked at it: nothing serves beside it"
    if settings.key_metric is None:
        return caveat
    if not seen.is_key_metric_reported:
        return f"{caveat}; no values of {settings.key_metric} were reported"
    n, enough = seen.candidate.n_key_metric, settings.step_min_samples
    if n < enough:
        return f"{caveat}; {settings.key_metric} had only {n} of {enough} values of the candidate"
    return caveat
