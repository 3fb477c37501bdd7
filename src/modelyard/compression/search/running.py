"""The search itself: levels of pruning times recipes of quantization, as long as there is hope."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError, ModelyardError, QuantizationError
from modelyard.compression.evaluation import timed_in_turns
from modelyard.compression.metric_forms import NO_PARAMETERS
from modelyard.compression.quantization import Choices, float_graph
from modelyard.compression.records import SearchResult
from modelyard.compression.search.candidates import (
    Candidate,
    SearchLimits,
    best_of,
    broken_limits,
    metric_drop,
    nothing_kept,
    pareto_front,
)
from modelyard.compression.search.telling import Progress, teller, told
from modelyard.torchtools import quantization
from modelyard.torchtools.conversion import DynamicAxes
from modelyard.torchtools.inputs import Inputs, answer_of, copied_for, with_batch
from modelyard.torchtools.layers import MB, evaluating, size_mb
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import tree_of
from modelyard.torchtools.quantization import Source
from modelyard.torchtools.samples import reference_for
from modelyard.torchtools.timing import MS_PER_S


@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """The float model with some of its channels removed.

    Attributes:
        pruned: Share that was to be removed.
        model: The float module, mended.
        seconds: How long it took to make.
    """

    pruned: float
    model: nn.Module
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a search came to.

    Attributes:
        best: The candidate to apply.
        level: The float model it was made from.
        told: Everything as plain values.
    """

    best: Candidate
    level: Level
    told: SearchResult


