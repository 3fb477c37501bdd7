"""`ABTest`: several models share the traffic until one of them is shown to be better."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard._core.chance import generator
from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard._core.files import write_text
from modelyard._core.ids import checked_name
from modelyard.ab_testing.analysis.gathering import PAIRABLE
from modelyard.ab_testing.analysis.rules import Inference, VerdictRules, checked_positive
from modelyard.ab_testing.history import export
from modelyard.ab_testing.ledger import Ledger
from modelyard.ab_testing.metrics import Metric, MetricBook, MetricKind, metrics_from
from modelyard.ab_testing.outputs import StoppedTest
from modelyard.ab_testing.persistence import PAUSED, RUNNING, STOPPED, ExperimentRows
from modelyard.ab_testing.recording.sums import Sums
from modelyard.ab_testing.report import experiment_report
from modelyard.ab_testing.serving.assignment import Assignment, Chooser, checked_weights
from modelyard.ab_testing.teller import Teller
from modelyard.ab_testing.variant import (
    ModelVariant,
    checked_variants,
    require_known,
    variant_without_model,
)
from modelyard.storage import Store


class ABTest(Teller):
    """Splits traffic between models, records what came of it, and says which one is better.

    The verdict (`is_significant`, `get_winner`, the recommendation) comes from an always-valid
    p-value: it may be asked for after every outcome, and the test stopped on it, without more
    than `1 - confidence_level` false winners. Outcomes are compared inside periods of equal
    traffic weights, so that changing weights cannot fake a difference.

    Thread-safe: one re-entrant lock guards results and requests; the assignment is an immutable
    object that is replaced whole, and models run outside the lock.

    Args:
        test_name: Name of the experiment; part of the assignment's formula.
        variants: Two or more, of different names; the first is the control.
        primary_metric: What is compared where no metric is named.
        min_samples: Outcomes of each variant below which there is no verdict.
        confidence_level: 1 - the accepted chance of a false winner.
        store: Keeps results and assignment; without one they are in memory only. Processes that
            open the same test share its results and its slot table.
        clock: Tells the time.
        seed: For users without an id.
        metric_type: Kind of the primary metric, as `Metric.kind`; `sharpe` where returns are
            recorded and their Sharpe ratios are to be compared.
        metrics: Metrics that are more than a mean, or guardrails.
        assignment: `user`: by user id, at random with a warning where there is none;
            `time_block`: everything within `block_s` seconds gets one variant, for a single
            account that must not alternate between policies; `random`: no key wanted.
        block_s: Length of a time block in seconds.
        forced: Variant by user, for testers: their outcomes do not count.
        holdout_share: Share of the users who get the control and are no part of the experiment,
            whatever the weights are.
        paired: Every variant answers every input (`predict_all`, `record_paired`); differences
            on the same input are tested, which needs far fewer of them.
        lower_is_better: Metrics of which less is better, and no others; by default each is judged
            by its name (`val_loss`, `latency_p99_ms`).
        n_tuned: Outcomes of two variants together at which the always-valid interval is
            narrowest; 20 `min_samples` by default. Any value is valid.
        inference: `always_valid`, or, for experiments with a fixed plan, `fixed_horizon` or
            `group_sequential` (see `VerdictRules`).
        planned_samples: Outcomes of each variant at which a planned experiment ends.
        n_looks: Looks that `group_sequential` takes, the last included.
        cycle_s: Length in seconds of the cycle that a test should cover; a week by default.
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
        metric_type: MetricKind = "mean",
        metrics: Iterable[Metric] = (),
        assignment: str = "user",
        block_s: float = 3600.0,
        forced: Mapping[str, str] | None = None,
        holdout_share: float = 0.0,
        paired: bool = False,
        lower_is_better: Iterable[str] | None = None,
        n_tuned: float | None = None,
        inference: Inference = "always_valid",
        planned_samples: int | None = None,
        n_looks: int = 5,
        cycle_s: float = 7 * 86_400.0,
        salt: str = "",
        durability: str = "batched",
        resume: bool = False,
    ) -> None:
        checked_name(test_name, what="test_name")
        by_name = checked_variants(variants)
        for name in (forced or {}).values():
            require_known(name, tuple(by_name))
        book = MetricBook(
            metrics,
            primary=primary_metric,
            primary_kind=metric_type,
            lower_is_better=lower_is_better,
        )
        rules = VerdictRules(
            confidence_level=confidence_level,
            min_samples=min_samples,
            n_tuned=20.0 * checked_positive(min_samples, what="min_samples")
            if n_tuned is None
            else n_tuned,
            inference=inference,
            planned_samples=planned_samples,
            n_looks=n_looks,
            cycle_s=cycle_s,
        )
        if paired:
            _require_pairable(book)
        clock = clock or SystemClock()
        weights = {variant.name: variant.traffic_weight for variant in variants}
        super().__init__(
            by_name,
            book=book,
            rules=rules,
            ledger=Ledger(
                Sums(tuple(by_name), book, planned=rules.planned_looks),
                Assignment.from_weights(test_name, weights, salt=salt, at=clock.now()),
                clock=clock,
                durability=durability,
                is_paired=paired,
            ),
            chooser=Chooser(
                assignment,
                block_s=block_s,
                clock=clock,
                rng=generator(seed),
                forced=forced,
                holdout_share=holdout_share,
            ),
            clock=clock,
            is_paired=paired,
        )
        self._block_s = block_s
        if store is not None:
            rows = ExperimentRows(store, test_name)
            self._ledger.open(rows, self._settings(), resume=resume)

    @classmethod
    def load(
        cls,
        test_name: str,
        *,
        store: Store,
        models: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        seed: int | None = None,
        durability: str = "batched",
    ) -> "ABTest":
        """The stored experiment of this name, as it was made.

        Args:
            test_name: Its name.
            store: Where it is.
            models: By variant; one without a model cannot answer, but all can be compared.
            clock: Tells the time.
            seed: For users without an id.
            durability: As in the constructor.

        Raises:
            ExperimentNotFoundError: There is none.
            VariantNotFoundError: A model of no variant.
            ConfigError: It was stored by a modelyard that did not store all settings yet.
        """
        settings = ExperimentRows(store, test_name).settings()
        if "rules" not in settings:
            raise ConfigError(
                f"Experiment {test_name!r} was stored by an older modelyard without its rules. "
                "Make it with ABTest(..., resume=True)."
            )
        models = dict(models or {})
        for name in models:
            require_known(name, settings["variants"])
        return cls(
            test_name,
            [
                ModelVariant(name, models[name]) if name in models else variant_without_model(name)
                for name in settings["variants"]
            ],
            primary_metric=settings["primary_metric"],
            store=store,
            clock=clock,
            seed=seed,
            metrics=metrics_from(settings["metrics"]),
            lower_is_better=settings["lower_is_better"],
            assignment=settings["assignment"],
            block_s=settings["block_s"],
            forced=settings["forced"],
            holdout_share=settings["holdout_share"],
            paired=settings["paired"],
            durability=durability,
            resume=True,
            **settings["rules"],
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
        self._reassign(lambda now: checked_weights(weights, tuple(now)))

    def add_variant(
        self, variant: ModelVariant, *, weights: Mapping[str, float] | None = None
    ) -> None:
        """Add a variant; only users move who must. A new weight epoch begins.

        Where another process added it already, this process gets its model.

        Args:
            variant: Of a new name. Its `traffic_weight` is relative to the present shares, which
                add up to 1: 0.5 gives it a third.
            weights: All traffic weights instead, its own among them.

        Raises:
            ConfigError: The name is taken, or an experiment with planned looks.
            ExperimentStoppedError: The experiment has ended.
        """
        handed_in: Any = variant
        if not isinstance(handed_in, ModelVariant):
            raise ConfigError(f"add_variant needs a ModelVariant, got {variant!r}.")
        if variant.name in self._variants:
            raise ConfigError(f"There is a variant {variant.name!r} already.")
        self._ledger.flush()
        if variant.name not in self.names:
            self._require_free_looks()

            def with_it(now: Mapping[str, float]) -> Mapping[str, float]:
                if variant.name in now:  # another process was quicker
                    return now
                wanted = weights or {**now, variant.name: variant.traffic_weight}
                return checked_weights(wanted, (*now, variant.name))

            self._reassign(with_it)
        self._variants = {**self._variants, variant.name: variant}

    def remove_variant(self, name: str) -> None:
        """Take a variant out; its users go to the others by their weights, nobody else moves.

        What was recorded of it stays in the history. A new weight epoch begins.

        Raises:
            VariantNotFoundError: No such variant.
            ConfigError: Fewer than two would be left, or an experiment with planned looks.
            ExperimentStoppedError: The experiment has ended.
        """
        self._require_free_looks()

        def without_it(now: Mapping[str, float]) -> Mapping[str, float]:
            require_known(name, tuple(now))
            left = {other: weight for other, weight in now.items() if other != name}
            if len(left) < 2:  # noqa: PLR2004 - a comparison
                raise ConfigError(f"Without {name!r} only {list(left)} would be left to compare.")
            return left

        self._reassign(without_it)

    def pause(self) -> None:
        """Give everybody the control until `resume`; outcomes of earlier requests still count.

        Durable on return (with a store).

        Raises:
            ExperimentStoppedError: The experiment has ended.
        """
        self._ledger.set_status(PAUSED)

    def resume(self) -> None:
        """Go on after `pause`: every user gets the variant of before.

        Raises:
            ExperimentStoppedError: The experiment has ended.
        """
        self._ledger.set_status(RUNNING)

    def stop_test(self) -> StoppedTest:
        """End the experiment: it answers and compares as before, but takes no more outcomes.

        Durable on return (with a store). Stopping again changes nothing.
        """
        self._ledger.set_status(STOPPED)
        return {
            "test_name": self.test_name,
            "status": STOPPED,
            "winner": self.get_winner(),
            "stopped_at": self._clock.now().isoformat(),
        }

    def export_results(self, filepath: str | Path) -> str:
        """Write the results; what is written depends on the file's ending.

        `.json`: settings, assignment, statistics and all comparisons, and the outcomes. `.csv` and
        `.parquet` (needs pyarrow): the outcomes, one in each row. Without a store the outcomes are
        the last 100,000.

        Args:
            filepath: Where to; its folder is made. Written whole or not at all.

        Returns:
            The path.

        Raises:
            ConfigError: Another ending.
            MissingDependencyError: Parquet without pyarrow.
        """
        return export(Path(filepath), self._overview, self._ledger.history)

    def report(self, path: str | Path) -> Path:
        """Write a page with the verdict, the interval over time and the checks; makes the folder.

        Args:
            path: The HTML file; it opens in any browser and needs no network.

        Raises:
            OSError: It cannot be written; an older file stays as it was.
        """
        page = experiment_report(self._overview(), generated_at=self._clock.now())
        write_text(Path(path), page)
        return Path(path)

    def _settings(self) -> dict[str, Any]:
        rules = self._rules
        return {
            "variants": list(self.names),
            "primary_metric": self.primary_metric,
            "paired": self.paired,
            "assignment": self._chooser.mode,
            "block_s": self._block_s,
            "forced": dict(self._chooser.forced),
            "holdout_share": self._chooser.holdout_share,
            **self._book.to_plain(),
            "rules": {
                "min_samples": rules.min_samples,
                "confidence_level": rules.confidence_level,
                "n_tuned": rules.n_tuned,
                "inference": rules.inference,
                "planned_samples": rules.planned_samples,
                "n_looks": rules.n_looks,
                "cycle_s": rules.cycle_s,
            },
        }

    def _reassign(
        self, weights_from: Callable[[Mapping[str, float]], Mapping[str, float]]
    ) -> None:
        """Begin a weight epoch with what becomes of the weights that are stored by then."""
        at = self._clock.now()
        self._ledger.reassign(
            lambda assignment: assignment.reweighted(weights_from(assignment.weights), at=at)
        )

    def _require_free_looks(self) -> None:
        if self._rules.planned_looks:
            raise ConfigError(
                f"Experiment {self.test_name!r} has planned looks ({self._rules.inference}): its "
                "variants are fixed. Start another experiment."
            )


def _require_pairable(book: MetricBook) -> None:
    for metric in book.declared:
        if metric.kind not in PAIRABLE or metric.covariate is not None:
            raise ConfigError(
                f"A paired experiment compares differences on the same input: metric "
                f"{metric.name!r} of kind {metric.kind!r} cannot be paired. There are: "
                f"{', '.join(sorted(PAIRABLE))}, without covariate."
            )
