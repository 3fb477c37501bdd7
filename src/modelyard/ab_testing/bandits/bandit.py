"""`MultiArmedBandit`: traffic goes where the rewards are while they are still being learnt."""

import math
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, TypedDict

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, StorageError, VariantNotFoundError
from modelyard._core.ids import checked_name
from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.policies import Arms, policy_named
from modelyard.ab_testing.variant import ModelVariant
from modelyard.storage import Store

FLUSH_INTERVAL_S = 1.0
_SNAPSHOT_KIND = "bandit"


class BanditStatistics(TypedDict):
    """What a bandit has learnt.

    `values` are mean rewards (0.0 for a variant that was never updated), `std` their spread (None
    below two), `probabilities` the chance of each variant to be chosen next. `counts`, `values`
    and `std` leave out the rewards that were not finite: `non_finite` of them, by variant in
    `non_finite_counts`.
    """

    algorithm: str
    total: int
    counts: dict[str, int]
    values: dict[str, float]
    std: dict[str, float | None]
    best_variant: str | None
    probabilities: dict[str, float]
    non_finite: int
    non_finite_counts: dict[str, int]


class MultiArmedBandit:
    """Chooses between variants by their rewards so far.

    Rewards may be of any size: choices are the same for returns of 0.01 and of 100. The data it
    collects favour what looked good, so a t-test on them is not valid: to prove a winner, run an
    `ABTest`.

    A reward that is not finite (a crashed episode, say) is in no mean, but it is a use: for
    choosing it counts as the smallest reward seen so far, a 0 among rewards of 0 and 1.

    Thread-safe: one lock guards the sums and the generator.

    Args:
        variants: Two or more names, or `ModelVariant`s.
        algorithm: `epsilon_greedy`, `ucb` or `thompson_sampling`.
        epsilon: Chance of a random choice, for `epsilon_greedy`.
        store: Keeps the state under `name`; what is there under the same name is taken up.
        name: Name of the state in the store; needed with one.
        clock: Tells the time, for storing.
        seed: Of the random choices.

    Raises:
        ConfigError: An argument breaks its rule, or the stored bandit differs.
    """

    def __init__(
        self,
        variants: Sequence[str | ModelVariant],
        algorithm: str = "ucb",
        epsilon: float = 0.1,
        *,
        store: Store | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        self.names = _checked_names(variants)
        self.algorithm = algorithm
        self._index = {variant: index for index, variant in enumerate(self.names)}
        self._policy = policy_named(algorithm, epsilon=epsilon)
        self._arms = Arms.empty(len(self.names))
        self._rng = generator(seed)
        self._lock = Lock()
        self._store = store
        self._clock = clock or SystemClock()
        self._flushed_at_s = self._clock.monotonic_s()
        self._name = ""
        if store is not None:
            self._name = checked_name(name, what="name of a stored bandit")
            self._restore(store.load_snapshot(_SNAPSHOT_KIND, self._name))

    def select_variant(self) -> str:
        """Name of the variant to use now."""
        with self._lock:
            return self.names[self._policy.choose(self._arms, self._rng)]

    def update(self, variant: str, reward: float) -> None:
        """Take the reward of one use of a variant; one that is not finite counts as the worst.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: The reward is no number.
        """
        index = self._index.get(variant)
        if index is None:
            raise VariantNotFoundError(f"No variant {variant!r}. There are: {self.names}.")
        value = _checked_reward(reward, variant)
        with self._lock:
            self._arms.add(index, value)
        if self._store is not None:
            self._flush_if_due()

    def get_statistics(self) -> BanditStatistics:
        """Counts, mean rewards, the best variant so far and the chances of the next choice."""
        with self._lock:
            arms = self._arms
            # A generator of its own: looking must not change what is chosen next.
            probabilities = self._policy.probabilities(arms, generator(0))
            spreads = [
                math.sqrt(m2 / (n - 1)) if n > 1 else None
                for m2, n in zip(arms.m2, arms.counts, strict=True)
            ]
            return {
                "algorithm": self.algorithm,
                "total": arms.total,
                "counts": self._by_name(arms.counts),
                "values": self._by_name(arms.means),
                "std": self._by_name(spreads),
                "best_variant": self._best(),
                "probabilities": self._by_name(probabilities),
                "non_finite": sum(arms.non_finite),
                "non_finite_counts": self._by_name(arms.non_finite),
            }

    def flush(self) -> None:
        """Store the state; durable on return (with a store).

        Raises:
            StorageError: The store refuses.
        """
        if self._store is None:
            return
        with self._lock:
            state = self._state()
            self._flushed_at_s = self._clock.monotonic_s()
        self._store.save_snapshot(_SNAPSHOT_KIND, self._name, state, clock=self._clock)

    def _flush_if_due(self) -> None:
        if self._clock.monotonic_s() - self._flushed_at_s < FLUSH_INTERVAL_S:
            return
        try:
            self.flush()
        except StorageError:
            # The caller's loop goes on; the whole state is written again next time.
            self._flushed_at_s = self._clock.monotonic_s()

    def _best(self) -> str | None:
        arms = self._arms
        tried = [index for index, n in enumerate(arms.counts) if n]
        best = max(tried, key=lambda i: (arms.worths[i], -arms.non_finite[i]), default=None)
        return None if best is None else self.names[best]

    def _by_name(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.names, values, strict=True))

    def _state(self) -> dict[str, Any]:
        arms = self._arms
        return {
            "variants": list(self.names),
            "algorithm": self.algorithm,
            "counts": list(arms.counts),
            "means": list(arms.means),
            "m2": list(arms.m2),
            "least": finite_or_none(arms.least),
            "most": finite_or_none(arms.most),
            "is_binary": arms.is_binary,
            "non_finite": list(arms.non_finite),
            "generator": self._rng.bit_generator.state,
        }

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        if list(state["variants"]) != list(self.names) or state["algorithm"] != self.algorithm:
            raise ConfigError(
                f"The stored bandit {self._name!r} has variants {state['variants']} and algorithm "
                f"{state['algorithm']!r}. Open it with the same, or choose another name."
            )
        self._arms = Arms(
            counts=list(state["counts"]),
            means=list(state["means"]),
            m2=list(state["m2"]),
            non_finite=list(state["non_finite"]),
            within_m2=math.fsum(state["m2"]),
            total=sum(state["counts"]),
            least=math.inf if state["least"] is None else state["least"],
            most=-math.inf if state["most"] is None else state["most"],
            is_binary=state["is_binary"],
        )
        self._rng.bit_generator.state = state["generator"]


def _checked_reward(reward: Any, variant: str) -> float:
    try:
        return float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The reward of {variant!r} must be a number, got {type(reward).__qualname__} "
            f"{reward!r}."
        ) from error


def _checked_names(variants: Sequence[str | ModelVariant]) -> tuple[str, ...]:
    names = tuple(
        variant.name if isinstance(variant, ModelVariant) else str(variant) for variant in variants
    )
    if len(names) < 2 or len(set(names)) < len(names):  # noqa: PLR2004 - a choice
        raise ConfigError(f"A bandit needs two or more variants of different names: {names}.")
    return names