class Search:
    """One run of the search. Not thread-safe.

    Args:
        original: The module before compressing.
        example: An input it runs on.
        dynamic_axes: Sizes that may vary in graphs; None for the batch alone.
        batches: What errors are measured on.
        is_real: Whether they are like those the model is used on, or made up.
        eval_fn: `eval_fn(model) -> float`, the metric.
        limits: What a result has to keep.
        time_budget_s: No candidate is begun after so long; the first one always is.
        tell: Called with every candidate as it is done.
        timer: Seconds that go by; for tests.

    Raises:
        InputError: `eval_fn` gives no finite number for the original.
    """

    def __init__(
        self,
        original: nn.Module,
        *,
        example: Inputs,
        dynamic_axes: DynamicAxes | None,
        batches: Sequence[Inputs],
        is_real: bool,
        eval_fn: Callable[[nn.Module], Any],
        limits: SearchLimits,
        time_budget_s: float,
        tell: Callable[[Candidate], None],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._original = original
        self._example = example
        self._dynamic_axes = dynamic_axes
        self._batches = batches
        self._is_real = is_real
        self._eval_fn = eval_fn
        self._limits = limits
        self._timer = timer
        self._tell = tell
        self._ends = timer() + time_budget_s
        self.candidates: list[Candidate] = []
        self.is_complete = True
        self.metric = self._metric(original)
        if not math.isfinite(self.metric):
            raise InputError(f"eval_fn gives {self.metric} for the original; nothing can be kept.")

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return bool(self.candidates) and self._timer() > self._ends

    def run(
        self, levels: Iterator[Level], recipes: Callable[[bytes], Mapping[str, Choices]]
    ) -> None:
        """Try every level with every recipe, as long as there is hope and time.

        Args:
            levels: The least pruned first; the next is asked for only if there is hope for it.
            recipes: The recipes for a graph, by name.
        """
        for level in levels:
            if self.is_over:
                self.is_complete = False  # its training was cut short
            candidate = self._measured(level.pruned, "float", level.model, error=0.0)
            self._done(candidate)
            if level.pruned and not candidate.drop <= self._limits.max_metric_drop:
                return  # more pruning loses more
            self._quantized(level, recipes)
            # The next level takes as long as this one did, or longer.
            if self._timer() + level.seconds > self._ends:
                self.is_complete = False
                return

    def leave_out(self, pruned: float, recipe: str, reason: str) -> None:
        """Note a candidate that was not measured, and why."""
        self._done(Candidate(pruned=pruned, recipe=recipe, reason=reason))

    def leave_out_level(self, pruned: float, reason: str) -> None:
        """Note an amount of pruning that cannot be had, and why."""
        self.leave_out(pruned, "float", reason)

    def _quantized(self, level: Level, recipes: Callable[[bytes], Mapping[str, Choices]]) -> None:
        source = Source(float_graph(level.model, self._example, dynamic_axes=self._dynamic_axes))
        reference = reference_for(level.model, self._batches, is_real=self._is_real)
        tree = tree_of(answer_of(level.model, copied_for(level.model, self._example)))
        for name, choices in recipes(source.graph).items():
            if self.is_over:
                self.is_complete = False
                self.leave_out(level.pruned, name, "the time was up")
                continue
            try:
                result = quantization.first_within(
                    source, choices, reference, max_error=self._limits.max_error
                )
            except QuantizationError as error:
                self.leave_out(level.pruned, name, str(error))
                continue
            wanted = self._limits.target_size_mb
            size = len(result.data) / MB
            if wanted is not None and size > wanted:
                self.leave_out(level.pruned, name, f"{size:.3g} MB is over {wanted:.3g}")
                continue
            module = OnnxModule(result.data, recipe=result.recipe, output_tree=tree).eval()
            self._done(self._measured(level.pruned, name, module, error=result.error))

    def _measured(
        self, pruned: float, recipe: str, model: nn.Module, *, error: float
    ) -> Candidate:
        try:
            metric = self._metric(model)
        except Exception as failure:  # noqa: BLE001 - the user's function can raise anything
            # It ran on the original: the search goes on without this one.
            reason = f"eval_fn fails: {type(failure).__name__}: {failure}"
            return Candidate(pruned=pruned, recipe=recipe, reason=reason)
        one = with_batch(self._example, 1)
        original_s, own_s = timed_in_turns(self._original, model, one)
        candidate = Candidate(
            pruned=pruned,
            recipe=recipe,
            model=model,
            metric=metric,
            drop=metric_drop(self.metric, metric, is_maximized=self._limits.is_maximized),
            size_mb=size_mb(model),
            latency_ms=own_s * MS_PER_S,
            speedup=original_s / own_s,
            error=error,
        )
        return replace(candidate, reason="; ".join(broken_limits(candidate, self._limits)))

    def _metric(self, model: nn.Module) -> float:
        with evaluating(model), torch.no_grad():
            try:
                value = self._eval_fn(model)
            except StopIteration as error:
                raise InputError(NO_PARAMETERS) from error
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"eval_fn must give a number, it gave a {type(value).__name__}."
            ) from error

    def _done(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        self._tell(candidate)


def searched(
    original: nn.Module,
    *,
    example: Inputs,
    dynamic_axes: DynamicAxes | None,
    batches: Sequence[Inputs],
    is_real: bool,
    eval_fn: Callable[[nn.Module], Any],
    limits: SearchLimits,
    time_budget_s: float,
    amounts: Sequence[float],
    make: Callable[[nn.Module, float], nn.Module],
    recipes: Callable[[bytes], Mapping[str, Choices]],
    progress: Progress,
    timer: Callable[[], float] = time.monotonic,
) -> Found:
    """Search, and the fastest candidate that keeps every limit.

    Args:
        original: The module before compressing.
        example: An input it runs on.
        dynamic_axes: Sizes that may vary in graphs; None for the batch alone.
        batches: What errors are measured on.
        is_real: Whether they are like those the model is used on, or made up.
        eval_fn: `eval_fn(model) -> float`, the metric.
        limits: What a result has to keep.
        time_budget_s: Nothing is begun after so long.
        amounts: Shares of the parameters to remove.
        make: `(original, amount)` to a smaller, mended copy.
        recipes: The recipes for a graph, by name.
        progress: None for lines in a terminal, False for nothing, or called with each candidate.
        timer: Seconds that go by; for tests.

    Raises:
        CompressionError: Nothing keeps the limits, saying what came closest.
        InputError: `eval_fn` gives no finite number for the original.
    """
    if math.isnan(time_budget_s) or time_budget_s < 0:
        raise ConfigError(f"time_budget_s must be 0 or more, got {time_budget_s}.")
    begun = timer()
    search = Search(
        original,
        example=example,
        dynamic_axes=dynamic_axes,
        batches=batches,
        is_real=is_real,
        eval_fn=eval_fn,
        limits=limits,
        time_budget_s=time_budget_s,
        tell=teller(progress),
        timer=timer,
    )
    made: dict[float, Level] = {}

    def remembered() -> Iterator[Level]:
        for level in levels_of(original, amounts, make, skip=search.leave_out_level, timer=timer):
            made[level.pruned] = level
            yield level

    search.run(remembered(), recipes)
    best = best_of(search.candidates)
    if best is None:
        raise nothing_kept(search.candidates, limits)
    front = pareto_front(search.candidates)
    result: SearchResult = {
        "best": best.name,
        "original_metric": search.metric,
        "candidates": [told(candidate, front) for candidate in search.candidates],
        "front": [candidate.name for candidate in front],
        "elapsed_s": timer() - begun,
        "is_complete": search.is_complete,
    }
    return Found(best=best, level=made[best.pruned], told=result)


def levels_of(
    original: nn.Module,
    amounts: Sequence[float],
    make: Callable[[nn.Module, float], nn.Module],
    *,
    skip: Callable[[float, str], None],
    timer: Callable[[], float] = time.monotonic,
) -> Iterator[Level]:
    """The float model at each amount of pruning, made when asked for.

    Args:
        original: The module to begin with.
        amounts: Shares of the parameters to remove, in any order; 0 is the original.
        make: `(original, amount)` to a smaller, mended copy.
        skip: Told of an amount that cannot be had, with the reason; no larger one is tried.
        timer: Seconds that go by.
    """
    for amount in sorted(set(amounts)):
        begun = timer()
        try:
            model = make(original, amount) if amount else original
        except ModelyardError as error:
            skip(amount, str(error))
            return
        yield Level(pruned=amount, model=model, seconds=timer() - begun)
