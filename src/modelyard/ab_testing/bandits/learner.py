"""What a bandit knows and does, in memory and without a lock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from modelyard._core.errors import ConfigError, RequestNotFoundError, VariantNotFoundError
from modelyard.ab_testing.bandits.chances import chances_of_best
from modelyard.ab_testing.bandits.choices import MOST_PENDING, BanditChoice, Basis, Choices, mixed
from modelyard.ab_testing.bandits.policies import PolicyRules
from modelyard.ab_testing.bandits.sums import Sums


class Outcome(NamedTuple):
    """What came of a use of a variant.

    Attributes:
        variant: Its name.
        reward: What it gave.
        request_id: Of the choice, or None.
        propensity: Chance of a choice that was made elsewhere, or None.
    """

    variant: str
    reward: float
    request_id: str | None
    propensity: float | None


@dataclass(slots=True)
class Outbox:
    """What happened since the last flush.

    Attributes:
        choices: New choices.
        rewards: New rewards: the choice they belong to if there is one, variant, reward.
        members: Variants that came or went: name, and whether it came.
    """

    choices: list[BanditChoice] = field(default_factory=list)
    rewards: list[tuple[BanditChoice | None, str, float]] = field(default_factory=list)
    members: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened."""
        return not self.n

    @property
    def n(self) -> int:
        """How much happened."""
        return len(self.choices) + len(self.rewards) + len(self.members)

    def before(self, later: "Outbox") -> "Outbox":
        """This and what happened `later`."""
        return Outbox(
            self.choices + later.choices,
            self.rewards + later.rewards,
            self.members + later.members,
        )


