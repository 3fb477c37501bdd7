"""`ABTest`: several models share the traffic until one of them is shown to be better."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, RequestNotFoundError
from modelyard._core.files import write_json
from modelyard._core.ids import checked_name, new_id
from modelyard.ab_testing.analysis import Comparison, Evidence, Rules, compare, direction_by
from modelyard.ab_testing.assignment import Assignment, Chooser, checked_weights
from modelyard.ab_testing.ledger import Ledger
from modelyard.ab_testing.outputs import (
    ComparisonDict,
    IntervalHistory,
    StoppedTest,
    VariantStats,
    as_plain_history,
    metric_stats,
    statistics_of,
    verdict_of,
    warnings_of,
)
from modelyard.ab_testing.persistence import STOPPED, ExperimentRows
from modelyard.ab_testing.recommendation import recommend
from modelyard.ab_testing.requests import OpenRequests, Request
from modelyard.ab_testing.results import Result, Snapshot, checked_metrics
from modelyard.ab_testing.variant import ModelVariant, checked_variants, require_known
from modelyard.stats.intervals import alpha_of
from modelyard.stats.multiplicity import holm
from modelyard.storage import Store

_logger = logging.getLogger(__name__)


class ABTest:
    """Splits traffic between models, records what came of it, and says which one is better.

    The verdict (`is_significant`, `get_winner`, the recommendation) comes from an always-valid
    p-value: it may be asked for after every outcome, and the test stopped on it, without more
    than `1 - confidence_level` false winners. Outcomes are compared inside periods of equal
    traffic weights, so that changing weights cannot fake a difference.

    Thread-safe: one re-entrant lock guards results and requests; the assignment is an immutable
    object that is replaced whole, and models run outside the lock.

    Args:
        test_name: Name of the experiment; part of the assignment's formula.
        variants: Two or more, of different names.
        primary_metric: What is compared where no metric is named.
        min_samples: Outcomes of each variant below which there is no verdict.
        confidence_level: 1 - the accepted chance of a false winner.
        store: Keeps results and assignment; without one they are in memory only. Processes that
            open the same test share its results and its slot table.
        clock: Tells the time.
        seed: For users without an id.
        assignment: `user`: by user id, at random with a warning where there is none;
            `time_block`: everything within `block_s` seconds gets one variant, for a single
            account that must not alternate between policies; `random`: no key wanted.
        block_s: Length of a time block in seconds.
        paired: Every variant answers every input (`predict_all`, `record_paired`); differences
            on the same input are tested, which needs far fewer of them.
        lower_is_better: Metrics of which less is better, and no others; by default each is judged
            by its name (`val_loss`, `latency_p99_ms`).
        n_tuned: Outcomes of two variants together at which the always-valid interval is
            narrowest; 20 `min_samples` by default. Any value is valid.
        salt: Deals the users anew when it is changed.
        durability: `batched`: results are stored by `flush()`, which any call makes when the last
            one is a second old; `sync`: before the call returns.
        resume: Go on with the stored experiment of this name.

    Raises:
        ConfigError: An argument breaks its rule, or the stored experiment differs.
        ExperimentExistsError: The name is stored already and `resume` is False.
    """

    def __init__(
        self,
        test_name: str,
        variants: Sequence[ModelVariant],
        primary_metric: str,
        min_samples: int = 100,
        confidence_level: float = 0.95,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        assignment: str = "user",
        block_s: float = 3600.0,
        paired: bool = False,
        lower_is_better: Iterable[str] | None = None,
        n_tuned: float | None = None,
        salt: str = "",
        durability: str = "batched",
        resume: bool = False,
    ) -> None:
        self.test_name = checked_name(test_name, what="test_name")
        self.primary_metric = primary_metric
        self.paired = paired
        self._variants = checked_variants(variants)
        self._rules = Rules(
            confidence_level=confidence_level,
            min_samples=min_samples,
            n_tuned=20.0 * min_samples if n_tuned is None else n_tuned,
        )
        self._is_lower_better = direction_by(lower_is_better)
        self._clock = clock or SystemClock()
        self._chooser = Chooser(
            assignment, block_s=block_s, clock=self._clock, rng=generator(seed)
        )
        self._requests = OpenRequests()
        self._said: set[str] = set()
        weights = {variant.name: variant.traffic_weight for variant in variants}
        self._ledger = Ledger(
            self.names,
            Assignment.from_weights(test_name, weights, salt=salt, at=self._clock.now()),
            clock=self._clock,
            durability=durability,
            is_paired=paired,
        )
        self._lock = self._ledger.lock
        if store is not None:
            self._ledger.open(ExperimentRows(store, test_name), self._settings(), resume=resume)

    @property
    def names(self) -> tuple[str, ...]:
        """The variants' names, in order."""
        return tuple(self._variants)

    @property
    def status(self) -> str:
        """`running` or `stopped`."""
        return self._ledger.status

    def select_variant(self, user_id: str | None = None) -> ModelVariant:
        """The variant of a user: always the same until weights change and this user must move.

        Args:
            user_id: Any value whose text identifies the user.
        """
        return self._variants[self._chooser.choose(self._ledger.assignment, user_id)]

    def predict(
        self,
        data: Any,
        user_id: str | None = None,
        variant_name: str | None = None,
        *,
        request_id: str | None = None,
    ) -> tuple[Any, str]:
        """Answer `data` with the user's variant.

        Args:
            data: What the model takes.
            user_id: Whose request it is.
            variant_name: Use this variant whoever asks.
            request_id: Remembers who answered, for `record_outcome`.

        Returns:
            The model's answer, and the name of the variant that gave it.

        Raises:
            VariantNotFoundError: There is no `variant_name`.
        """
        if variant_name is None:
            variant = self.select_variant(user_id)
        else:
            require_known(variant_name, self.names)
            variant = self._variants[variant_name]
        prediction = variant.predict(data)
        if request_id is not None:
            unit = None if user_id is None else str(user_id)
            request = Request(variant.name, self._ledger.assignment.epoch, unit)
            self._requests.remember(request_id, request)
        return prediction, variant.name

    def predict_all(self, data: Any) -> dict[str, Any]:
        """The answers of all variants to the same input, by name (shadow evaluation)."""
        return {name: variant.predict(data) for name, variant in self._variants.items()}

    def record_result(self, variant_name: str, metrics: Mapping[str, Any]) -> None:
        """Record what came of one answer of a variant.

        Args:
            variant_name: Who answered.
            metrics: Numbers by name. What is not finite is counted, never averaged.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: Metrics that are no numbers, or a paired experiment.
            ExperimentStoppedError: The experiment has ended.
        """
        require_known(variant_name, self.names)
        if self.paired:
            raise ConfigError(
                f"{self.test_name!r} is a paired experiment: record all variants of one input "
                "together with record_paired({name: metrics, ...})."
            )
        self._ledger.record(
            [self._result(variant_name, metrics, epoch=self._ledger.assignment.epoch)]
        )

    def record_outcome(self, request_id: str, metrics: Mapping[str, Any]) -> None:
        """Record what came of an answer that `predict(..., request_id=...)` gave.

        A second outcome of the same request is ignored, so it is safe to retry.

        Raises:
            RequestNotFoundError: No such request among the last 100,000 without an outcome.
            ConfigError: Metrics that are no numbers.
            ExperimentStoppedError: The experiment has ended.
        """
        request = self._requests.get(request_id)
        if request is None:
            if self._ledger.has_seen(request_id):
                return
            raise RequestNotFoundError(
                f"No open request {request_id!r} in experiment {self.test_name!r}. "
                "Pass request_id= to predict, or use record_result(variant_name, metrics)."
            )
        result = self._result(request.variant, metrics, epoch=request.epoch)
        self._ledger.record([replace(result, unit=request.unit, request_id=request_id)])
        self._requests.forget(request_id)

    def record_paired(
        self, metrics: Mapping[str, Mapping[str, Any]], *, request_id: str | None = None
    ) -> None:
        """Record what came of the answers of several variants to the same input.

        Args:
            metrics: Metrics by variant, of two variants or more.
            request_id: The input's own id; a second record of it is ignored.

        Raises:
            ConfigError: Not a paired experiment, fewer than two variants, or no numbers.
            VariantNotFoundError: No such variant.
            ExperimentStoppedError: The experiment has ended.
        """
        if not self.paired or len(metrics) < 2:  # noqa: PLR2004 - a pair
            raise ConfigError(
                "record_paired needs ABTest(..., paired=True) and the metrics of two variants or "
                f"more; paired={self.paired}, variants given: {list(metrics)}."
            )
        for name in metrics:
            require_known(name, self.names)
        shared = request_id or new_id("pair")
        epoch = self._ledger.assignment.epoch
        self._ledger.record(
            [
                replace(self._result(name, values, epoch=epoch), request_id=shared)
                for name, values in metrics.items()
            ]
        )

    def flush(self) -> None:
        """Store what waits, durably, and take in what other processes have stored.

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        self._ledger.flush()

    def get_variant_stats(self) -> dict[str, VariantStats]:
        """Counts, traffic shares and metrics of each variant.

        Means are over all weight epochs together; comparisons keep the epochs apart.
        """
        with self._lock:
            snapshot = self._ledger.snapshot()
            return {name: self._stats_of(name, snapshot) for name in self.names}

    def compare_variants(
        self, variant_a: str, variant_b: str, metric: str | None = None
    ) -> ComparisonDict:
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
        evidence, comparison = self._compare(variant_a, variant_b, metric)
        lower_is_better = self._is_lower_better(metric)
        recommendation = recommend(
            comparison,
            self._rules,
            variant_a=variant_a,
            variant_b=variant_b,
            metric=metric,
            lower_is_better=lower_is_better,
        )
        warnings = warnings_of(
            evidence, comparison, variant_a=variant_a, variant_b=variant_b, metric=metric
        )
        for warning in warnings:
            self._warn_once(warning, about=metric)
        return {
            "variant_a": variant_a,
            "variant_b": variant_b,
            "metric": metric,
            "lower_is_better": lower_is_better,
            "paired": self.paired,
            "weight_epochs": len(self._ledger.assignment.epochs),
            "statistics": statistics_of(comparison, evidence),
            "result": verdict_of(comparison, recommendation, lower_is_better=lower_is_better),
            "warnings": warnings,
        }

    def get_winner(self, metric: str | None = None) -> str | None:
        """The variant shown to be better than every other, or None.

        With three variants or more the p-values are adjusted by Holm's method. Nobody wins while
        more than 1 % of a variant's values are not finite.

        Raises:
            ConfigError: A metric that was never recorded.
        """
        metric = self._known_metric(metric)
        alpha = alpha_of(self._rules.confidence_level)
        sign = -1.0 if self._is_lower_better(metric) else 1.0
        for name in self.names:
            others = [other for other in self.names if other != name]
            comparisons = [self._compare(other, name, metric)[1] for other in others]
            p_values = holm([comparison.anytime.p_value for comparison in comparisons])
            if bool((p_values < alpha).all()) and all(
                comparison.has_enough
                and comparison.is_complete
                and sign * comparison.contrast.difference > 0.0
                for comparison in comparisons
            ):
                return name
        return None

    def interval_history(
        self, variant_a: str, variant_b: str, metric: str | None = None, *, points: int = 100
    ) -> IntervalHistory:
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
        step = max(1, -(-len(looks) // max(1, points)))
        # Counted from the end, so that the last look is always among them.
        chosen = looks[::-1][::step][::-1]
        return as_plain_history(
            [
                (look.n, compare(self._evidence(look, variant_a, variant_b, metric), self._rules))
                for look in chosen
            ]
        )

    def update_traffic_weights(self, weights: Mapping[str, float]) -> None:
        """Change the traffic weights; only users move who must. A new weight epoch begins.

        Durable on return (with a store).

        Args:
            weights: One for every variant, 0 or more; 0 takes its traffic away.

        Raises:
            VariantNotFoundError: A weight of no variant.
            ConfigError: A variant without a weight, or weights that give no shares.
            ExperimentStoppedError: The experiment has ended.
        """
        self._ledger.reweight(checked_weights(weights, self.names))

    def stop_test(self) -> StoppedTest:
        """End the experiment: it answers and compares as before, but takes no more outcomes.

        Durable on return (with a store). Stopping again changes nothing.
        """
        self._ledger.stop()
        return {
            "test_name": self.test_name,
            "status": STOPPED,
            "winner": self.get_winner(),
            "stopped_at": self._clock.now().isoformat(),
        }

    def export_results(self, filepath: str | Path) -> str:
        """Write settings, assignment, statistics and all comparisons as JSON.

        Args:
            filepath: Where to; its folder is made. Written whole or not at all.

        Returns:
            The path.
        """
        write_json(Path(filepath), self._report())
        return str(Path(filepath))

    def _settings(self) -> dict[str, Any]:
        return {
            "variants": list(self.names),
            "primary_metric": self.primary_metric,
            "paired": self.paired,
            "assignment": self._chooser.mode,
        }

    def _result(self, variant_name: str, metrics: Mapping[str, Any], *, epoch: int) -> Result:
        at = self._clock.now().isoformat() if self._ledger.is_stored else ""
        return Result(variant=variant_name, epoch=epoch, metrics=checked_metrics(metrics), at=at)

    def _evidence(self, snapshot: Snapshot, a: str, b: str, metric: str) -> Evidence:
        if self.paired:
            return snapshot.paired_evidence(a, b, metric)
        return snapshot.evidence(a, b, metric)

    def _compare(self, a: str, b: str, metric: str) -> tuple[Evidence, Comparison]:
        evidence = self._evidence(self._ledger.snapshot(), a, b, metric)
        return evidence, compare(evidence, self._rules)

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

    def _stats_of(self, name: str, snapshot: Snapshot) -> VariantStats:
        return {
            "sample_count": self._ledger.results.sample_counts[name],
            "traffic_weight": self._ledger.assignment.weights[name],
            "metrics": {
                metric: metric_stats(
                    snapshot.moments(name, metric),
                    non_finite=self._ledger.results.non_finite.get((name, metric), 0),
                    confidence_level=self._rules.confidence_level,
                )
                for metric in self._ledger.results.metrics
            },
        }

    def _report(self) -> dict[str, Any]:
        with self._lock:
            metrics = self._ledger.metrics()
            return {
                "test_name": self.test_name,
                "status": self._ledger.status,
                "exported_at": self._clock.now().isoformat(),
                "primary_metric": self.primary_metric,
                "min_samples": self._rules.min_samples,
                "confidence_level": self._rules.confidence_level,
                "n_tuned": self._rules.n_tuned,
                "paired": self.paired,
                "lower_is_better": [name for name in metrics if self._is_lower_better(name)],
                "assignment": {"mode": self._chooser.mode, **self._ledger.assignment.to_plain()},
                "variants": self.get_variant_stats(),
                "comparisons": [
                    self.compare_variants(a, b, metric)
                    for metric in metrics
                    for a, b in combinations(self.names, 2)
                ],
                "interval_history": {
                    f"{a} vs {b}": self.interval_history(a, b)
                    for a, b in combinations(self.names, 2)
                },
                "winner": self.get_winner(),
            }

    def _warn_once(self, message: str, *, about: str) -> None:
        with self._lock:
            is_new = about not in self._said
            self._said.add(about)
        if is_new:
            _logger.warning(message)
