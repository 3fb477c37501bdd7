"""What has been recorded: running sums in constant memory, and snapshots of them.

Nothing here locks: the experiment that owns a `Results` does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.ab_testing.analysis import Evidence
from modelyard.stats.autocorrelation import Lag1
from modelyard.stats.moments import Moments, merge_all

N_LOOKS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One outcome of one variant.

    Attributes:
        variant: Who gave it.
        epoch: Weight epoch in which the variant was assigned.
        metrics: Values by name; NaN where the value was not finite.
        at: When it was recorded, ISO 8601.
        unit: The user or other unit it belongs to, if known.
        request_id: Counts once for each variant; outcomes of a pair share it.
    """

    variant: str
    epoch: int
    metrics: Mapping[str, float]
    at: str = ""
    unit: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants measured on the same units: `b` minus `a`, and each side."""

    differences: Moments = field(default_factory=Moments)
    a: Moments = field(default_factory=Moments)
    b: Moments = field(default_factory=Moments)

    def with_values(self, a: float, b: float) -> "Pair":
        """After one more unit."""
        return Pair(self.differences.with_value(b - a), self.a.with_value(a), self.b.with_value(b))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The running sums at one moment.

    Attributes:
        n: Outcomes recorded so far, all variants together.
        samples: Moments by variant, weight epoch and metric.
        pairs: Pairs by variants (in the experiment's order) and metric.
        lag1: Autocorrelation by variant (or pair of variants) and metric.
        non_finite: Values that were not finite by variant and metric.
    """

    n: int
    samples: Mapping[tuple[str, int, str], Moments]
    pairs: Mapping[tuple[str, str, str], Pair]
    lag1: Mapping[tuple[str, ...], float]
    non_finite: Mapping[tuple[str, str], int]

    def moments(self, variant: str, metric: str) -> Moments:
        """A variant's moments over all weight epochs."""
        return merge_all(
            moments
            for (name, _, measured), moments in self.samples.items()
            if (name, measured) == (variant, metric)
        )

    def missing_share(self, variant: str, metric: str) -> float:
        """Share of a variant's values that were not finite, 0 to 1; 0 without values."""
        n_missing = self.non_finite.get((variant, metric), 0)
        n_known = self.moments(variant, metric).n
        return n_missing / (n_missing + n_known) if n_missing else 0.0

    def evidence(self, variant_a: str, variant_b: str, metric: str) -> Evidence:
        """What is known about two variants sent different traffic."""
        epochs = sorted({epoch for _, epoch, _ in self.samples})
        return Evidence(
            strata=tuple(
                (
                    self.samples.get((variant_a, epoch, metric), Moments()),
                    self.samples.get((variant_b, epoch, metric), Moments()),
                )
                for epoch in epochs
            ),
            lag1_a=self.lag1.get((variant_a, metric), 0.0),
            lag1_b=self.lag1.get((variant_b, metric), 0.0),
            missing_share_a=self.missing_share(variant_a, metric),
            missing_share_b=self.missing_share(variant_b, metric),
        )

    def paired_evidence(self, variant_a: str, variant_b: str, metric: str) -> Evidence:
        """What is known about two variants measured on the same units."""
        swapped = (variant_b, variant_a, metric) in self.pairs
        key = (variant_b, variant_a) if swapped else (variant_a, variant_b)
        pair = self.pairs.get((*key, metric), Pair())
        d = pair.differences
        lag1 = self.lag1.get((*key, metric), 0.0)
        a, b = (pair.b, pair.a) if swapped else (pair.a, pair.b)
        return Evidence(
            strata=((a, b),),
            lag1_a=lag1,
            lag1_b=lag1,
            differences=Moments(d.n, -d.mean, d.m2) if swapped else d,
            missing_share_a=self.missing_share(variant_a, metric),
            missing_share_b=self.missing_share(variant_b, metric),
        )


