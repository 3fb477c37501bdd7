"""Ways to compress, and which of them is best: pure functions of what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from modelyard._core.errors import CompressionError, ConfigError
from modelyard.torchtools import quantization


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
    """The fastest that keeps every limit; of equally fast ones (to 5 %) the smallest."""
    allowed = [one for one in candidates if one.is_measured and not one.reason]
    if not allowed:
        return None
    fastest = max(one.speedup for one in allowed)
    return min(
        (one for one in allowed if one.speedup >= 0.95 * fastest),
        key=lambda one: (one.size_mb, one.drop),
    )


def closest_of(candidates: Sequence[Candidate], limits: SearchLimits) -> Candidate | None:
    """The measured candidate that breaks the fewest limits, of these the one that drops least."""
    measured = [one for one in candidates if one.is_measured]
    return min(measured, key=lambda one: (len(broken_limits(one, limits)), one.drop), default=None)


def nothing_kept(candidates: Sequence[Candidate], limits: SearchLimits) -> CompressionError:
    """The error that says what came closest."""
    closest = closest_of(candidates, limits)
    came = (
        "nothing could be measured"
        if closest is None
        else f"{closest.name} came closest ({closest.size_mb:.3g} MB, {closest.speedup:.2g} times "
        f"as fast, metric down {closest.drop:.2%}), but {closest.reason}"
    )
    return CompressionError(
        f"No way to compress keeps every limit: {came}. Nothing was changed. Raise "
        "max_metric_drop, ask for less, pass train_loader= so that pruned models can be mended, "
        "or allow more time_budget_s."
    )


def _is_beaten(one: Candidate, other: Candidate) -> bool:
    ours = (one.drop, one.size_mb, one.latency_ms)
    theirs = (other.drop, other.size_mb, other.latency_ms)
    return theirs != ours and all(b <= a for a, b in zip(ours, theirs, strict=True))
