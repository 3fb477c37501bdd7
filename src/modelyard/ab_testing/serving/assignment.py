"""Who gets which variant: a salted hash into a table of slots, and the weight epochs.

An `Assignment` is immutable, so that it can be read without a lock while another thread changes
the weights: the change is one new object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError
from modelyard._core.forking import RenewedLock
from modelyard.ab_testing.recording.results import HELD_OUT
from modelyard.ab_testing.serving.exposures import Exposures
from modelyard.ab_testing.variant import require_known
from modelyard.ab_testing.warning import WarnsOnce
from modelyard.routing import N_SLOTS, SlotTable, normalised, slot_and_mark_of, slot_of

MODES = ("user", "time_block", "random")
_NO_USER = (
    "Experiment %r splits without a user id: one account would alternate between models. "
    'Pass user_id, use assignment="time_block" or paired=True; assignment="random" says that this '
    "is meant."
)


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


# Who answers a request: the variant (`HELD_OUT` for a user kept out of the experiment); whose it
# is, the user or the block of time, None where nobody is known; whether its outcome counts. A
# plain tuple, because one is made for each request.
Choice = tuple[str, str | None, bool]


class Chooser:
    """Chooses by user, by time block or at random, and counts whom it gave what.

    Thread-safe: one lock guards the generator.

    Args:
        mode: `user`, `time_block` or `random`.
        block_s: Length of a time block in seconds.
        clock: Tells the time.
        rng: For requests without a user.
        forced: Variants of users whose outcomes do not count, testers for instance.
        holdout_share: Share of the users kept out of the experiment, 0 to below 1.

    Raises:
        ConfigError: Another mode, blocks of no length, or a share out of range.
    """

    def __init__(
        self,
        mode: str,
        *,
        block_s: float,
        clock: Clock,
        rng: np.random.Generator,
        forced: Mapping[str, str] | None = None,
        holdout_share: float = 0.0,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"assignment must be one of {', '.join(MODES)}; got {mode!r}.")
        if not block_s > 0:
            raise ConfigError(f"block_s must be above 0 seconds, got {block_s!r}.")
        if not 0.0 <= holdout_share < 1.0:
            raise ConfigError(
                f"holdout_share must be in [0, 1), got {holdout_share!r}. 0.1 keeps a tenth out."
            )
        if holdout_share and mode != "user":
            raise ConfigError(f'holdout_share needs assignment="user", got {mode!r}.')
        self.mode = mode
        self.forced = {str(user): name for user, name in (forced or {}).items()}
        self.holdout_share = holdout_share
        self.exposures = Exposures()
        self._n_held_out_slots = round(holdout_share * N_SLOTS)
        self._block_s = block_s
        self._clock = clock
        self._rng = rng
        self._renewed = RenewedLock()
        self._warns = WarnsOnce()

    def choose(self, assignment: Assignment, user_id: Any = None) -> Choice:
        """Who answers one request."""
        if self.mode == "user" and user_id is not None:
            return self._of_user(assignment, user_id if type(user_id) is str else str(user_id))
        if self.mode == "time_block":
            block = self.block()
            slot, mark = slot_and_mark_of(assignment.test_name, assignment.salt, block)
            owner = assignment.table.owners[slot]
            self.exposures.note(owner, assignment.epoch, mark)
            return owner, block, True
        if self.mode == "user":
            self._warns.once("no user", _NO_USER % assignment.test_name)
        with self._renewed.lock:
            owner = assignment.table.owners[int(self._rng.random() * N_SLOTS)]
        self.exposures.note_unknown(owner, assignment.epoch)
        return owner, None if user_id is None else str(user_id), True

    def claimed(self, assignment: Assignment, variant: str, user_id: Any = None) -> Choice:
        """What becomes of the outcome of a variant that was asked for by name."""
        user = None if user_id is None else str(user_id)
        if user is not None and self.is_held_out(assignment, user):
            return HELD_OUT, user, True
        return variant, user, user not in self.forced

    def first_epoch(self, assignment: Assignment, variant: str, user_id: str) -> int | None:
        """The weight epoch in which this process first gave a user that variant, if it did."""
        if self.mode != "user":
            return None
        _, mark = slot_and_mark_of(assignment.test_name, assignment.salt, user_id)
        owner, epoch = self.exposures.seen.get(mark, (None, 0))
        return epoch if owner == variant else None

    def block(self) -> str:
        """Name of the present block of time."""
        return f"block_{int(self._clock.now().timestamp() // self._block_s)}"

    def is_held_out(self, assignment: Assignment, user_id: str) -> bool:
        """Whether a user is kept out of the experiment, whatever the weights are."""
        if not self._n_held_out_slots:
            return False
        slot = slot_of(f"{assignment.test_name}/holdout", assignment.salt, user_id)
        return slot < self._n_held_out_slots

    def _of_user(self, assignment: Assignment, user_id: str) -> Choice:
        if self.forced and user_id in self.forced:
            return self.forced[user_id], user_id, False
        if self._n_held_out_slots and self.is_held_out(assignment, user_id):
            return HELD_OUT, user_id, True
        slot, mark = slot_and_mark_of(assignment.test_name, assignment.salt, user_id)
        owner = assignment.table.owners[slot]
        if mark not in self.exposures.seen:
            self.exposures.note(owner, assignment.epoch, mark)
        return owner, user_id, True


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
