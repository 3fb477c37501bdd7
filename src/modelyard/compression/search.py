"""Searching for the best way to compress a model under limits on quality, size and speed.

Levels of structured pruning, each mended by distillation, are combined with the recipes of
quantization. The search leaves out what cannot win any more: levels beyond one that lost too much
already, recipes whose file is over the size wanted, and whatever the time is too short for.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from modelyard._core.errors import ConfigError, InputError, ModelyardError, QuantizationError
from modelyard.compression.evaluation import timed_in_turns
from modelyard.compression.quantization import Choices, float_graph
from modelyard.compression.records import CandidateTold
from modelyard.torchtools import quantization
from modelyard.torchtools.inputs import Inputs, call, with_batch
from modelyard.torchtools.layers import MB, evaluating, size_mb
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import tree_of
from modelyard.torchtools.quantization import Source
from modelyard.torchtools.samples import reference_for
from modelyard.torchtools.timing import MS_PER_S


@dataclass(frozen=True, kw_only=True)
class SearchLimits:
    """What a result has to keep.

    Attributes:
        max_metric_drop: Largest loss of the metric, as a share of the original's size; where the
            original's is 0, in its own unit.
        target_size_mb: Largest size in MB (10^6 bytes); None for any.
        min_speedup: Least time of the original over that of the result; None for any.
        max_error: Largest relative error that quantizing may add.
        is_maximized: Whether more of the metric is better.
    """

    max_metric_drop: float = 0.01
    target_size_mb: float | None = None
    min_speedup: float | None = None
    max_error: float = quantization.DEFAULT_MAX_ERROR
    is_maximized: bool = True

    def __post_init__(self) -> None:
        if not self.max_metric_drop >= 0.0:  # NaN too
            raise ConfigError(
                f"max_metric_drop must be 0 or more, got {self.max_metric_drop}. 0.01 means 1 %."
            )
        for name in ("target_size_mb", "min_speedup"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One way to compress, as it measured.

    Attributes:
        pruned: Share of the parameters that were to be removed.
        recipe: Name of the recipe of quantization; "float" for none.
        model: The module; None where it was left out.
        metric: What `eval_fn` gave; NaN where it was not asked.
        drop: Loss of the metric as `SearchLimits.max_metric_drop` counts it; below 0 is a gain.
        size_mb: Of the weights.
        latency_ms: Of a batch of one; NaN where it was not measured.
        speedup: The original's time over this one's, in turns in one run.
        error: Relative error that quantizing added; 0 for none.
        reason: Why it is left out or not allowed; empty if it is allowed.
    """

    pruned: float
    recipe: str
    model: nn.Module | None = None
    metric: float = math.nan
    drop: float = math.nan
    size_mb: float = math.nan
    latency_ms: float = math.nan
    speedup: float = math.nan
    error: float = math.nan
    reason: str = ""

    @property
    def name(self) -> str:
        """In words, as "30 % pruned, dynamic_int8"."""
        return f"{self.pruned:.0%} pruned, {self.recipe}" if self.pruned else self.recipe

    @property
    def is_measured(self) -> bool:
        """Whether it ran to the end."""
        return math.isfinite(self.metric) and math.isfinite(self.speedup)


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


def metric_drop(original: float, metric: float, *, is_maximized: bool) -> float:
    """Loss of a metric as a share of the original's size; in its own unit where that is 0."""
    loss = original - metric if is_maximized else metric - original
    return loss / abs(original) if original else loss


