"""The part of `ABTest` that compares: what the outcomes say, and whether anybody has won."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from modelyard._core.errors import ConfigError
from modelyard.ab_testing import outputs
from modelyard.ab_testing.analysis.cautions import cautions, half_a_cycle
from modelyard.ab_testing.analysis.checks import (
    GuardrailCheck,
    RatioCheck,
    check_guardrail,
    check_ratio,
    elapsed_s,
)
from modelyard.ab_testing.analysis.comparing import Comparison, compare, decide
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.analysis.gathering import (
    evidence_of,
    short_series_p,
)
from modelyard.ab_testing.analysis.recommendation import recommend
from modelyard.ab_testing.recorder import Recorder
from modelyard.ab_testing.recording.snapshots import Snapshot
from modelyard.ab_testing.serving.assignment import Assignment
from modelyard.ab_testing.variant import require_known
from modelyard.stats.intervals import alpha_of
from modelyard.stats.multiplicity import holm


@dataclass(frozen=True, kw_only=True)
class Now:
    """What is known at one moment. Nothing in it changes.

    Attributes:
        snapshot: The running sums.
        planned: The sums at the planned looks that were reached.
        assignment: Slot table and weight epochs.
        assigned: Users, and requests of nobody in particular, that this process assigned, by
            variant and epoch.
        is_one_each: Whether all of them were counted.
    """

    snapshot: Snapshot
    planned: Sequence[Snapshot]
    assignment: Assignment
    assigned: Mapping[tuple[str, int], int]
    is_one_each: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The variants, in order."""
        return tuple(self.assignment.weights)