class Learner:
    """Chooses variants and learns from their rewards.

    Not thread-safe: its owner locks.

    Args:
        names: The variants, in order.
        rules: How to choose.
        choices: Where choices are kept.
        rng: For the random ones.

    Attributes:
        names: The variants there are now.
        record: Sums of all their rewards.
        sums: What choices are made on: the record itself, or what is not forgotten of it.
        removed: Sums of each variant that was removed.
        n_duplicates: Rewards of requests that had theirs already.
        outbox: What happened, for a store; None without one.
    """

    def __init__(
        self, names: Sequence[str], rules: PolicyRules, choices: Choices, rng: np.random.Generator
    ) -> None:
        rules.check_number(len(names))
        self.rules = rules
        self.choices = choices
        self.rng = rng
        self.sums = rules.sums(len(names))
        self.record = Sums(len(names), rules.reward_range) if rules.forgets else self.sums
        self.removed: dict[str, Sums] = {}
        self.n_duplicates = 0
        self.outbox: Outbox | None = None
        self.policy = rules.policy()
        self._explores = rules.exploration(0, len(names)) > 0.0
        self.set_names(names)

    def set_names(self, names: Sequence[str]) -> None:
        """Name the variants, in the order of the sums."""
        self.names = tuple(names)
        self.index = {name: index for index, name in enumerate(self.names)}

    def n_uses(self) -> float:
        """Uses of the variants there are, forgotten ones too."""
        if self.record is self.sums:
            return self.sums.n_pulls
        # What is forgotten is still a use; only the sums know what is pending.
        return self.record.n_pulls + sum(self.sums.pending)

    def require_known(self, variant: str) -> None:
        """Check that there is, or was, a variant of this name.

        Raises:
            VariantNotFoundError: There never was.
        """
        if variant not in self.index and variant not in self.removed:
            raise VariantNotFoundError(f"No variant {variant!r}. There are: {self.names}.")

    def select(self, now_s: float, request_id: str | None = None) -> str:
        """Name of the variant to use now; the same again for a request id that is known."""
        choices, sums, names = self.choices, self.sums, self.names
        if request_id is not None:
            known = choices.by_key(request_id)
            if known is not None and known.variant in self.index:
                return known.variant
        if now_s >= choices.next_expiry_s:
            self.expire(now_s)
        index, posterior = self.policy.choose(sums, self.rng)
        basis = None
        if self._explores or posterior is not None:
            exploration = self.rules.exploration(self.n_uses(), len(names))
            basis = Basis(index, exploration, posterior)
            if exploration and self.rng.random() < exploration:
                index = int(self.rng.random() * len(names))
        choice = BanditChoice(index, names, now_s, basis)
        sums.pull(index)
        if request_id is None:
            # Written out: a call of its own would be a thirtieth of the time of a choice.
            choices.log.append(choice)
            choices.waiting[names[index]].append(choice)
            if sums.pending[index] > MOST_PENDING:
                choices.next_expiry_s = now_s
        else:
            choice.request_id = request_id
            choices.add_keyed(choice, request_id)
        if self.outbox is not None:
            self.outbox.choices.append(choice)
        return names[index]

    def update(self, variant: str, reward: float) -> None:
        """Take a reward, of the variant's first choice that waits for one if there is one."""
        choice = None
        queue = self.choices.waiting[variant]
        while queue:
            choice = queue.popleft()
            if choice.is_pending:
                self.settle(choice, reward)
                break
        else:
            choice = None
            self.take(variant, reward)
        if self.outbox is not None:
            self.outbox.rewards.append((choice, variant, reward))

    def knows_request(self, outcome: Outcome) -> bool:
        """Whether an outcome needs no choice, or names one that is remembered."""
        request_id = outcome.request_id
        return (
            request_id is None
            or outcome.propensity is not None
            or self.choices.by_key(request_id) is not None
        )

    def require_request(self, outcome: Outcome) -> None:
        """Check that the choice of an outcome is known, where it names one.

        Raises:
            RequestNotFoundError: No choice was made for it that is remembered.
            ConfigError: It was made for another variant.
        """
        request_id = outcome.request_id
        choice = None if request_id is None else self.choices.by_key(request_id)
        if not self.knows_request(outcome):
            raise RequestNotFoundError(
                f"No choice with request_id {request_id!r} is remembered. Pass request_id= to "
                "select_variant; without it the reward is taken too, and with propensity= it is "
                "logged as a choice made elsewhere."
            )
        if choice is not None and choice.variant != outcome.variant:
            raise ConfigError(
                f"Request {request_id!r} was answered by {choice.variant!r}, not by "
                f"{outcome.variant!r}."
            )

    def learn_all(self, outcomes: Sequence[Outcome], now_s: float) -> None:
        """Take all outcomes, or none where a request is not known.

        Raises:
            RequestNotFoundError: As `require_request`.
            ConfigError: As `require_request`.
        """
        for outcome in outcomes:
            self.require_request(outcome)
        for outcome in outcomes:
            self.learn(outcome, now_s)

    def learn(self, outcome: Outcome, now_s: float) -> None:
        """Take an outcome, once for each request; its request is known (`require_request`)."""
        variant, reward, request_id, propensity = outcome
        if request_id is None and propensity is None:
            self.update(variant, reward)
            return
        choice = None if request_id is None else self.choices.by_key(request_id)
        if choice is not None and choice.has_reward:
            self.n_duplicates += 1
            return
        if choice is None:
            choice = self._made_elsewhere(variant, request_id, now_s)
        if propensity is not None:
            choice.propensity = propensity
        self.settle(choice, reward)
        if self.outbox is not None:
            self.outbox.rewards.append((choice, variant, reward))

    def settle(self, choice: BanditChoice, reward: float) -> None:
        """Take the reward of a choice."""
        if not choice.is_pending:
            # Given up meanwhile, or made elsewhere: it is not among those counted.
            self.choices.end(choice, reward)
            self.take(choice.variant, reward)
            return
        choice.reward = reward
        choice.has_reward = True
        choice.is_pending = False
        if choice.key is not None:
            self.choices.note_ended(choice.key)
        # A variant that goes takes its pending choices with it, so this one is here.
        index = self.index[choice.among[choice.index]]
        self.sums.settle(index, reward)
        if self.record is not self.sums:
            self.record.add(index, reward)

    def _made_elsewhere(self, variant: str, request_id: str | None, now_s: float) -> BanditChoice:
        among = self.names if variant in self.index else (*self.names, variant)
        choice = BanditChoice(among.index(variant), among, now_s)
        choice.is_pending = False
        choice.request_id = request_id
        if request_id is None:
            self.choices.log.append(choice)
        else:
            self.choices.add_keyed(choice, request_id)
        if self.outbox is not None:
            self.outbox.choices.append(choice)
        return choice

    def take(self, variant: str, reward: float) -> None:
        """Add a reward that no pending choice has waited for."""
        index = self.index.get(variant)
        if index is None:
            self.removed.setdefault(variant, Sums(1)).add(0, reward)
            return
        self.sums.add(index, reward)
        if self.record is not self.sums:
            self.record.add(index, reward)

    def expire(self, now_s: float) -> None:
        """Wait no longer for rewards that should have come."""
        for choice in self.choices.expired(now_s):
            index = self.index.get(choice.variant)
            if index is not None:
                self.sums.give_up(index)

    def wait_for(self, choice: BanditChoice) -> None:
        """Wait for the reward of a choice that another process made."""
        index = self.index.get(choice.variant)
        if index is not None:
            choice.is_pending = True
            self.sums.pull(index)

    def add(self, name: str) -> None:
        """Add a variant; one that was removed comes back with what is known of it.

        Raises:
            ConfigError: It is there already, or `min_probability` leaves no room for it.
        """
        if name in self.index:
            raise ConfigError(f"There is a variant {name!r} already: {self.names}.")
        self.rules.check_number(len(self.names) + 1)
        self.bring(name)
        if self.outbox is not None:
            self.outbox.members.append((name, True))

    def bring(self, name: str) -> None:
        """Add a variant that another process has added."""
        before = self.removed.pop(name, None)
        self.sums.insert(before)
        if self.record is not self.sums:
            self.record.insert(before)
        self.set_names((*self.names, name))

    def remove(self, name: str) -> None:
        """Remove a variant; what is known of it is kept.

        Raises:
            VariantNotFoundError: It is not there.
            ConfigError: It is the last one.
        """
        if name not in self.index:
            raise VariantNotFoundError(f"No variant {name!r}. There are: {self.names}.")
        if len(self.names) == 1:
            raise ConfigError(f"{name!r} is the last variant: add another one first.")
        self.drop(name)
        if self.outbox is not None:
            self.outbox.members.append((name, False))

    def drop(self, name: str) -> None:
        """Remove a variant that another process has removed."""
        index = self.index[name]
        known = self.sums.take_out(index)
        if self.record is not self.sums:
            known = self.record.take_out(index)
        self.removed[name] = known
        self.choices.give_up(name)
        self.set_names([other for other in self.names if other != name])

    def probabilities(self) -> list[float]:
        """Chance of each variant to be chosen next."""
        posterior = self.policy.posterior(self.sums)
        n = len(self.names)
        if posterior is None:
            # A certain choice asks nothing of the generator.
            certain, _ = self.policy.choose(self.sums, self.rng)
            preferred = [float(index == certain) for index in range(n)]
        else:
            preferred = chances_of_best([posterior])[0]
        exploration = self.rules.exploration(self.n_uses(), n)
        return [mixed(chance, exploration, n) for chance in preferred]
