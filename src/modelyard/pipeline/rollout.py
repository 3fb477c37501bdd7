"""Stage: a staged rollout on a sped-up clock, and one that has to be undone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import torch
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard.deployment import Deployment
from modelyard.pipeline.progress import Progress
from modelyard.update_strategy import UpdateStrategy

_S_PER_REQUEST = 1.0
_MOST_REQUESTS = 5000
_N_USERS = 500
_S_PER_MINUTE = 60.0


class FaultyModel(nn.Module):
    """A model gone wrong: slow, and failing at every fifth request after the first.

    Args:
        model: The sound module inside.
        delay_s: What each answer takes longer.
    """

    def __init__(self, model: nn.Module, *, delay_s: float = 0.003) -> None:
        super().__init__()
        self.model = model
        self.delay_s = delay_s
        self.n_requests = 0

    def forward(self, x: torch.Tensor) -> Any:
        """The sound answer, late, or an error."""
        self.n_requests += 1
        time.sleep(self.delay_s)
        if self.n_requests % 5 == 0:
            raise RuntimeError("the candidate failed")
        return self.model(x)


@dataclass(kw_only=True, eq=False)
class RolloutOutcome:
    """How a rollout went.

    Attributes:
        title: What it was about.
        status: How it ended: "promoted", "rolled_back", "paused".
        reason: Why.
        times_min: Minutes from the start at which the shares changed.
        shares: Part of the traffic by version at those times.
        events: (minute, label) of what happened.
        n_requests: Requests served.
        n_rescued: Requests that the stable version answered because the candidate failed.
        n_failed: Requests that nobody answered.
        duration_min: Minutes on the sped-up clock.
    """

    title: str
    status: str = ""
    reason: str = ""
    times_min: list[float] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)
    events: list[tuple[float, str]] = field(default_factory=list)
    n_requests: int = 0
    n_rescued: int = 0
    n_failed: int = 0
    duration_min: float = 0.0


def roll_out(
    title: str,
    strategy: UpdateStrategy,
    deployment: Deployment,
    inputs: torch.Tensor,
    clock: ManualClock,
    progress: Progress,
    *,
    versions: Sequence[str],
) -> RolloutOutcome:
    """Send traffic until the rollout that has just begun is over.

    Args:
        title: What it is about.
        strategy: Has begun a rollout.
        deployment: Serves it.
        inputs: Requests, used over and over.
        clock: Moves one second a request.
        progress: Gets the share done and a line.
        versions: The two versions, stable first.
    """
    outcome = RolloutOutcome(title=title, shares={version: [] for version in versions})
    started = clock.now()
    _note_shares(outcome, deployment.shares(), 0.0)
    for i in range(_MOST_REQUESTS):
        clock.advance(_S_PER_REQUEST)
        _ask(outcome, deployment, inputs[i % len(inputs)][None], user=f"user-{i % _N_USERS}")
        minutes = (clock.now() - started).total_seconds() / _S_PER_MINUTE
        _note_shares(outcome, deployment.shares(), minutes)
        state = strategy.get_rollout()
        if state is None or state["status"] == "paused":
            break
        progress.share(title, state["step"] / state["n_steps"])
    _conclude(outcome, strategy, started, clock)
    progress.line(
        f"{title}: {outcome.status} after {outcome.duration_min:.1f} min and "
        f"{outcome.n_requests} requests ({outcome.reason}); {outcome.n_rescued} answered by the "
        f"stable version instead, {outcome.n_failed} by nobody"
    )
    return outcome


def _ask(outcome: RolloutOutcome, deployment: Deployment, x: torch.Tensor, *, user: str) -> None:
    outcome.n_requests += 1
    answer = deployment.predict(x, user_id=user, fallback=None)
    if answer.version_id is None:
        outcome.n_failed += 1
    elif answer.error is not None:
        outcome.n_rescued += 1


def _note_shares(outcome: RolloutOutcome, shares: dict[str, float], minutes: float) -> None:
    """Keep the shares where they differ from the last ones."""
    now = {version: shares.get(version, 0.0) for version in outcome.shares}
    last = {version: values[-1] for version, values in outcome.shares.items() if values}
    if now == last:
        return
    outcome.times_min.append(minutes)
    for version, values in outcome.shares.items():
        values.append(now[version])


def _conclude(
    outcome: RolloutOutcome, strategy: UpdateStrategy, started: datetime, clock: ManualClock
) -> None:
    record = strategy.get_update_history(limit=1)[0]
    outcome.status, outcome.reason = record["status"], record["reason"]
    outcome.duration_min = (clock.now() - started).total_seconds() / _S_PER_MINUTE
    outcome.events = [
        (
            (datetime.fromisoformat(event["at"]) - started).total_seconds() / _S_PER_MINUTE,
            event["action"].replace("_", " "),
        )
        for event in record["events"]
    ]
    # The last state once more, so that the plot shows where it stayed.
    outcome.times_min.append(outcome.duration_min + 1.0)
    for values in outcome.shares.values():
        values.append(values[-1])
