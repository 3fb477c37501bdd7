"""Who gets which variant: a salted hash into a table of slots, and the weight epochs.

An `Assignment` is immutable, so that it can be read without a lock while another thread changes
the weights: the change is one new object.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any

import numpy as np

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError
from modelyard.ab_testing.variant import require_known
from modelyard.routing import N_SLOTS, SlotTable, normalised, slot_of

_logger = logging.getLogger(__name__)

MODES = ("user", "time_block", "random")


@dataclass(frozen=True, kw_only=True)
class WeightEpoch:
    """A period in which the traffic weights stayed the same.

    Attributes:
        weights: Traffic shares by variant, 0 to 1.
        since: When it began, ISO 8601.
    """

    weights: Mapping[str, float]
    since: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The slot table in force and the epochs that led to it.

    Attributes:
        test_name: Name of the experiment; part of what is hashed.
        salt: Deals the users anew when it is changed.
        table: The owner of each slot.
        epochs: All weight epochs, the present one last.
    """

    test_name: str
    salt: str
    table: SlotTable
    epochs: tuple[WeightEpoch, ...]

    @classmethod
    def from_weights(
        cls, test_name: str, weights: Mapping[str, float], *, salt: str, at: datetime
    ) -> "Assignment":
        """The first assignment of an experiment."""
        epoch = WeightEpoch(weights=normalised(weights), since=at.isoformat())
        table = SlotTable.from_weights(weights)
        return cls(test_name=test_name, salt=salt, table=table, epochs=(epoch,))

    @property
    def epoch(self) -> int:
        """Index of the present weight epoch, from 0."""
        return len(self.epochs) - 1

    @property
    def weights(self) -> Mapping[str, float]:
        """Traffic shares in force, 0 to 1."""
        return self.epochs[-1].weights

    def variant_of(self, key: str) -> str:
        """The variant that belongs to a user or another key."""
        return self.table.owners[slot_of(self.test_name, self.salt, key)]

    def reweighted(self, weights: Mapping[str, float], *, at: datetime) -> "Assignment":
        """The assignment after a change of weights; only users move who must."""
        epoch = WeightEpoch(weights=normalised(weights), since=at.isoformat())
        return replace(self, table=self.table.reassigned(weights), epochs=(*self.epochs, epoch))

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values; the slot table as runs of one owner."""
        return {
            "salt": self.salt,
            "epochs": [
                {"weights": dict(epoch.weights), "since": epoch.since} for epoch in self.epochs
            ],
            **self.table.to_plain(),
        }

    @classmethod
    def from_plain(cls, test_name: str, plain: Mapping[str, Any]) -> "Assignment":
        """The assignment that `to_plain` described."""
        return cls(
            test_name=test_name,
            salt=plain["salt"],
            table=SlotTable.from_plain(plain),
            epochs=tuple(WeightEpoch(**epoch) for epoch in plain["epochs"]),
        )


class Chooser:
    """Chooses by user, by time block or at random. Thread-safe: one lock guards the generator.

    Args:
        mode: `user`, `time_block` or `random`.
        block_s: Length of a time block in seconds.
        clock: Tells the time.
        rng: For requests without a user.

    Raises:
        ConfigError: Another mode, or blocks of no length.
    """

    def __init__(
        self, mode: str, *, block_s: float, clock: Clock, rng: np.random.Generator
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"assignment must be one of {', '.join(MODES)}; got {mode!r}.")
        if not block_s > 0:
            raise ConfigError(f"block_s must be above 0 seconds, got {block_s!r}.")
        self.mode = mode
        self._block_s = block_s
        self._clock = clock
        self._rng = rng
        self._lock = Lock()
        self._has_warned = False

    def choose(self, assignment: Assignment, user_id: str | None) -> str:
        """Name of the variant for one request."""
        if self.mode == "time_block":
            block = int(self._clock.now().timestamp() // self._block_s)
            return assignment.variant_of(f"block_{block}")
        if self.mode == "user":
            if user_id is not None:
                return assignment.variant_of(str(user_id))
            self._warn_once(assignment.test_name)
        with self._lock:
            return assignment.table.owners[int(self._rng.random() * N_SLOTS)]

    def _warn_once(self, test_name: str) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        _logger.warning(
            "Experiment %r splits without a user id: one account would alternate between models. "
            'Pass user_id, use assignment="time_block" or paired=True; assignment="random" says '
            "that this is meant.",
            test_name,
        )


def checked_weights(weights: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Weights of all variants, in the variants' order.

    Raises:
        VariantNotFoundError: A weight of no variant.
        ConfigError: A variant without a weight.
    """
    for name in weights:
        require_known(name, names)
    missing = [name for name in names if name not in weights]
    if missing:
        raise ConfigError(
            f"No weight for {', '.join(missing)}. Give every variant one; 0 takes its traffic."
        )
    return {name: float(weights[name]) for name in names}
