"""What a strategy tells of its rollouts: pure functions of their state."""

from collections.abc import Sequence

from modelyard.update_strategy.records import RollbackResult, RolloutState
from modelyard.update_strategy.rollout import PROMOTED, ROLLED_BACK, Rollout
from modelyard.update_strategy.triggers import UpdateTrigger


def state_of(rollout: Rollout) -> RolloutState:
    """A rollout as it stands."""
    return {
        "rollout_id": rollout.rollout_id,
        "status": rollout.status,
        "shares": rollout.traffic,
        "applied_to": list(rollout.applied_to),
        "new_version_id": rollout.new_version_id,
        "previous_version_id": rollout.old_version_id,
        "trigger": rollout.trigger,
        "step": rollout.step_index + 1,
        "n_steps": len(rollout.shares),
        "reason": rollout.reason,
        "is_rollback": rollout.is_rollback,
    }


def percent(share: float) -> str:
    """A share of the traffic, 0 to 1, for people: 10%, 0.4%, 99.996%."""
    return f"{100.0 * share:.6g}%"


def in_progress(rollout: Rollout) -> str:
    """That another rollout is in the way, and the ways out."""
    return (
        f"{rollout.new_version_id} of {rollout.model_name!r} is rolling out "
        f"({rollout.rollout_id}). Wait, call abort(), or pass supersede=True."
    )


def already_production(version_id: str, trigger: UpdateTrigger, *, n_steps: int) -> RolloutState:
    """That nothing has to be done."""
    return {
        "rollout_id": None,
        "status": "already_running",
        "shares": {version_id: 1.0},
        "applied_to": [],
        "new_version_id": version_id,
        "previous_version_id": version_id,
        "trigger": trigger.value,
        "step": n_steps,
        "n_steps": n_steps,
        "reason": f"{version_id} is production already",
        "is_rollback": False,
    }


def rollback_of(rollout: Rollout) -> RollbackResult:
    """What became of a rollback: one that ended a rollout, or one that is a rollout itself."""
    came_from: str | None
    went_to: str | None
    if rollout.is_rollback:
        came_from, went_to, done = rollout.old_version_id, rollout.new_version_id, PROMOTED
    else:
        came_from, went_to, done = rollout.new_version_id, rollout.old_version_id, ROLLED_BACK
    is_done = rollout.status == done
    return {
        "rolled_back": is_done,
        "from_version_id": came_from,
        "to_version_id": went_to if is_done else None,
        "rollout_id": rollout.rollout_id,
        "applied_to": list(rollout.applied_to),
        "reason": rollout.reason,
    }


def nowhere_to_go(
    model_name: str, production: str | None, passed_over: Sequence[str] = ()
) -> RollbackResult:
    """That there is nothing to go back to, and why what there was is of no use."""
    nowhere = f"{model_name!r} has no earlier production version to go back to"
    return {
        "rolled_back": False,
        "from_version_id": production,
        "to_version_id": None,
        "rollout_id": None,
        "applied_to": [],
        "reason": "; ".join([nowhere, *passed_over]),
    }