class Comparer(Recorder):
    """Compares variants and names the winner. A part of `ABTest`."""

    def compare_variants(
        self, variant_a: str, variant_b: str, metric: str | None = None
    ) -> outputs.ComparisonDict:
        """Compare `variant_b` with `variant_a`.

        Args:
            variant_a: The control: differences and improvement are relative to it.
            variant_b: The treatment.
            metric: What to compare; the primary metric by default.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: A variant with itself, or a metric that was never recorded.
        """
        metric = self._checked_metric(variant_a, variant_b, metric)
        return self._compared(self._now(), variant_a, variant_b, metric)

    def get_winner(self, metric: str | None = None) -> str | None:
        """The variant shown to be better than every other, or None.

        With three variants or more the p-values are adjusted by Holm's method (Bonferroni's for
        planned looks). Nobody wins while more than 1 % of a variant's values are not finite, while
        the users are not split as the weights say, or without having passed every guardrail.

        Raises:
            ConfigError: A metric that was never recorded.
        """
        return self._winner(self._now(), self._known_metric(metric))

    def check_sample_ratio(self) -> outputs.RatioDict | None:
        """Whether the variants got the shares of the users that their weights say.

        Counted are users (or single requests) that have an outcome where these are known, else
        those that this process assigned; None where neither is known.
        """
        return outputs.ratio_of(self._ratio(self._now()))

    def _now(self) -> Now:
        """What is known at this moment; what is made of it needs no lock any more."""
        with self._ledger.lock:
            snapshot = self._ledger.snapshot()
            exposures = self._chooser.exposures
            return Now(
                snapshot=snapshot,
                planned=self._ledger.planned_looks(),
                assignment=self._ledger.assignment,
                assigned=exposures.counts(),
                is_one_each=exposures.is_one_each,
            )

    def _compared(
        self, now: Now, variant_a: str, variant_b: str, metric: str
    ) -> outputs.ComparisonDict:
        comparison = self._compare(now, variant_a, variant_b, metric)
        p_value = short_series_p(
            now.snapshot, variant_a, variant_b, self._book[metric], is_paired=self.paired
        )
        if p_value is not None:
            single = replace(comparison.single_look, p_value=p_value)
            comparison = replace(comparison, single_look=single)
        lower_is_better = self._is_less_better(metric, now, (variant_a, variant_b))
        ratio = self._ratio(now)
        guardrails = self._guardrails(now, comparison, variant_a, variant_b, metric)
        recommendation = recommend(
            comparison,
            self._rules,
            variant_a=variant_a,
            variant_b=variant_b,
            metric=metric,
            lower_is_better=lower_is_better,
            ratio=ratio,
            guardrails=guardrails,
        )
        warnings = cautions(
            comparison,
            variant_a=variant_a,
            variant_b=variant_b,
            ratio=ratio,
            n_variants=len(now.names),
        )
        for warning in warnings:
            # The numbers in it differ from look to look.
            self._warns.once(f"{metric}: {re.sub('[^a-z]+', '', warning)[:40]}", warning)
        return {
            "variant_a": variant_a,
            "variant_b": variant_b,
            "metric": metric,
            "kind": comparison.evidence.metric.kind,
            "lower_is_better": lower_is_better,
            "paired": self.paired,
            "weight_epochs": len(now.assignment.epochs),
            "statistics": outputs.statistics_of(comparison),
            "bayesian": outputs.bayes_of(comparison, lower_is_better=lower_is_better),
            "decision": outputs.decision_of(comparison, self._rules),
            "sample_ratio": outputs.ratio_of(ratio),
            "guardrails": [outputs.guardrail_of(check) for check in guardrails],
            "result": outputs.verdict_of(
                comparison, recommendation, lower_is_better=lower_is_better
            ),
            "warnings": warnings
            + half_a_cycle(
                comparison, self._rules, elapsed_s(now.snapshot.first_at, now.snapshot.last_at)
            ),
        }

    def _winner(self, now: Now, metric: str) -> str | None:
        ratio = self._ratio(now)
        if ratio is not None and ratio.is_mismatch:
            return None
        return next((name for name in now.names if self._beats_all(name, now, metric)), None)

    def _evidence(self, snapshot: Snapshot, a: str, b: str, metric: str) -> Evidence:
        return evidence_of(snapshot, a, b, self._book[metric], is_paired=self.paired)

    def _compare(
        self, now: Now, a: str, b: str, metric: str, *, snapshot: Snapshot | None = None
    ) -> Comparison:
        """The comparison now, or as it stood in an earlier `snapshot`."""
        planned = now.planned if snapshot is None else ()
        return compare(
            self._evidence(snapshot or now.snapshot, a, b, metric),
            self._rules,
            [self._evidence(look, a, b, metric) for look in planned],
        )

    def _beats_all(self, name: str, now: Now, metric: str) -> bool:
        others = [other for other in now.names if other != name]
        found = [self._compare(now, other, name, metric) for other in others]
        sign = -1.0 if self._is_less_better(metric, now, now.names) else 1.0
        return (
            all(item.has_enough and item.is_complete for item in found)
            and self._are_significant(found, now, others, name, metric)
            and all(sign * item.difference > 0.0 for item in found)
            and all(
                check.result.status == "passes"
                for other, item in zip(others, found, strict=True)
                for check in self._guardrails(now, item, other, name, metric)
            )
        )

    def _are_significant(
        self,
        found: Sequence[Comparison],
        now: Now,
        others: Sequence[str],
        name: str,
        metric: str,
    ) -> bool:
        if self._rules.inference == "always_valid":
            p_values = holm([item.anytime.p_value for item in found])
            return bool((p_values < alpha_of(self._rules.confidence_level)).all())
        return all(
            decide(
                item.evidence,
                item.anytime,
                [self._evidence(look, other, name, metric) for look in now.planned],
                self._rules,
                n_tests=len(found),
            ).is_significant
            for other, item in zip(others, found, strict=True)
        )

    def _guardrails(
        self, now: Now, comparison: Comparison, a: str, b: str, metric: str
    ) -> list[GuardrailCheck]:
        """Of the better of the two against the other; none where another metric is compared."""
        if metric != self.primary_metric:
            return []
        is_b = (comparison.difference > 0.0) != self._is_less_better(metric, now, (a, b))
        other, better = (a, b) if is_b else (b, a)
        return [
            check_guardrail(
                self._compare(now, other, better, guardrail.name),
                guardrail,
                variant=better,
                other=other,
                lower_is_better=self._is_less_better(guardrail.name, now, (a, b)),
            )
            for guardrail in self._book.guardrails
        ]

    def _is_less_better(self, metric: str, now: Now, names: Iterable[str]) -> bool:
        # What is compared need not be the values: of ranks it is the chance to be larger.
        means = [now.snapshot.moments(name, metric).mean for name in names]
        return self._book.is_lower_better(metric, means)

    def _ratio(self, now: Now) -> RatioCheck | None:
        if self.paired:
            return None
        weights = [epoch.weights for epoch in now.assignment.epochs]
        checks = []
        outcomes = self._outcome_units(now)
        if outcomes:
            n_shared = now.snapshot.n_shared_units
            checks.append(check_ratio(outcomes, weights, counted="outcome", n_shared=n_shared))
        if now.assigned:
            checks.append(check_ratio(now.assigned, weights, counted="assigned"))
        worst = [check for check in checks if check.is_mismatch]
        return next(iter(worst or checks), None)

    def _outcome_units(self, now: Now) -> Mapping[tuple[str, int], int]:
        """Users or requests with an outcome, by variant and epoch; empty where not known.

        Outcomes of nobody in particular stand for one user each only while they are no more than
        the users that were assigned, and while the weights never changed: when they were assigned
        is not known.
        """
        snapshot = now.snapshot
        n_unitless = sum(snapshot.unitless_counts.values())
        if not n_unitless:
            return snapshot.unit_counts
        is_one_each = now.is_one_each and n_unitless <= sum(now.assigned.values())
        is_known = is_one_each and len(now.assignment.epochs) == 1
        if snapshot.unit_counts or not is_known or self._chooser.holdout_share:
            return {}
        return snapshot.unitless_counts

    def _checked_metric(self, variant_a: str, variant_b: str, metric: str | None) -> str:
        require_known(variant_a, self.names)
        require_known(variant_b, self.names)
        if variant_a == variant_b:
            raise ConfigError(f"{variant_a!r} cannot be compared with itself.")
        return self._known_metric(metric)

    def _known_metric(self, metric: str | None) -> str:
        if metric is None or metric == self.primary_metric:
            return self.primary_metric
        known = self._ledger.metrics()
        if metric not in known:
            raise ConfigError(f"No metric {metric!r} was recorded. There are: {known}.")
        return metric
