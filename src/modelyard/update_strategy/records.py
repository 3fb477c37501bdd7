"""The shapes of what a strategy tells."""

from typing import Any, TypedDict


class UpdateDecision(TypedDict):
    """Whether an update is due.

    Attributes:
        should_update: The answer.
        reasons: Each with its numbers, in words.
        triggers: The same as values of `UpdateTrigger`.
        blocked_by: Why the answer is no although there are reasons, else None: a rollout that
            runs, the cooldown, too few samples.
        n_samples: Predictions in the monitor's window.
        cooldown_until: Moment until which none is due, ISO 8601, or None.
    """

    should_update: bool
    reasons: list[str]
    triggers: list[str]
    blocked_by: str | None
    n_samples: int
    cooldown_until: str | None


class RolloutState(TypedDict):
    """A rollout as it stands.

    Attributes:
        rollout_id: Its id; None where nothing had to be done.
        status: "running", "paused", "promoted", "rolled_back", "aborted", or "already_running"
            where the version is production or rolling out already.
        shares: Share of the traffic by version, 0 to 1.
        applied_to: What really serves these shares: "deployment", "optimizer", or nothing, in
            which case only the production pointer moves.
        new_version_id, previous_version_id: To what and from what.
        trigger: Why.
        step: Step it is at, counted from 1, of `n_steps`; 0 while the first waits for approval.
        reason: Why it is where it is, in words.
        is_rollback: Whether it goes back to an earlier production, by hand; "promoted" then means
            that it has.
    """

    rollout_id: str | None
    status: str
    shares: dict[str, float]
    applied_to: list[str]
    new_version_id: str
    previous_version_id: str | None
    trigger: str
    step: int
    n_steps: int
    reason: str
    is_rollback: bool


class RollbackDecision(TypedDict):
    """Whether to go back: each reason in words with its numbers, and the numbers themselves."""

    should_rollback: bool
    reasons: list[str]
    evidence: dict[str, Any]


class RollbackResult(TypedDict):
    """What a rollback did; `reason` says why nothing, if `rolled_back` is false."""

    rolled_back: bool
    from_version_id: str | None
    to_version_id: str | None
    rollout_id: str | None
    applied_to: list[str]
    reason: str


class UpdateRecord(TypedDict):
    """One update in the history, with every event it went through, oldest first.

    With `is_rollback` it went back to an earlier production, by hand: "promoted" means it has.
    """

    rollout_id: str
    model_name: str
    old_version_id: str | None
    new_version_id: str
    trigger: str
    status: str
    started_at: str
    finished_at: str | None
    reason: str
    is_rollback: bool
    events: list[dict[str, Any]]
