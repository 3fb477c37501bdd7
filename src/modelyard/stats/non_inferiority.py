"""Whether a variant may be trusted not to harm a metric that it is not judged by (guardrails)."""

import math
from dataclasses import dataclass
from typing import Literal

from modelyard._core.errors import ConfigError
from modelyard.stats.significance import Contrast

Status = Literal["passes", "fails", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NonInferiority:
    """What the data say about a degradation.

    Attributes:
        status: `passes`, `fails` or `undecided`.
        bound: The largest degradation of `b` against `a` that the data still allow, in the
            metric's unit; negative where `b` is surely better; infinite while nothing is known.
    """

    status: Status
    bound: float


def non_inferiority(
    contrast: Contrast, *, margin: float, lower_is_better: bool, critical: float
) -> NonInferiority:
    """Whether `b` is at most `margin` worse than `a`.

    The degradation is what `b` loses in the metric's own direction, and its interval reaches
    `critical` standard errors to both sides. `passes`: the whole interval lies below `margin`, so
    a degradation of `margin` or more is excluded. `fails`: the whole interval lies above `margin`,
    so `b` is worse by more than was allowed. `undecided`: the interval holds `margin`. With a
    margin of 0, passing needs proof that `b` is better.

    Args:
        contrast: `b` minus `a`.
        margin: Degradation that would be too much, in the metric's unit, at least 0.
        lower_is_better: Whether less of the metric is better.
        critical: Half the interval's width in standard errors: 1.96 for one look at 95 %,
            `AlwaysValid.critical` for many.

    Raises:
        ConfigError: A negative margin.

    Source:
        Wellek (2010), Testing Statistical Hypotheses of Equivalence and Noninferiority,
        section 2.1.
    """
    if not margin >= 0.0:
        raise ConfigError(f"margin must be 0 or more, in the metric's unit; got {margin}.")
    if math.isnan(contrast.variance) or not math.isfinite(critical):
        return NonInferiority(status="undecided", bound=math.inf)
    loss = contrast.difference if lower_is_better else 0.0 - contrast.difference
    half = critical * math.sqrt(contrast.variance)
    if loss + half < margin:
        return NonInferiority(status="passes", bound=loss + half)
    status: Status = "fails" if loss - half > margin else "undecided"
    return NonInferiority(status=status, bound=loss + half)