def broken_limits(candidate: Candidate, limits: SearchLimits) -> list[str]:
    """Every limit that a measured candidate breaks, in words."""
    broken = []
    if not candidate.drop <= limits.max_metric_drop:  # NaN breaks it too
        broken.append(f"loses {candidate.drop:.2%} of the metric")
    if limits.target_size_mb is not None and candidate.size_mb > limits.target_size_mb:
        broken.append(f"{candidate.size_mb:.3g} MB is over {limits.target_size_mb:.3g}")
    if limits.min_speedup is not None and not candidate.speedup >= limits.min_speedup:
        broken.append(f"{candidate.speedup:.2g} times as fast, not {limits.min_speedup:.2g}")
    return broken


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The measured candidates that no other equals or beats in drop, size and latency at once."""
    measured = [candidate for candidate in candidates if candidate.is_measured]
    return [one for one in measured if not any(_is_beaten(one, other) for other in measured)]


def best_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The fastest that keeps every limit; of equally fast ones (to 2 %) the smallest."""
    allowed = [one for one in candidates if one.is_measured and not one.reason]
    if not allowed:
        return None
    fastest = max(one.speedup for one in allowed)
    return min(
        (one for one in allowed if one.speedup >= 0.98 * fastest),
        key=lambda one: (one.size_mb, one.drop),
    )


def closest_of(candidates: Sequence[Candidate], limits: SearchLimits) -> Candidate | None:
    """The measured candidate that breaks the fewest limits, of these the one that drops least."""
    measured = [one for one in candidates if one.is_measured]
    return min(measured, key=lambda one: (len(broken_limits(one, limits)), one.drop), default=None)


class Search:
    """One run of the search. Not thread-safe.

    Args:
        original: The module before compressing.
        example: An input it runs on.
        batches: What errors are measured on.
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
        batches: Sequence[Inputs],
        eval_fn: Callable[[nn.Module], Any],
        limits: SearchLimits,
        time_budget_s: float,
        tell: Callable[[Candidate], None],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._original = original
        self._example = example
        self._batches = batches
        self._eval_fn = eval_fn
        self._limits = limits
        self._timer = timer
        self._tell = tell
        self._ends = timer() + time_budget_s
        self.candidates: list[Candidate] = []
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
            candidate = self._measured(level.pruned, "float", level.model, error=0.0)
            self._done(candidate)
            if level.pruned and candidate.drop > self._limits.max_metric_drop:
                return  # more pruning loses more
            self._quantized(level, recipes)
            if self._timer() + level.seconds > self._ends:
                return

    def leave_out(self, pruned: float, recipe: str, reason: str) -> None:
        """Note a candidate that was not measured, and why."""
        self._done(Candidate(pruned=pruned, recipe=recipe, reason=reason))

    def _quantized(self, level: Level, recipes: Callable[[bytes], Mapping[str, Choices]]) -> None:
        source = Source(float_graph(level.model, self._example))
        reference = reference_for(level.model, self._batches)
        tree = tree_of(call(level.model, self._example))
        for name, choices in recipes(source.graph).items():
            if self.is_over:
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
        metric = self._metric(model)
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
        with evaluating(model):
            value = self._eval_fn(model)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"eval_fn must give a number, it gave a {type(value).__name__}."
            ) from error

    def _done(self, candidate: Candidate) -> None:
        self.candidates.append(candidate)
        self._tell(candidate)


def told(candidate: Candidate, front: Sequence[Candidate]) -> CandidateTold:
    """A candidate as plain values; what was not measured is None."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": candidate.name,
        "pruned": candidate.pruned,
        "recipe": candidate.recipe,
        "metric": number(candidate.metric),
        "metric_drop": number(candidate.drop),
        "size_mb": number(candidate.size_mb),
        "latency_ms": number(candidate.latency_ms),
        "speedup": number(candidate.speedup),
        "error": number(candidate.error),
        "is_allowed": candidate.is_measured and not candidate.reason,
        "is_on_front": any(candidate is one for one in front),
        "reason": candidate.reason,
    }


def _is_beaten(one: Candidate, other: Candidate) -> bool:
    ours = (one.drop, one.size_mb, one.latency_ms)
    theirs = (other.drop, other.size_mb, other.latency_ms)
    return theirs != ours and all(b <= a for a, b in zip(ours, theirs, strict=True))


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
