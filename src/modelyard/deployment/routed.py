"""Who answers what at one moment, and how an attempt at it is recorded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from modelyard.deployment.attempts import Attempt, Deadline, attempt
from modelyard.deployment.recent import Recent
from modelyard.deployment.serving import Served
from modelyard.deployment.shadowing import Shadow
from modelyard.deployment.watched import as_prediction, as_row
from modelyard.routing import SlotTable

# Inputs that a monitor can take as features.
_RECORDED = (np.ndarray, torch.Tensor)


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Who answers what. Replaced as a whole, so no request sees half of a change.

    Attributes:
        served: Versions that are ready to answer.
        slots: Whose request goes to whom; None before anything is served.
        sharing: The versions that have a share.
        stable: The version that answers what another fails to.
        shadow: What answers copies of requests.
        is_stable_only: Whether the stable version answers everything, whatever the slots say.
        deadlines: Of each version, where there are any.
        recent: What each has done since the shares last changed.
        beside: What each has done since the last one joined.
        noting: Where an attempt of each is counted.
        compares_forms: Whether answers must have the form of the stable version's.
    """

    served: Mapping[str, Served] = field(default_factory=dict)
    slots: SlotTable | None = None
    sharing: frozenset[str] = frozenset()
    stable: str | None = None
    shadow: Shadow | None = None
    is_stable_only: bool = False
    deadlines: Mapping[str, Deadline] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)
    beside: Mapping[str, Recent] = field(default_factory=dict)
    noting: Mapping[str, tuple[Recent, ...]] = field(init=False, repr=False)
    compares_forms: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Work out once what each request needs."""
        noting: dict[str, tuple[Recent, ...]] = {}
        for kept in (self.recent, self.beside):
            for version_id, one in kept.items():
                noting[version_id] = (*noting.get(version_id, ()), one)
        object.__setattr__(self, "noting", noting)
        sharing = [self.served[version_id] for version_id in self.sharing if self.stable]
        # Where signatures tell the outputs, whoever began to split the traffic knew them.
        compares = len(sharing) > 1 and not all(one.tells_outputs for one in sharing)
        object.__setattr__(self, "compares_forms", compares)

    def attempt(self, version_id: str, x: Any) -> Attempt:
        """One version's try at a request, within its deadline if it has one."""
        deadline = self.deadlines.get(version_id)
        served = self.served[version_id]
        return attempt(served, x) if deadline is None else deadline.attempt(served, x)

    def note(self, made: Attempt) -> None:
        """Count an attempt of the version that the request was meant for.

        What another one failed to answer is no fair sample for the one behind it.
        """
        event = (made.latency_s, made.error is not None)
        for one in self.noting.get(made.served.version_id, ()):
            one.add(event)


def record(made: Attempt, x: Any, request_id: str) -> None:
    """Tell a version's monitor what it answered, how fast, and whether it failed."""
    made.served.monitor.record_prediction(
        as_prediction(made.output),
        made.latency_s,
        features=as_row(x) if isinstance(x, _RECORDED) else None,
        error=made.error is not None,
        request_id=request_id,
        version_id=made.served.version_id,
    )
