"""The part of `ABTest` that serves and records: who answers, and what came of it."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError, RequestNotFoundError
from modelyard._core.ids import new_id
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.ab_testing.ledger import Ledger
from modelyard.ab_testing.metrics import MetricBook
from modelyard.ab_testing.persistence import PAUSED
from modelyard.ab_testing.recording.results import (
    HELD_OUT,
    Result,
    checked_metrics,
    require_binary,
)
from modelyard.ab_testing.serving.assignment import Assignment, Choice, Chooser
from modelyard.ab_testing.serving.requests import OpenRequests, Request
from modelyard.ab_testing.variant import ModelVariant, require_known
from modelyard.ab_testing.warning import WarnsOnce


class Recorder:
    """Serves the variants and records outcomes. The base of `ABTest`, which makes it.

    Thread-safe: the ledger's lock guards what was recorded; the assignment is an immutable object
    that is replaced whole, and models run outside the lock.

    Args:
        variants: By name; may lack some that another process added.
        book: What is known of the metrics.
        rules: What a verdict needs.
        ledger: What was recorded.
        chooser: Who gets what.
        clock: Tells the time.
        is_paired: Whether every variant answers every input.
    """

    def __init__(
        self,
        variants: Mapping[str, ModelVariant],
        *,
        book: MetricBook,
        rules: VerdictRules,
        ledger: Ledger,
        chooser: Chooser,
        clock: Clock,
        is_paired: bool,
    ) -> None:
        self.test_name = ledger.assignment.test_name
        self.primary_metric = book.primary
        self.paired = is_paired
        self._variants = dict(variants)
        self._book = book
        self._proportions = book.proportions
        self._rules = rules
        self._ledger = ledger
        self._chooser = chooser
        self._clock = clock
        self._requests = OpenRequests()
        self._n_without_primary = self._n_not_counted = 0
        self._warns = WarnsOnce()
        # Of each thread or task: the variant it was given last, for whom, metrics recorded since.
        self._asked: ContextVar[tuple[str, Any, list[str]]] = ContextVar("asked")

    @property
    def names(self) -> tuple[str, ...]:
        """The variants' names, in order; the first is the control."""
        return tuple(self._ledger.assignment.weights)

    @property
    def status(self) -> str:
        """`running`, `paused` or `stopped`."""
        return self._ledger.status

    def select_variant(self, user_id: str | None = None) -> ModelVariant:
        """The variant of a user: always the same until weights change and this user must move.

        A user kept out of the experiment gets the control, the first variant; so does everybody
        while it is paused.

        Args:
            user_id: Any value whose text identifies the user.
        """
        owner = self._owner(user_id, self._ledger.assignment)[0]
        variant = self._variants.get(owner) or self._served(owner)
        if user_id is not None:
            self._asked.set((variant.name, user_id, []))
        return variant

    def is_held_out(self, user_id: str) -> bool:
        """Whether a user is kept out of the experiment (`holdout_share`)."""
        return self._chooser.is_held_out(self._ledger.assignment, str(user_id))

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
        assignment = self._ledger.assignment
        owner, unit, counts = self._owner(user_id, assignment, wanted=variant_name)
        variant = self._served(owner if variant_name is None else variant_name)
        if user_id is not None:
            self._asked.set((variant.name, user_id, []))
        prediction = variant.predict(data)
        if request_id is not None:
            name = owner if owner == HELD_OUT else variant.name
            request = Request(name, assignment.epoch, unit, counts)
            self._requests.remember(str(request_id), request)
        return prediction, variant.name

    def predict_all(self, data: Any) -> dict[str, Any]:
        """The answers of all variants to the same input, by name (shadow evaluation)."""
        return {name: self._served(name).predict(data) for name in self.names}

    def record_result(
        self,
        variant_name: str,
        metrics: Mapping[str, Any],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Record what came of one answer of a variant.

        Args:
            variant_name: Who answered.
            metrics: Numbers by name. What is not finite is counted, never averaged.
            user_id: Whose request it was. Outcomes of one user then count as one user's, however
                many they are. Without it, the user for whom this thread or task last asked for
                this variant, once for each metric.
            request_id: The outcome's own id: a second one with it is ignored, whichever process
                sends it.

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
        values = self._checked(metrics)
        unit, name = self._unit_now(), variant_name
        if user_id is None and unit is None:
            user_id = self._user_asked(variant_name, values)
        if user_id is None and (self._chooser.forced or self._chooser.holdout_share):
            self._warns.once(
                "whose outcome",
                f"Experiment {self.test_name!r} has testers or users kept out, but an outcome was "
                "recorded without user_id: whether it counts cannot be known, so it does. Pass "
                "user_id to record_result, or request ids to predict and record_outcome.",
            )
        if user_id is not None:
            unit = str(user_id)
            if unit in self._chooser.forced:
                self._n_not_counted += 1
                return
            if self.is_held_out(unit):
                name = HELD_OUT
        if self._ledger.status == PAUSED:
            self._warns.once(
                "paused",
                f"Experiment {self.test_name!r} is paused: an outcome recorded with record_result "
                "does not count, as it may belong to an answer given meanwhile. Those of earlier "
                "requests count with predict(..., request_id=) and record_outcome.",
            )
        self._record(
            name,
            values,
            epoch=self._epoch_of(variant_name),
            unit=unit,
            request_id=None if request_id is None else str(request_id),
        )

    def record_outcome(self, request_id: str, metrics: Mapping[str, Any]) -> None:
        """Record what came of an answer that `predict(..., request_id=...)` gave.

        A second outcome of the same request is ignored, so it is safe to retry. It may come late,
        also while the experiment is paused.

        Raises:
            RequestNotFoundError: No such request among the last 100,000 without an outcome.
            ConfigError: Metrics that are no numbers.
            ExperimentStoppedError: The experiment has ended.
        """
        request_id = str(request_id)
        request = self._requests.get(request_id)
        if request is None:
            if self._ledger.has_seen(request_id):
                return
            raise RequestNotFoundError(
                f"No open request {request_id!r} in experiment {self.test_name!r}. "
                "Pass request_id= to predict; where another process answered, or this one was "
                "restarted since, use record_result(variant_name, metrics, request_id=...)."
            )
        values = self._checked(metrics)
        if request.counts:
            self._record(
                request.variant,
                values,
                epoch=request.epoch,
                unit=request.unit,
                request_id=request_id,
                is_late=True,
            )
        else:
            self._n_not_counted += 1
            self._ledger.leave_out(request_id)
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
        checked = {name: self._checked(values) for name, values in metrics.items()}
        epoch, at = self._ledger.assignment.epoch, self._clock.now().isoformat()
        shared = new_id("pair") if request_id is None else str(request_id)
        self._ledger.record(
            [
                Result(variant=name, epoch=epoch, metrics=values, at=at, request_id=shared)
                for name, values in checked.items()
            ]
        )
        self._note_primary(*checked.values())

    def flush(self) -> None:
        """Store what waits, durably, and take in what other processes have stored.

        Raises:
            StorageError: The store refuses; nothing is lost, the next flush tries again.
        """
        self._ledger.flush()

    def _checked(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        values = checked_metrics(metrics)
        if self._proportions:
            require_binary(values, self._proportions)
        return values

    def _owner(
        self, user_id: str | None, assignment: Assignment, *, wanted: str | None = None
    ) -> Choice:
        """Who answers, whose request it is, and whether its outcome counts."""
        self._ledger.exchange_if_due()
        if wanted is not None:
            require_known(wanted, tuple(assignment.weights))
            return self._chooser.claimed(assignment, wanted, user_id)
        if self._ledger.status == PAUSED:
            return next(iter(assignment.weights)), None, False
        return self._chooser.choose(assignment, user_id)

    def _epoch_of(self, variant: str) -> int:
        """The present weight epoch; where a variant has no traffic any more, the last it had."""
        assignment = self._ledger.assignment
        for epoch in range(assignment.epoch, 0, -1):
            if assignment.epochs[epoch].weights.get(variant, 0.0) > 0.0:
                return epoch
        return 0

    def _served(self, owner: str) -> ModelVariant:
        """The variant that answers for an owner: the control for those held out."""
        variant = self._variants.get(owner)
        if variant is not None:
            return variant
        control = next((name for name in self.names if name in self._variants), owner)
        if owner != HELD_OUT:
            self._warns.once(
                owner,
                f"Another process added the variant {owner!r} to experiment {self.test_name!r}; "
                f"it has no model here, so {control!r} answers for it. Call add_variant with its "
                "model.",
            )
        return self._variants[control]

    def _unit_now(self) -> str | None:
        """The block of time, where blocks are what is assigned."""
        return self._chooser.block() if self._chooser.mode == "time_block" else None

    def _record(
        self,
        variant: str,
        values: Mapping[str, float],
        *,
        epoch: int,
        unit: str | None,
        request_id: str | None = None,
        is_late: bool = False,
    ) -> None:
        result = Result(
            variant=variant,
            epoch=epoch,
            metrics=values,
            at=self._clock.now().isoformat(),
            unit=unit,
            request_id=request_id,
            first_epoch=self._first_epoch(variant, unit),
        )
        self._ledger.record([result], is_late=is_late)
        self._note_primary(values)

    def _first_epoch(self, variant: str, unit: str | None) -> int | None:
        assignment = self._ledger.assignment
        if unit is None or not assignment.epoch:
            return None
        return self._chooser.first_epoch(assignment, variant, unit)

    def _user_asked(self, variant: str, metrics: Mapping[str, float]) -> Any:
        """For whom the caller asked for this variant last; None if these outcomes came before."""
        asked = self._asked.get(None)
        if asked is None or asked[0] != variant or not metrics.keys().isdisjoint(asked[2]):
            return None
        asked[2].extend(metrics)
        return asked[1]

    def _note_primary(self, *recorded: Mapping[str, float]) -> None:
        """Say so, once, when outcomes come without the metric that decides."""
        missing: Sequence[Mapping[str, float]] = [
            values for values in recorded if self.primary_metric not in values
        ]
        if not missing:
            return
        with self._ledger.lock:
            self._n_without_primary += len(missing)
        self._warns.once(
            "primary",
            f"Experiment {self.test_name!r}: an outcome without the primary metric "
            f"{self.primary_metric!r} was recorded; it has {sorted(missing[0])}. Such outcomes "
            "decide nothing.",
        )
