"""What a strategy tells of its rollouts: pure functions of their state."""

from collections.abc import Sequence

from modelyard.update_strategy.records import RollbackResult, RolloutState
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.triggers import UpdateTrigger


def state_of(rollout: Rollout, applied_to: Sequence[str]) -> RolloutState:
    """A rollout as it stands."""
    return {
        "rollout_id": rollout.rollout_id,
        "status": rollout.status,
        "shares": rollout.traffic,
        "applied_to": list(applied_to),
        "new_version_id": rollout.new_version_id,
        "previous_version_id": rollout.old_version_id,
        "trigger": rollout.trigger,
        "step": rollout.step_index + 1,
        "n_steps": len(rollout.shares),
        "reason": rollout.reason,
    }


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
    }


def rollback_of(rollout: Rollout, applied_to: Sequence[str]) -> RollbackResult:
    """That a rollout was ended and its traffic went back."""
    return {
        "rolled_back": True,
        "from_version_id": rollout.new_version_id,
        "to_version_id": rollout.old_version_id,
        "rollout_id": rollout.rollout_id,
        "applied_to": list(applied_to),
        "reason": rollout.reason,
    }


def rollback_to(state: RolloutState, *, reason: str) -> RollbackResult:
    """That an earlier production version has become it again, by the rollout of this state."""
    return {
        "rolled_back": state["status"] == "promoted",
        "from_version_id": state["previous_version_id"],
        "to_version_id": state["new_version_id"],
        "rollout_id": state["rollout_id"],
        "applied_to": state["applied_to"],
        "reason": reason if state["status"] == "promoted" else state["reason"],
    }


def nowhere_to_go(model_name: str, production: str | None) -> RollbackResult:
    """That there is nothing to go back to."""
    return {
        "rolled_back": False,
        "from_version_id": production,
        "to_version_id": None,
        "rollout_id": None,
        "applied_to": [],
        "reason": f"{model_name!r} has no earlier production version to go back to",
    }
