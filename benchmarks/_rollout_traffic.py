"""Simulated requests for rollouts: what the stable version and the candidate would each answer."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from modelyard.routing import slot_of

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# What a monitor looks at: the stable version has answered so many before the rollout begins.
WINDOW = 1000
MEDIAN_MS = 100.0
MODEL = "ppo"
# Requests look at the rollout when this long, or this many requests, have gone by.
_LOOK_EVERY_S, _LOOK_EVERY_CALLS = 0.2, 10
_N_SLOTS = 10_000
_N_USERS = 20_000
_CACHE_MISSES = 0.045  # near the 5 % beyond a 95th percentile, on purpose
_MISS_FACTOR = 10.0
# An answer slower than this part of the stable version's is bad.
_SLOW_LEVEL = 0.99


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the candidate is like, beside the stable version.

    Attributes:
        name: As shown.
        aim: "promoted", "caught" (rolled back) or "not promoted".
        stable_errors: Share of requests that the stable version fails.
        errors: The candidate's.
        latency: "lognormal" (sigma .5), "heavy" (Pareto with index 1.5, which has no variance) or
            "misses" (4.5 % of the answers take ten times as long).
        slower: By what the candidate's latencies are multiplied.
        spread: Standard deviation of one value of the key metric, whose mean under the stable
            version is 1; 0 for no key metric.
        loss: How much lower its mean is under the candidate.
        delay_s: How late its values come.
        rate_per_s: Requests a second.
        duration_s: How long requests come, from the rollout's beginning on.
        errors_later: The candidate's error rate half of the bake after its promotion, to which it
            rises evenly; None for no change.
        slower_later: The same of `slower`.
        load: From the second step on, by what the latencies of both versions are multiplied.
    """

    name: str
    aim: str
    stable_errors: float = 0.0
    errors: float = 0.0
    latency: str = "lognormal"
    slower: float = 1.0
    spread: float = 0.0
    loss: float = 0.0
    delay_s: float = 60.0
    rate_per_s: float = 10.0
    duration_s: float = 1800.0
    errors_later: float | None = None
    slower_later: float | None = None
    load: float = 1.0

    @property
    def is_changing(self) -> bool:
        """Whether the candidate becomes worse once it is promoted."""
        return self.errors_later is not None or self.slower_later is not None

    def with_errors(self, rate: float) -> "Case":
        """The same with an error rate of both versions."""
        return replace(self, stable_errors=rate, errors=rate)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one version would answer to each request: latency, failure, value of the key metric."""

    latencies_ms: Floats
    errors: Flags
    values: Floats


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The requests of one rollout.

    Attributes:
        case: What they are drawn for.
        times_s: When each comes, from the rollout's beginning on.
        users: Number of the user whose each is (`user_id`).
        places: Where its user stands, 0 to 1: a candidate with a larger share answers it.
        looks: Places of the requests at which the strategy looks.
        before: What the stable version has answered before.
        stable: What it would answer.
        chances: Of each request, from which the candidate's failure follows.
        candidate_ms: The candidate's latencies while nothing has changed.
        candidate_values: Its values of the key metric.
        slow_ms: An answer slower than this is bad.
    """

    case: Case
    times_s: Floats
    users: NDArray[np.intp]
    places: Floats
    looks: NDArray[np.intp]
    before: Answers
    stable: Answers
    chances: Floats
    candidate_ms: Floats
    candidate_values: Floats
    slow_ms: float

    def candidate(self, promoted_s: float | None, *, bake_s: float) -> Answers:
        """What the candidate would answer, had it been promoted at that time (None: not yet)."""
        case = self.case
        ramp = np.zeros(len(self.times_s))
        if promoted_s is not None:
            ramp = np.clip((self.times_s - promoted_s) / (0.5 * bake_s), 0.0, 1.0)
        later = case.errors if case.errors_later is None else case.errors_later
        errors = case.errors + ramp * (later - case.errors)
        slower = 1.0 + ramp * ((case.slower_later or 1.0) - 1.0)
        return Answers(
            latencies_ms=self.candidate_ms * slower,
            errors=self.chances < errors,
            values=self.candidate_values,
        )


def traffic_of(case: Case, *, seed: int) -> Traffic:
    """The requests of one rollout, drawn from a seed."""
    rng = np.random.default_rng(seed)
    n = int(case.duration_s * case.rate_per_s)
    times_s = np.cumsum(rng.exponential(1.0 / case.rate_per_s, n))
    users = rng.integers(_N_USERS, size=n)
    load = np.where(times_s >= 100.0, case.load, 1.0)
    return Traffic(
        case=case,
        times_s=times_s,
        users=users,
        places=_places()[users],
        looks=_looks(times_s),
        before=_answers(case, rng, WINDOW),
        stable=_scaled(_answers(case, rng, n), load),
        chances=rng.random(n),
        candidate_ms=_latencies(case.latency, rng, n) * case.slower * load,
        candidate_values=rng.normal(1.0 - case.loss, case.spread, n),
        slow_ms=_slow_ms(case.latency),
    )


def user_id(number: int) -> str:
    """The id of the user of this number."""
    return f"user-{number}"


@cache
def _places() -> Floats:
    """Where each user stands: the stable version keeps the first slots."""
    slots = [slot_of(MODEL, "deployment", user_id(i)) for i in range(_N_USERS)]
    return (_N_SLOTS - 1 - np.array(slots)) / _N_SLOTS


@cache
def _slow_ms(kind: str) -> float:
    drawn = _latencies(kind, np.random.default_rng(0), 1_000_000)
    return float(np.quantile(drawn, _SLOW_LEVEL))


def _answers(case: Case, rng: np.random.Generator, n: int) -> Answers:
    return Answers(
        latencies_ms=_latencies(case.latency, rng, n),
        errors=rng.random(n) < case.stable_errors,
        values=rng.normal(1.0, case.spread, n),
    )


def _scaled(answers: Answers, factor: Floats) -> Answers:
    return replace(answers, latencies_ms=answers.latencies_ms * factor)


def _latencies(kind: str, rng: np.random.Generator, n: int) -> Floats:
    if kind == "heavy":
        return MEDIAN_MS * (1.0 + rng.pareto(1.5, n)) / 2.0 ** (1.0 / 1.5)
    usual = MEDIAN_MS * rng.lognormal(0.0, 0.5, n)
    if kind == "misses":
        return np.where(rng.random(n) < _CACHE_MISSES, _MISS_FACTOR * usual, usual)
    return usual


def _looks(times_s: Floats) -> NDArray[np.intp]:
    """At which requests the strategy looks, as its listener decides it."""
    looks = []
    looked_s = 0.0
    for i, now_s in enumerate(times_s.tolist()):
        if now_s - looked_s >= _LOOK_EVERY_S or not (i + 1) % _LOOK_EVERY_CALLS:
            looked_s = now_s
            looks.append(i)
    return np.array(looks, np.intp)
