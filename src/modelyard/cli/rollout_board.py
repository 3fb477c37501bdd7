"""A rollout as people see it: shares, numbers of both versions, and what stops it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from modelyard._core.errors import NotFoundError
from modelyard.cli.showing import as_text

if TYPE_CHECKING:
    from modelyard.update_strategy import RolloutState
    from modelyard.version_manager import ModelVersionManager

OVER = frozenset({"promoted", "rolled_back", "aborted"})


@dataclass(frozen=True, kw_only=True)
class Look:
    """A rollout as it stands, what was seen of it last, and whether all updates are stopped."""

    model_name: str
    state: "RolloutState | None"
    seen: dict[str, Any] | None
    halt: dict[str, str] | None

    def board(self) -> Group:
        """What stops all updates, and shares and numbers of both versions under the state."""
        parts: list[Text | Table] = []
        if self.halt is not None:
            parts.append(
                Text(
                    f"All updates of {self.model_name} are stopped by {self.halt['actor']} since "
                    f"{self.halt['at'][:19]}: {self.halt['reason']}. The stable version answers "
                    "everything.",
                    style="bold",
                )
            )
        if self.state is not None:
            parts.append(_board(self.state, self.seen, self.served()))
        return Group(*parts)

    def served(self) -> dict[str, float]:
        """Who really answers: during a halt the stable version does."""
        if self.state is None:
            return {}
        old = self.state["previous_version_id"]
        if self.halt is None or old is None or self.state["status"] in OVER:
            return self.state["shares"]
        return {old: 1.0}

    def to_plain(self) -> dict[str, Any]:
        """The state with the shares that are really served, what was seen, and the halt."""
        state = {} if self.state is None else {**self.state, "shares": self.served()}
        return {**state, "seen": self.seen, "halt": self.halt}


def look_at(registry: "ModelVersionManager", model_name: str) -> Look:
    """Look at a model's last rollout.

    Raises:
        NotFoundError: It has had none, and nobody has stopped its updates.
    """
    from modelyard.update_strategy import (  # noqa: PLC0415 - brings SciPy
        current_halt,
        last_rollout,
        last_seen,
    )

    halt = current_halt(registry.store, model_name)
    state = last_rollout(registry.store, model_name)
    if state is None and halt is None:
        raise NotFoundError(f"{model_name!r} has had no rollout.")
    seen = last_seen(registry.store, model_name)
    is_of_it = seen is not None and state is not None and seen["rollout_id"] == state["rollout_id"]
    return Look(
        model_name=model_name,
        state=state,
        seen=dict(seen) if seen is not None and is_of_it else None,
        halt=None if halt is None else asdict(halt),
    )


def _board(
    state: "RolloutState", seen: dict[str, Any] | None, traffic: Mapping[str, float]
) -> Table:
    """Shares and numbers of both versions, with the rollout's state above."""
    # A text: what stands in brackets in somebody's reason is no markup.
    title = f"{state['status']}, step {state['step']} of {state['n_steps']}: {state['reason']}"
    board = Table(title=Text(title), title_justify="left")
    columns = ("version", "share", "answers", "failed", "median (ms)", "p95 (ms)", "key metric")
    for name in columns:
        board.add_column(name, no_wrap=name == "version")
    sides = {state["previous_version_id"]: "stable", state["new_version_id"]: "candidate"}
    for version_id, side in sides.items():
        if version_id is None:
            continue
        numbers = {} if seen is None else seen.get(side, {})
        cells = [numbers.get(key) for key in ("n", "n_errors", "latency_median_ms")]
        cells += [numbers.get(key) for key in ("latency_p95_ms", "key_metric")]
        board.add_row(
            Text(f"{version_id} ({side})"),
            _percent(traffic.get(version_id, 0.0)),
            *(as_text(cell) for cell in cells),
        )
    return board


def _percent(share: float) -> str:
    from modelyard.update_strategy.telling import percent  # noqa: PLC0415 - brings SciPy

    return percent(share)


def shares(traffic: Mapping[str, float]) -> str:
    """Parts of the traffic for people, with as many digits as they need."""
    return ", ".join(f"{name} {_percent(share)}" for name, share in traffic.items())