class Results:
    """Running sums of everything recorded, with a bounded record of how they came about.

    Not thread-safe: its owner locks.

    Args:
        names: The variants, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.sample_counts = dict.fromkeys(names, 0)
        self.non_finite: dict[tuple[str, str], int] = {}
        self.metrics: dict[str, None] = {}  # a set that keeps the order of appearance
        self.looks: list[Snapshot] = []
        self._stride = 1
        self._n = 0
        self._samples: dict[tuple[str, int, str], Moments] = {}
        self._pairs: dict[tuple[str, str, str], Pair] = {}
        self._streams: dict[tuple[str, ...], Lag1] = {}

    def add(self, result: Result) -> None:
        """Take one outcome."""
        self._add_sample(result)
        self._count(1)

    def add_pair(self, results: Sequence[Result]) -> None:
        """Take the outcomes of several variants on one unit."""
        by_name = {result.variant: result for result in results}
        for result in results:
            self._add_sample(result)
        for a, b in combinations([name for name in self.sample_counts if name in by_name], 2):
            self._add_differences(by_name[a], by_name[b])
        self._count(len(results))

    def snapshot(self) -> Snapshot:
        """The sums now."""
        lag1 = {key: stream.correlation(self._of(key)) for key, stream in self._streams.items()}
        return Snapshot(
            n=self._n,
            samples=dict(self._samples),
            pairs=dict(self._pairs),
            lag1=lag1,
            non_finite=dict(self.non_finite),
        )

    def _add_sample(self, result: Result) -> None:
        self.sample_counts[result.variant] += 1
        for metric, value in result.metrics.items():
            self.metrics[metric] = None
            if not math.isfinite(value):
                key = (result.variant, metric)
                self.non_finite[key] = self.non_finite.get(key, 0) + 1
                continue
            place = (result.variant, result.epoch, metric)
            self._samples[place] = self._samples.get(place, Moments()).with_value(value)
            self._stream(result.variant, metric).add(value)

    def _add_differences(self, a: Result, b: Result) -> None:
        for metric, value_a in a.metrics.items():
            value_b = b.metrics.get(metric, math.nan)
            if math.isfinite(value_a) and math.isfinite(value_b):
                key = (a.variant, b.variant, metric)
                self._pairs[key] = self._pairs.get(key, Pair()).with_values(value_a, value_b)
                self._stream(*key).add(value_b - value_a)

    def _stream(self, *key: str) -> Lag1:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Lag1()
        return stream

    def _of(self, key: tuple[str, ...]) -> Moments:
        if len(key) == 3:  # noqa: PLR2004 - two variants and a metric
            return self._pairs[key[0], key[1], key[2]].differences
        return merge_all(
            moments
            for (name, _, metric), moments in self._samples.items()
            if (name, metric) == key
        )

    def _count(self, n: int) -> None:
        self._n += n
        if self._n < self._stride * (len(self.looks) + 1):
            return
        self.looks.append(self.snapshot())
        if len(self.looks) == N_LOOKS:
            # Half the looks at twice the distance: memory stays bounded however long it runs.
            del self.looks[::2]
            self._stride *= 2


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as floats; None and what is not finite become NaN.

    Raises:
        ConfigError: Not a mapping, no metric at all, or a value that is no number.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise ConfigError(f"metrics must be a dict of numbers with at least one, got {metrics!r}.")
    checked = {}
    for name, value in metrics.items():
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"metric {name!r} must be a number, got {type(value).__qualname__} {value!r}."
            ) from error
        checked[str(name)] = number if math.isfinite(number) else math.nan
    return checked


def grouped(results: Iterable[Result]) -> list[list[Result]]:
    """Results that share a request id, together, in the order in which they first appear."""
    groups: dict[str, list[Result]] = {}
    for index, result in enumerate(results):
        groups.setdefault(result.request_id or f"#{index}", []).append(result)
    return list(groups.values())
