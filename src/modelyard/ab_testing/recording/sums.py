"""What has been recorded, as running sums, with a bounded record of how they came about.

Nothing here locks: the ledger that owns a `Sums` does.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from modelyard.ab_testing.metrics import MetricBook
from modelyard.ab_testing.recording.results import HELD_OUT, Result
from modelyard.ab_testing.recording.snapshots import Pair, Snapshot, Stream
from modelyard.ab_testing.recording.units import AdjustedUnits, UnitsByEpoch
from modelyard.ab_testing.recording.values import Values
from modelyard.stats.autocorrelation import Autocorrelation
from modelyard.stats.clusters import NOBODY
from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments

N_LOOKS = 256


class Sums:
    """Running sums of everything recorded.

    Not thread-safe: its owner locks.

    Args:
        names: The variants, in order.
        book: What is known of the metrics.
        planned: Outcomes of each variant with the primary metric at which a look was planned,
            ascending.

    Attributes:
        sample_counts: Outcomes by variant.
        metrics: Names of all metrics, in the order of appearance.
        looks: Snapshots at even distances, at most 256.
        planned_looks: Snapshots at the planned counts that were reached.
    """

    def __init__(
        self, names: Sequence[str], book: MetricBook, *, planned: Iterable[int] = ()
    ) -> None:
        self._book = book
        self.sample_counts = dict.fromkeys(names, 0)
        self.non_finite: dict[tuple[str, str], int] = {}
        self.metrics: dict[str, None] = {}  # a set that keeps the order of appearance
        self.looks: list[Snapshot] = []
        self.planned_looks: list[Snapshot] = []
        self._planned = tuple(planned)
        self._companion_of = book.companions
        self._kept = book.needs_values
        self._is_ratio = frozenset(m.name for m in book.declared if m.kind == "ratio")
        self._primary_counts: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, int]] = Counter()
        self._present: Counter[Stream] = Counter()
        self._stride = 1
        self._n = 0
        self._samples: dict[Stream, Moments] = {}
        self._by_unit: dict[tuple[str, str], UnitsByEpoch] = {}
        self._adjusted: dict[tuple[str, str], AdjustedUnits] = {}
        self._origins: dict[str, tuple[float, float]] = {}
        self._covariates: dict[Stream, CoMoments] = {}
        self._values: dict[Stream, Values] = {}
        self._value_units: dict[Stream, Values] = {}
        self._unit_numbers: dict[str, int] = {}
        self._pairs: dict[tuple[str, str, str], Pair] = {}
        self._pair_values: dict[tuple[str, str, str], tuple[Values, Values]] = {}
        self._streams: dict[tuple[str, ...], Autocorrelation] = {}
        self._without_companion: dict[tuple[str, str], int] = {}
        self._units: dict[str, str] = {}  # the variant of the first outcome
        self._shared_units: set[str] = set()
        self._unit_counts: dict[tuple[str, int], int] = {}
        self._unitless_counts: dict[tuple[str, int], int] = {}
        self._first_at = self._last_at = ""

    @property
    def has_planned_looks(self) -> bool:
        """Whether any look was planned."""
        return bool(self._planned)

    def emptied(self) -> "Sums":
        """Sums of the same kind, of nothing yet."""
        return Sums(tuple(self.sample_counts), self._book, planned=self._planned)

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
        return Snapshot(
            n=self._n,
            sample_counts=dict(self.sample_counts),
            outcomes=dict(self._outcomes),
            present=dict(self._present),
            samples=dict(self._samples),
            clusters={key: units.clusters() for key, units in self._by_unit.items()},
            adjusted={key: units.clusters() for key, units in self._adjusted.items()},
            covariates=dict(self._covariates),
            values={stream: values.view() for stream, values in self._values.items()},
            value_units={stream: units.view() for stream, units in self._value_units.items()},
            pairs=dict(self._pairs),
            pair_values={key: (a.view(), b.view()) for key, (a, b) in self._pair_values.items()},
            streams={key: stream.frozen() for key, stream in self._streams.items()},
            non_finite=dict(self.non_finite),
            without_companion=dict(self._without_companion),
            unit_counts=dict(self._unit_counts),
            unitless_counts=dict(self._unitless_counts),
            n_shared_units=len(self._shared_units),
            first_at=self._first_at,
            last_at=self._last_at,
        )

    def _add_sample(self, result: Result) -> None:
        if result.variant != HELD_OUT:
            self.sample_counts[result.variant] = self.sample_counts.get(result.variant, 0) + 1
            self._count_unit(result)
        self._outcomes[result.variant, result.epoch] += 1
        self._first_at = self._first_at or result.at
        self._last_at = max(self._last_at, result.at)
        for metric, value in result.metrics.items():
            self.metrics[metric] = None
            self._present[result.variant, result.epoch, metric] += 1
            if not math.isfinite(value):
                key = (result.variant, metric)
                self.non_finite[key] = self.non_finite.get(key, 0) + 1
                continue
            if metric == self._book.primary:
                self._primary_counts[result.variant] += 1
            stream = (result.variant, result.epoch, metric)
            before = self._samples.get(stream, Moments())
            self._samples[stream] = before.with_value(value)
            self._note_order(value, result.variant, metric)
            self._add_by_kind(stream, value, result, before=before)

    def _add_by_kind(
        self, stream: Stream, value: float, result: Result, *, before: Moments
    ) -> None:
        metric = stream[2]
        other = self._companion_of(metric)
        companion = math.nan if other is None else result.metrics.get(other, math.nan)
        if other is not None and not math.isfinite(companion):
            key = (result.variant, metric)
            self._without_companion[key] = self._without_companion.get(key, 0) + 1
        if metric in self._kept:
            self._keep(stream, value, result.unit)
        key = (result.variant, metric)
        if metric in self._is_ratio:
            if math.isfinite(companion):
                units = self._by_unit.setdefault(key, UnitsByEpoch())
                units.add(result.epoch, result.unit, value, companion)
            return
        if math.isfinite(companion):
            known = self._covariates.get(stream, CoMoments())
            self._covariates[stream] = known.with_values(value, companion)
            origin = self._origins.setdefault(metric, (value, companion))
            adjusted = self._adjusted.setdefault(key, AdjustedUnits(origin))
            adjusted.add(result.epoch, result.unit, value, companion)
        by_unit = self._by_unit.get(key)
        if by_unit is None and result.unit is not None:
            start, _ = self._origins.setdefault(metric, (value, 0.0))
            by_unit = self._by_unit[key] = UnitsByEpoch(start)
        if by_unit is not None and (result.unit is not None or result.epoch in by_unit):
            # What came before the first known unit came from units of their own.
            by_unit.add(result.epoch, result.unit, value, before=before)

    def _keep(self, stream: Stream, value: float, unit: str | None) -> None:
        values = self._values.setdefault(stream, Values())
        units = self._value_units.get(stream)
        if units is None and unit is not None:
            units = self._value_units[stream] = Values()
            for _ in range(values.n):
                units.add(NOBODY)
        values.add(value)
        if units is not None:
            number = NOBODY
            if unit is not None:
                number = self._unit_numbers.setdefault(unit, len(self._unit_numbers))
            units.add(number)

    def _count_unit(self, result: Result) -> None:
        first = result.epoch if result.first_epoch is None else result.first_epoch
        place = (result.variant, first)
        if result.unit is None:
            self._unitless_counts[place] = self._unitless_counts.get(place, 0) + 1
        elif result.unit not in self._units:
            self._units[result.unit] = result.variant
            self._unit_counts[place] = self._unit_counts.get(place, 0) + 1
        elif self._units[result.unit] != result.variant:
            self._shared_units.add(result.unit)

    def _add_differences(self, a: Result, b: Result) -> None:
        for metric, value_a in a.metrics.items():
            value_b = b.metrics.get(metric, math.nan)
            if math.isfinite(value_a) and math.isfinite(value_b):
                key = (a.variant, b.variant, metric)
                self._pairs[key] = self._pairs.get(key, Pair()).with_values(value_a, value_b)
                self._note_order(value_b - value_a, *key)
                if metric in self._kept:
                    sides = self._pair_values.setdefault(key, (Values(), Values()))
                    sides[0].add(value_a)
                    sides[1].add(value_b)

    def _note_order(self, value: float, *key: str) -> None:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = Autocorrelation()
        stream.add(value)

    def _count(self, n: int) -> None:
        self._n += n
        n_planned = len(self.planned_looks)
        if n_planned < len(self._planned):
            fewest = min(self._primary_counts[name] for name in self.sample_counts)
            if fewest >= self._planned[n_planned]:
                self.planned_looks.append(self.snapshot())
        if self._n < self._stride * (len(self.looks) + 1):
            return
        self.looks.append(self.snapshot())
        if len(self.looks) == N_LOOKS:
            # Half the looks at twice the distance: memory stays bounded however long it runs.
            del self.looks[::2]
            self._stride *= 2
