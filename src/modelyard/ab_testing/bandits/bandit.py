"""`MultiArmedBandit`: traffic goes where the rewards are while they are still being learnt."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Self, Unpack

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.forking import call_after_fork
from modelyard._core.ids import checked_name
from modelyard.ab_testing.bandits import off_policy, state
from modelyard.ab_testing.bandits.choices import Choices
from modelyard.ab_testing.bandits.handover import experiment_of
from modelyard.ab_testing.bandits.inputs import (
    check_options,
    checked_columns,
    checked_generator,
    checked_ids,
    checked_outcome,
    checked_reward,
    checked_variants,
    name_of,
)
from modelyard.ab_testing.bandits.learner import Learner, Outcome
from modelyard.ab_testing.bandits.log import LoggedChoice, Times, logged, write_log
from modelyard.ab_testing.bandits.policies import PolicyRules
from modelyard.ab_testing.bandits.rows import BanditRows
from modelyard.ab_testing.bandits.shared import SharedBandit
from modelyard.ab_testing.bandits.statistics import BanditStatistics, statistics_of
from modelyard.ab_testing.experiment import ABTest
from modelyard.ab_testing.variant import ModelVariant
from modelyard.storage import Store


class MultiArmedBandit:
    """Chooses between variants by their rewards so far.

    Rewards may be of any size: choices are the same for returns of 0.01 and of 100. Rewards may
    come late: until then a choice is pending, and counts as a use of its variant. The data a
    bandit collects favour what looked good, so a t-test on them is not valid: to prove a winner,
    go on with `to_abtest`.

    A reward that is not finite (a crashed episode, say) is in no mean, but it is a use: for
    choosing it counts as the smallest reward seen so far, a 0 among rewards of 0 and 1.

    Thread-safe: one lock guards all that is learnt, and the generator.

    Args:
        variants: Two or more names, or `ModelVariant`s.
        algorithm: `ucb`, `epsilon_greedy`, `thompson_sampling`, `ucb_tuned`, `kl_ucb` or
            `ada_ucb`.
        epsilon: Chance of a random choice, for `epsilon_greedy`.
        epsilon_decay: After n uses that chance is epsilon / (1 + epsilon_decay n).
        min_probability: Least chance of every variant at every choice, whatever the algorithm.
            Above 0, the log can be evaluated off-policy.
        window: Choose by this many of the last rewards, for variants that change.
        discount: Or by what is left of each when more come (0.99: about the last 100 matter).
        reward_range: Least and largest possible reward, where they are known; others are refused.
        pending_timeout_s: Seconds after which a reward is no longer waited for; None: never.
        log_size: How many of the last choices are kept in memory.
        store: Keeps all of it under `name`; what is there under the same name is taken up.
            Processes that open the same name learn from each other's rewards at every flush.
        name: Name in the store; needed with one.
        durability: `batched`: what happened is stored by `flush()`, which any call makes when the
            last one is a second old; `sync`: before the call returns.
        clock: Tells the time.
        seed: Of the random choices.

    Raises:
        ConfigError: An argument breaks its rule, or the stored bandit differs.
        StorageError: The store refuses.
    """

    def __init__(
        self,
        variants: Sequence[str | ModelVariant],
        algorithm: str = "ucb",
        epsilon: float = 0.1,
        *,
        epsilon_decay: float = 0.0,
        min_probability: float = 0.0,
        window: int | None = None,
        discount: float | None = None,
        reward_range: tuple[float, float] | None = None,
        pending_timeout_s: float | None = 3600.0,
        log_size: int = 10_000,
        store: Store | None = None,
        name: str | None = None,
        durability: str = "batched",
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        rules = PolicyRules(
            algorithm=algorithm,
            epsilon=epsilon,
            epsilon_decay=epsilon_decay,
            min_probability=min_probability,
            window=window,
            discount=discount,
            reward_range=reward_range,
        )
        check_options(pending_timeout_s, log_size, durability)
        names = checked_variants(variants)
        self._models = {v.name: v.model for v in variants if isinstance(v, ModelVariant)}
        self._options = {"pending_timeout_s": pending_timeout_s, "log_size": log_size}
        self._learner = Learner(
            names, rules, Choices(log_size, pending_timeout_s), checked_generator(seed)
        )
        self._clock = clock or SystemClock()
        self._has_range = reward_range is not None
        self._now_s = self._clock.monotonic_s
        self._times = Times.of(self._clock)
        self._lock = Lock()
        self._store = store
        self._shared: SharedBandit | None = None
        if store is not None:
            rows = BanditRows(store, checked_name(name, what="name of a stored bandit"))
            self._shared = SharedBandit(
                self._learner,
                rows,
                self._lock,
                self._clock,
                self._times,
                log_size=log_size,
                is_sync=durability == "sync",
            )
        call_after_fork(self._after_fork)

    @property
    def names(self) -> tuple[str, ...]:
        """The variants there are now, in order."""
        return self._learner.names

    @property
    def algorithm(self) -> str:
        """How it chooses."""
        return self._learner.rules.algorithm

    def select_variant(self, request_id: str | None = None) -> str:
        """Name of the variant to use now.

        Args:
            request_id: For its reward to find the choice. The same again: the same variant.

        Raises:
            StorageError: The store refuses, with durability `sync`.
        """
        if request_id is not None:
            request_id = str(request_id)
        with self._lock:
            name = self._learner.select(self._now_s(), request_id)
        if self._shared is not None:
            self._shared.share()
        return name

    def select_many(self, n: int, *, request_ids: Sequence[str | None] | None = None) -> list[str]:
        """Names of the variants to use for `n` requests at once.

        Each choice knows of those before it, so `ucb` does not give all of them one variant.

        Raises:
            ConfigError: `n` is no number of choices, or there are more or fewer request ids.
        """
        ids = checked_ids(n, request_ids)
        with self._lock:
            now_s = self._now_s()
            names = [self._learner.select(now_s, request_id) for request_id in ids]
        if self._shared is not None:
            self._shared.share()
        return names

    def update(
        self,
        variant: str,
        reward: float,
        *,
        request_id: str | None = None,
        propensity: float | None = None,
    ) -> None:
        """Take the reward of one use of a variant; one that is not finite counts as the worst.

        Without a request id it belongs to the variant's oldest choice that waits for a reward;
        where none does it is taken all the same, so earlier data can be fed in.

        Args:
            variant: What was used; one that was removed meanwhile is known still.
            reward: What it gave; more is better.
            request_id: Of the choice. A second reward of it is ignored and counted.
            propensity: The choice was made elsewhere, with this chance; it is logged as one.

        Raises:
            VariantNotFoundError: No such variant.
            RequestNotFoundError: No choice of this id is remembered.
            ConfigError: The reward is no number, or the request was answered by another variant.
            StorageError: The store refuses, with durability `sync`.
        """
        learner = self._learner
        if variant not in learner.index:
            learner.require_known(variant)
        if type(reward) is not float or self._has_range:
            reward = checked_reward(reward, variant, learner.rules.reward_range)
        if request_id is None and propensity is None:
            with self._lock:
                learner.update(variant, reward)
        else:
            self._learn([checked_outcome(learner, variant, reward, request_id, propensity)])
        if self._shared is not None:
            self._shared.share()

    def update_many(
        self,
        variants: Sequence[str],
        rewards: Sequence[float],
        *,
        request_ids: Sequence[str | None] | None = None,
        propensities: Sequence[float | None] | None = None,
    ) -> None:
        """Take many rewards: all of them, or none where one is refused.

        Args:
            variants: What was used.
            rewards: What each use gave.
            request_ids: As for `update`.
            propensities: As for `update`.

        Raises:
            ConfigError: Lists of different lengths; and as `update`, with its other errors.
        """
        columns = checked_columns(variants, rewards, request_ids, propensities)
        outcomes = [checked_outcome(self._learner, *row) for row in zip(*columns, strict=True)]
        self._learn(outcomes)
        if self._shared is not None:
            self._shared.share()

    def add_variant(self, variant: str | ModelVariant) -> None:
        """Add a variant, which is tried before it is judged. Stored at once (with a store).

        One that was removed comes back with what was known of it; give another model another
        name.

        Raises:
            ConfigError: It is there already, or `min_probability` leaves no room for it.
            StorageError: The store refuses.
        """
        name = name_of(variant)
        with self._lock:
            self._learner.add(name)
            if isinstance(variant, ModelVariant):
                self._models[name] = variant.model
        self.flush()

    def remove_variant(self, variant: str) -> None:
        """Choose a variant no more. Stored at once (with a store).

        What it gave stays in `get_statistics()["removed"]`; rewards that come late are added.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: It is the last one.
            StorageError: The store refuses.
        """
        with self._lock:
            self._learner.remove(variant)
        self.flush()

    def get_statistics(self) -> BanditStatistics:
        """Counts, means with bounds, the best variant so far, chances of the next choice."""
        if self._shared is not None:
            self._shared.flush_if_due()
        with self._lock:
            self._learner.expire(self._now_s())
            return statistics_of(self._learner)

    def choices(self) -> list[LoggedChoice]:
        """The last `log_size` choices, oldest first, with propensities and rewards."""
        if self._shared is not None:
            self._shared.flush_if_due()
        with self._lock:
            choices = list(self._learner.choices.log)
        # Outside of the lock: posteriors are integrated.
        return logged(choices, self._times)

    def export_choices(self, filepath: str | Path) -> str:
        """Write the choices as `.jsonl` or `.csv`: all that the store has, or `choices()`.

        Args:
            filepath: Where to; its folder is made. Written whole or not at all.

        Returns:
            The path.

        Raises:
            ConfigError: Another kind of file.
            StorageError: The store refuses.
        """
        self.flush()
        write_log(
            Path(filepath),
            self.choices() if self._shared is None else self._shared.stored_choices(),
        )
        return str(Path(filepath))

    def evaluate_policy(
        self,
        policy: off_policy.TargetPolicy,
        method: str = "snips",
        **options: Unpack[off_policy.Options],
    ) -> off_policy.PolicyValue:
        """What another way to choose would have earned, from `choices()`.

        Args:
            policy: A variant's name (always that one), or a chance for each variant.
            method: `ips`, `snips` or `dr`.
            options: As for `off_policy.evaluate`; `reward_range` is the bandit's by default.

        Raises:
            ConfigError: As `off_policy.evaluate`.
            InputError: As `off_policy.evaluate`.
        """
        off_policy.check_options(options)
        options.setdefault("reward_range", self._learner.rules.reward_range)
        return off_policy.evaluate(self.choices(), policy, method, **options)

    def to_abtest(
        self,
        test_name: str,
        primary_metric: str = "reward",
        *,
        models: Mapping[str, Any] | None = None,
        variants: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        **options: Any,
    ) -> ABTest:
        """An experiment that can prove which variant is better, with fixed traffic.

        It knows nothing of the rewards the bandit has seen: only what is recorded after the
        switch counts. A bandit drops a variant after bad luck and so never sees the luck turn:
        means of what it dropped are too low, and both how much it saw of each variant and when
        depend on the rewards. A t-test takes the samples for given; here it finds differences
        that are not there. The bandit itself stays as it is.

        Args:
            test_name: Name of the experiment.
            primary_metric: What is compared; less is better for names such as `max_dd`.
            models: Models by variant, where the bandit was not made of `ModelVariant`s.
            variants: Which to compare; all by default.
            weights: Traffic weights; equal by default, which takes the fewest samples.
            options: Of `ABTest`; `store` and `clock` are the bandit's by default.

        Raises:
            ConfigError: A variant without a model, or options that `ABTest` refuses.
            VariantNotFoundError: No such variant.
        """
        return experiment_of(
            self._learner,
            variants,
            {**self._models, **(models or {})},
            weights,
            test_name=test_name,
            primary_metric=primary_metric,
            **{"store": self._store, "clock": self._clock, **options},
        )

    def flush(self) -> None:
        """Store what happened, durably, and take in what other processes stored.

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        if self._shared is not None:
            self._shared.flush()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values: with `from_dict`, the same next choices."""
        self.choices()  # works out propensities before the lock is taken
        with self._lock:
            plain = state.to_plain(self._learner, self._times, with_log=True)
        return {**plain, **self._options}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, clock: Clock | None = None) -> Self:
        """The bandit that `to_dict` described, in memory.

        Raises:
            ConfigError: It is no such description.
        """
        with state.misfits_explained():
            options = {key: plain[key] for key in ("pending_timeout_s", "log_size")}
            variants = state.names_to_start_with(plain)
            bandit = cls(variants, clock=clock, **plain["rules"], **options)
            state.restore(bandit._learner, plain, bandit._times)
        return bandit

    def _after_fork(self) -> None:
        """In a child: a lock that nobody holds."""
        self._lock = Lock()
        if self._shared is not None:
            self._shared.after_fork(self._lock)

    def _learn(self, outcomes: Sequence[Outcome]) -> None:
        learner = self._learner
        if self._shared is not None and not all(map(learner.knows_request, outcomes)):
            # Another process may have made the choice since the last flush.
            self._shared.flush()
        with self._lock:
            learner.learn_all(outcomes, self._now_s())
