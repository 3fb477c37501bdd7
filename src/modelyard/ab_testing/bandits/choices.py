"""The choices a bandit made: with what chance, what came of them, and which still wait."""

import math
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import NamedTuple

from modelyard.ab_testing.bandits.chances import Posterior, chances_of_best

# A choice that waits longer than this many later ones is given up, whatever the time; and so many
# request ids are remembered after their reward came.
MOST_PENDING = 100_000


class Basis(NamedTuple):
    """What a choice that was not certain was made on.

    Attributes:
        preferred: Place of the variant that was best, or drawn, before chance came in.
        exploration: Chance that the choice was made at random, 0 to 1.
        posterior: What `preferred` was drawn from; None where that was certain.
    """

    preferred: int
    exploration: float
    posterior: Posterior | None


class BanditChoice:
    """One choice; its reward comes later.

    Attributes:
        index: Place of the variant in `among`.
        among: Names of the variants there were.
        at_s: Monotonic time.
        basis: What it was made on, until its propensity is worked out; None if it was certain.
        request_id: Given by the caller, or None.
        key: Names a choice whose reward is to come; its request id, if it has one.
        reward: What came of it, if something has; NaN where that was not finite.
        has_reward: Whether something has.
        is_pending: Whether its reward is still waited for.
        propensity: Chance of the variant, once it was worked out (`fill_propensities`).
    """

    __slots__ = (
        "among",
        "at_s",
        "basis",
        "has_reward",
        "index",
        "is_pending",
        "key",
        "propensity",
        "request_id",
        "reward",
    )

    def __init__(
        self, index: int, among: tuple[str, ...], at_s: float, basis: Basis | None = None
    ) -> None:
        self.index = index
        self.among = among
        self.at_s = at_s
        self.basis = basis
        self.request_id: str | None = None
        self.key: str | None = None
        self.reward = math.nan
        self.has_reward = False
        self.is_pending = True
        self.propensity: float | None = 1.0 if basis is None else None

    @property
    def variant(self) -> str:
        """Name of the chosen variant."""
        return self.among[self.index]

    def end(self, reward: float) -> None:
        """Note what came of it."""
        self.reward = reward
        self.has_reward = True
        self.is_pending = False


def fill_propensities(choices: Iterable[BanditChoice]) -> None:
    """Work out the propensities that are not known yet.

    It takes some time where posteriors have to be integrated, so it is not done while choosing.
    """
    # Taken once: another thread may be doing the same.
    unknown = [
        (choice, choice.basis)
        for choice in choices
        if choice.propensity is None and choice.basis is not None
    ]
    chances = iter(chances_of_best([basis.posterior for _, basis in unknown if basis.posterior]))
    for choice, basis in unknown:
        if basis.posterior is None:
            preferred = float(choice.index == basis.preferred)
        else:
            preferred = next(chances)[choice.index]
        choice.propensity = mixed(preferred, basis.exploration, len(choice.among))
        choice.basis = None


def mixed(preferred: float, exploration: float, n_variants: int) -> float:
    """Chance of a variant that is preferred with one chance, and else chosen at random."""
    return exploration / n_variants + (1.0 - exploration) * preferred


class Choices:
    """The last choices, and those that wait for their reward.

    Not thread-safe: its owner locks.

    Args:
        log_size: How many are kept.
        pending_timeout_s: Seconds after which a reward is no longer waited for; None: never.

    Attributes:
        log: The last ones, oldest first.
        waiting: Of each variant those without a request id, oldest first: a reward without one
            belongs to the first that is still pending.
        n_expired: Choices whose reward was waited for in vain.
        next_expiry_s: Before this monotonic time none is waited for too long.
    """

    def __init__(self, log_size: int, pending_timeout_s: float | None) -> None:
        self.log: deque[BanditChoice] = deque(maxlen=log_size)
        self.n_expired = 0
        self._timeout_s = math.inf if pending_timeout_s is None else pending_timeout_s
        self.next_expiry_s = -math.inf
        self.waiting: defaultdict[str, deque[BanditChoice]] = defaultdict(deque)
        self._by_key: dict[str, BanditChoice] = {}
        self._keyed: deque[BanditChoice] = deque()
        self._ended_keys: deque[str] = deque()

    def add_keyed(self, choice: BanditChoice, key: str) -> None:
        """Take a choice that is found by its key."""
        choice.key = key
        self.log.append(choice)
        self.remember(choice, key)

    def remember(self, choice: BanditChoice, key: str) -> None:
        """Find a choice by its key from now on."""
        self._by_key[key] = choice
        if choice.is_pending:
            self._keyed.append(choice)
            if len(self._keyed) > MOST_PENDING:
                self.next_expiry_s = -math.inf
        else:
            self.note_ended(key)

    def inherit(self, choice: BanditChoice) -> None:
        """Wait for the reward of a choice that an earlier process made."""
        self.waiting[choice.variant].append(choice)

    def disown(self, own_prefix: str) -> None:
        """Leave choices to the process that made them: their rewards come with their key.

        Args:
            own_prefix: What the keys of this process begin with.
        """
        for variant, queue in self.waiting.items():
            self.waiting[variant] = deque(
                choice
                for choice in queue
                if choice.key is None or choice.key.startswith(own_prefix)
            )

    def disown_all(self, prefix: str) -> None:
        """Leave all choices to the process this one was forked from.

        Args:
            prefix: What a key begins with until the one that the other process gives is known.
        """
        waiting = [one for queue in self.waiting.values() for one in queue if one.is_pending]
        for n, choice in enumerate(waiting):
            choice.key = choice.key or f"{prefix}/inherited/{n}"
            self.remember(choice, choice.key)
        self.waiting.clear()

    def by_key(self, key: str) -> BanditChoice | None:
        """The choice of this key, or None."""
        return self._by_key.get(key)

    def end(self, choice: BanditChoice, reward: float) -> None:
        """Note what came of a choice."""
        choice.end(reward)
        if choice.key is not None:
            self.note_ended(choice.key)

    def pending(self) -> list[BanditChoice]:
        """Those whose reward is waited for: oldest first among those of one kind."""
        queues = (self._keyed, *self.waiting.values())
        found = {id(choice): choice for queue in queues for choice in queue if choice.is_pending}
        return list(found.values())

    def give_up(self, variant: str) -> None:
        """Wait for no reward of this variant any more."""
        for choice in self.pending():
            if choice.variant == variant:
                choice.is_pending = False
                self.note_ended(choice.key)

    def expired(self, now_s: float) -> list[BanditChoice]:
        """Those that are waited for no longer, from now on."""
        gone: list[BanditChoice] = []
        heads = []
        for queue in (self._keyed, *self.waiting.values()):
            while queue and not self._is_waited_for(queue[0], len(queue), now_s):
                choice = queue.popleft()
                if choice.is_pending:
                    choice.is_pending = False
                    gone.append(choice)
                    self.note_ended(choice.key)
            if queue:
                heads.append(queue[0].at_s)
        self.next_expiry_s = min(heads, default=now_s) + self._timeout_s
        self.n_expired += len(gone)
        return gone

    def _is_waited_for(self, choice: BanditChoice, n_waiting: int, now_s: float) -> bool:
        return (
            choice.is_pending
            and now_s - choice.at_s < self._timeout_s
            and n_waiting <= MOST_PENDING
        )

    def note_ended(self, key: str | None) -> None:
        """Remember a key whose choice waits no longer for a while."""
        if key not in self._by_key:
            return
        self._ended_keys.append(key)
        if len(self._ended_keys) > MOST_PENDING:
            self._by_key.pop(self._ended_keys.popleft(), None)
