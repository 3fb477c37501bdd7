"""The part of `ABTest` that tells: statistics, tables, forecasts, everything for an export."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Real
from typing import Any

import numpy as np

from modelyard._core.chance import generator
from modelyard._core.errors import ConfigError
from modelyard.ab_testing import outputs
from modelyard.ab_testing.analysis.checks import elapsed_s
from modelyard.ab_testing.analysis.comparing import Comparison
from modelyard.ab_testing.comparer import Comparer, Now
from modelyard.ab_testing.recording.results import HELD_OUT
from modelyard.ab_testing.recording.snapshots import Snapshot
from modelyard.stats.bayesian import probabilities_to_be_best
from modelyard.stats.intervals import alpha_of
from modelyard.stats.multiplicity import benjamini_hochberg, holm
from modelyard.stats.power import plan
from modelyard.stats.significance import Contrast

_CORRECTIONS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}
_DAY_S = 86_400.0


class Teller(Comparer):
    """Says what was recorded, and what follows from it. A part of `ABTest`."""

    def get_variant_stats(self) -> dict[str, outputs.VariantStats]:
        """Counts, traffic shares and metrics of each variant.

        Means are over all weight epochs together; comparisons keep the epochs apart.
        """
        return self._stats(self._now(), self._ledger.metrics())

    def compare_all(
        self, *, correction: str = "holm", metrics: Sequence[str] | None = None
    ) -> list[outputs.MetricComparison]:
        """All pairs of variants on all metrics, always-valid p-values adjusted for how many.

        Args:
            correction: `holm`: any false difference among the lines with chance
                `1 - confidence_level` at most. `benjamini_hochberg`: that share of the
                differences found is false at most, on average.
            metrics: Which; by default all that were recorded.

        Raises:
            ConfigError: Another correction, or a metric that was never recorded.
        """
        if correction not in _CORRECTIONS:
            raise ConfigError(
                f"correction must be one of {', '.join(_CORRECTIONS)}; got {correction!r}."
            )
        chosen = self._ledger.metrics() if metrics is None else list(metrics)
        chosen = [self._known_metric(metric) for metric in chosen]
        return self._all(self._now(), chosen, correction=correction)

    def get_probabilities(self, metric: str | None = None) -> dict[str, float]:
        """Chance of each variant to be the best, from a flat prior; for reading, not deciding.

        These chances are not kept honest by looking once: a variant passes 95 % now and then
        without being better.

        Raises:
            ConfigError: A metric that was never recorded.
        """
        return self._probabilities(self._now(), self._known_metric(metric))

    def forecast(
        self, effect: float, *, metric: str | None = None, power: float = 0.8
    ) -> outputs.Forecast:
        """How many samples and days are missing to find an effect, at the present pace.

        Args:
            effect: True difference of the means that shall be found, in the metric's unit.
            metric: The primary metric by default.
            power: Chance to find it, 0 to 1.

        Raises:
            ConfigError: An effect of 0, a metric that was never recorded, or a spread that is not
                known yet.
        """
        metric = self._known_metric(metric)
        wanted: Any = effect
        if not isinstance(wanted, Real):
            raise ConfigError(f"effect must be a number, got {effect!r}.")
        now = self._now()
        control, treatment = now.names[:2]
        comparison = self._compare(now, control, treatment, metric)
        contrast = comparison.evidence.effective
        if not contrast.variance > 0.0:
            raise ConfigError(f"Nothing is known of the spread of {metric!r} yet: record first.")
        n = min(comparison.n_a, comparison.n_b)
        share = min(now.assignment.weights[name] for name in (control, treatment))
        needed = plan(
            effect,
            # The spread of one outcome, as large as the error says with its dependence counted.
            std=float(np.sqrt(contrast.variance * n / 2.0)),
            wanted_power=power,
            confidence_level=self._rules.confidence_level,
            inference=self._rules.inference,
            n_looks=self._rules.n_looks,
            n_tuned=self._rules.n_tuned,
        )
        per_variant = max(needed.n_per_variant)
        days = elapsed_s(now.snapshot.first_at, now.snapshot.last_at) / _DAY_S
        pace = n / days if days > 0.0 and share > 0.0 else None
        return {
            "metric": metric,
            "effect": effect,
            "power": power,
            "samples_needed": per_variant,
            "samples_so_far": n,
            "samples_per_day": pace,
            "days_left": max(0, per_variant - n) / pace if pace else None,
        }

    def interval_history(
        self, variant_a: str, variant_b: str, metric: str | None = None, *, points: int = 100
    ) -> outputs.IntervalHistory:
        """How the difference and its always-valid interval narrowed, for a plot.

        Args:
            variant_a: The control.
            variant_b: The treatment.
            metric: The primary metric by default.
            points: How many looks at most, spread evenly over the experiment.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: As `compare_variants`.
        """
        metric = self._checked_metric(variant_a, variant_b, metric)
        looks = self._ledger.looks()
        return self._history(self._now(), looks, (variant_a, variant_b, metric), points=points)

    def _all(
        self, now: Now, metrics: Sequence[str], *, correction: str = "holm"
    ) -> list[outputs.MetricComparison]:
        pairs = [(a, b, m) for m in metrics for a, b in combinations(now.names, 2)]
        found = [self._compare(now, a, b, m) for a, b, m in pairs]
        adjusted = _CORRECTIONS[correction]([item.anytime.p_value for item in found])
        alpha = alpha_of(self._rules.confidence_level)
        return [
            self._line(now, pair, comparison, float(p), is_significant=p < alpha)
            for pair, comparison, p in zip(pairs, found, adjusted, strict=True)
        ]

    def _probabilities(self, now: Now, metric: str) -> dict[str, float]:
        contrasts = {
            pair: self._compare(now, *pair, metric).evidence.effective
            for pair in combinations(now.names, 2)
        }
        differences, errors = _apart(contrasts, now.names)
        if not np.isfinite(errors).all():
            return dict.fromkeys(now.names, 1.0 / len(now.names))
        chances = probabilities_to_be_best(
            differences,
            errors,
            rng=generator(0),
            lower_is_better=self._is_less_better(metric, now, now.names),
        )
        return dict(zip(now.names, (float(chance) for chance in chances), strict=True))

    def _history(
        self, now: Now, looks: Sequence[Snapshot], what: tuple[str, str, str], *, points: int = 100
    ) -> outputs.IntervalHistory:
        a, b, metric = what
        step = max(1, -(-len(looks) // max(1, points)))
        # Counted from the end, so that the last look is always among them.
        chosen = looks[::-1][::step][::-1]
        return outputs.as_plain_history(
            [(look.n, self._compare(now, a, b, metric, snapshot=look)) for look in chosen]
        )

    def _line(
        self,
        now: Now,
        pair: tuple[str, str, str],
        comparison: Comparison,
        adjusted: float,
        *,
        is_significant: bool,
    ) -> outputs.MetricComparison:
        a, b, metric = pair
        shown = is_significant and comparison.has_enough and comparison.is_complete
        difference = comparison.evidence.effective.difference
        b_is_better = (difference > 0.0) != self._is_less_better(metric, now, (a, b))
        return {
            "variant_a": a,
            "variant_b": b,
            "metric": metric,
            "difference": difference,
            "p_value_always_valid": comparison.anytime.p_value,
            "adjusted_p_value": adjusted,
            "is_significant": bool(shown),
            "better": (b if b_is_better else a) if shown else None,
        }

    def _stats(self, now: Now, metrics: Sequence[str]) -> dict[str, outputs.VariantStats]:
        assigned: dict[str, int] = {}
        for (name, _), n in now.assigned.items():
            assigned[name] = assigned.get(name, 0) + n
        return {
            name: {
                "sample_count": now.snapshot.sample_counts.get(name, 0),
                "traffic_weight": weight,
                "assigned": assigned.get(name, 0),
                "metrics": {
                    metric: outputs.metric_stats(
                        now.snapshot.moments(name, metric),
                        non_finite=now.snapshot.non_finite.get((name, metric), 0),
                        confidence_level=self._rules.confidence_level,
                    )
                    for metric in metrics
                },
            }
            for name, weight in now.assignment.weights.items()
        }

    def _overview(self) -> dict[str, Any]:
        """Everything that `export_results` writes as JSON, but the outcomes.

        All of it is of one moment; working it out keeps nobody from recording.
        """
        with self._ledger.lock:
            now, looks, metrics = self._now(), self._ledger.looks(), self._ledger.metrics()
            not_counted = {
                "while_paused": self._ledger.n_ignored,
                "forced": self._n_not_counted,
                "without_primary_metric": self._n_without_primary,
                "held_out": {
                    metric: now.snapshot.moments(HELD_OUT, metric).n for metric in metrics
                },
            }
        pairs, primary = list(combinations(now.names, 2)), self.primary_metric
        return {
            "test_name": self.test_name,
            "status": self._ledger.status,
            "exported_at": self._clock.now().isoformat(),
            "primary_metric": primary,
            "min_samples": self._rules.min_samples,
            "confidence_level": self._rules.confidence_level,
            "n_tuned": self._rules.n_tuned,
            "inference": self._rules.inference,
            "paired": self.paired,
            "lower_is_better": [m for m in metrics if self._is_less_better(m, now, now.names)],
            "assignment": {
                "mode": self._chooser.mode,
                "holdout_share": self._chooser.holdout_share,
                "forced": dict(self._chooser.forced),
                **now.assignment.to_plain(),
            },
            "variants": self._stats(now, metrics),
            "not_counted": not_counted,
            "sample_ratio": outputs.ratio_of(self._ratio(now)),
            "comparisons": [
                self._compared(now, a, b, metric) for metric in metrics for a, b in pairs
            ],
            "all_metrics": self._all(now, metrics) if metrics else [],
            "probability_to_be_best": self._probabilities(now, primary),
            "interval_history": {
                f"{a} vs {b}": self._history(now, looks, (a, b, primary)) for a, b in pairs
            },
            "winner": self._winner(now, primary),
        }


def _apart(
    contrasts: Mapping[tuple[str, str], Contrast], names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Each variant's mean relative to the first one's, and its own error.

    The errors of the differences share that of the first variant: it is what two of them have more
    than the difference between those two.
    """
    first, *others = names
    to_first = [contrasts[first, name].variance for name in others]
    shared = [
        (contrasts[first, a].variance + contrasts[first, b].variance - contrasts[a, b].variance)
        / 2
        for a, b in combinations(others, 2)
    ]
    own = float(np.clip(np.mean(shared), 0.0, min(to_first))) if shared else 0.0
    differences = [0.0, *(contrasts[first, name].difference for name in others)]
    errors = [own, *(variance - own for variance in to_first)]
    return differences, [float(np.sqrt(variance)) for variance in errors]
