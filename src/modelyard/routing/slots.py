"""Who owns which of the 10,000 slots; only those move that must."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.routing.hashing import N_SLOTS
from modelyard.routing.weights import whole_shares


@dataclass(frozen=True)
class SlotTable:
    """The owner of each slot. Immutable: a change of weights gives another table.

    Attributes:
        owners: The name that owns each slot, 10,000 of them.
    """

    owners: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.owners) != N_SLOTS:
            raise ConfigError(f"A slot table has {N_SLOTS} slots, got {len(self.owners)}.")

    @classmethod
    def from_weights(cls, weights: Mapping[str, float]) -> "SlotTable":
        """A table dealt out by weight.

        Raises:
            ConfigError: Weights that give no shares (`normalised`).
        """
        counts = whole_shares(weights, N_SLOTS)
        return cls(tuple(name for name, count in counts.items() for _ in range(count)))

    def reassigned(
        self, weights: Mapping[str, float], *, from_below: frozenset[str] = frozenset()
    ) -> "SlotTable":
        """The table for new weights, names added or dropped, with as few moves as possible.

        Each owner gives up only what it has too much of, and only to those who have too little:
        no scheme moves fewer users.

        Args:
            weights: By name.
            from_below: Owners that give up their lowest slots, instead of their highest. Of two,
                one of which gives from below, each has the same slots whenever it has the same
                weight, by whatever way it came there.

        Raises:
            ConfigError: Weights that give no shares (`normalised`).
        """
        missing = dict(whole_shares(weights, N_SLOTS))
        free = []
        upwards = list(enumerate(self.owners))
        below = [place for place in reversed(upwards) if place[1] in from_below]
        for slot, owner in (*(place for place in upwards if place[1] not in from_below), *below):
            if missing.get(owner, 0) > 0:
                missing[owner] -= 1
            else:
                free.append(slot)
        takers = [name for name, count in missing.items() for _ in range(count)]
        owners = list(self.owners)
        for slot, taker in zip(sorted(free), takers, strict=True):
            owners[slot] = taker
        return SlotTable(tuple(owners))

    def n_moved(self, other: "SlotTable") -> int:
        """In how many slots the two tables differ."""
        return sum(a != b for a, b in zip(self.owners, other.owners, strict=True))

    def shares(self) -> dict[str, float]:
        """The share of the slots that each owner has, 0 to 1."""
        counts: dict[str, int] = {}
        for owner in self.owners:
            counts[owner] = counts.get(owner, 0) + 1
        return {name: count / N_SLOTS for name, count in counts.items()}

    def to_plain(self) -> dict[str, Any]:
        """The table as runs of slots with one owner: `{"runs": [["a", 5000], ["b", 5000]]}`."""
        return {"runs": [[owner, len(list(run))] for owner, run in groupby(self.owners)]}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "SlotTable":
        """The table that `to_plain` described.

        Raises:
            ConfigError: The runs do not fill 10,000 slots.
        """
        return cls(tuple(str(name) for name, count in plain["runs"] for _ in range(count)))
