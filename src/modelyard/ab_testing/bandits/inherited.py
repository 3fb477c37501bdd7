"""What the child of a fork holds of its parent already, and will find in the store as well."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.ab_testing.bandits.choices import BanditChoice
from modelyard.ab_testing.bandits.learner import Outbox


@dataclass(kw_only=True)
class Inherited:
    """What a learner holds of another recorder's chunks, which it must not take in once more.

    What the parent had not stored comes first in the chunks that it stores later.

    Attributes:
        seq: Up to this chunk of the recorder everything is held.
        choices: The first choices of later chunks, as the learner has them.
        n_rewards: How many of the first rewards of later chunks are held.
        n_members: How many of the first variants that came or went in later chunks are.
    """

    seq: int
    choices: list[BanditChoice] = field(default_factory=list)
    n_rewards: int = 0
    n_members: int = 0

    @classmethod
    def of(cls, seq: int, outbox: Outbox) -> "Inherited":
        """What is stored up to `seq`, and what waits in the outbox at the moment of the fork."""
        return cls(
            seq=seq,
            choices=list(outbox.choices),
            n_rewards=len(outbox.rewards),
            n_members=len(outbox.members),
        )

    def is_met(self, last_seq: int) -> bool:
        """Whether all of it has come from the store, which was read up to `last_seq`."""
        is_left = bool(self.choices or self.n_rewards or self.n_members)
        return not is_left and self.seq <= last_seq

    def known_choices(self, n: int) -> list[BanditChoice]:
        """Of the next `n` choices that come the first, as far as they are held."""
        known, self.choices = self.choices[:n], self.choices[n:]
        return known

    def new_rewards(self, rewards: Sequence[Any]) -> Sequence[Any]:
        """Of the next rewards that come those that are not held."""
        n_known = min(self.n_rewards, len(rewards))
        self.n_rewards -= n_known
        return rewards[n_known:]

    def new_members(self, members: Sequence[Any]) -> Sequence[Any]:
        """Of the next variants that come or go those that are not held."""
        n_known = min(self.n_members, len(members))
        self.n_members -= n_known
        return members[n_known:]
