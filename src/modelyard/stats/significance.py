"""Tests of a difference of means that hold at one look (for many looks: `sequential`)."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from modelyard.stats.intervals import Interval, alpha_of
from modelyard.stats.moments import Moments

# Means are known to this share of their size: no difference below it is more than rounding.
_ROUNDING = 8.0 * sys.float_info.epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """An estimated difference of means, treatment minus control, and how sure it is.

    Attributes:
        difference: In the metric's unit; 0.0 while nothing can be compared.
        variance: Squared standard error of the difference; NaN while nothing can be compared.
        df: Degrees of freedom of `variance`; NaN while nothing can be compared.
        mean_a: Mean of the control, as weighted for the comparison.
        mean_b: Mean of the treatment, as weighted for the comparison.
        n: Number of values of a balanced experiment as informative as this one, both sides
            together (pairs: twice their number).
    """

    difference: float
    variance: float
    df: float
    mean_a: float
    mean_b: float
    n: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TTest:
    """A t-test of a difference of means.

    Attributes:
        t_statistic: Difference in standard errors; positive when the treatment is larger.
        df: Degrees of freedom.
        p_value: Two-sided; 1.0 while nothing can be compared.
        interval: For the difference, in the metric's unit.
    """

    t_statistic: float
    df: float
    p_value: float
    interval: Interval


def unpaired(a: Moments, b: Moments) -> Contrast:
    """`b` minus `a`, independent samples, variances not assumed equal.

    Source:
        Welch (1947), Biometrika 34, 28-35; degrees of freedom by Satterthwaite (1946).
    """
    return stratified([(a, b)])


def stratified(strata: Sequence[tuple[Moments, Moments]]) -> Contrast:
    """`b` minus `a`, compared inside each stratum and then averaged.

    Strata are periods with fixed traffic weights. Pooling over them would compare a variant's
    good days with the other's bad ones when weights changed in between (Simpson's paradox). Each
    stratum counts by n_a n_b / (n_a + n_b), the weight of least variance for equal spreads; a
    stratum with fewer than two values on a side has no variance and is left out. One stratum
    gives Welch's test.

    Source:
        Cochran (1954), Biometrics 10, 417-451 (weights); Satterthwaite (1946), Biometrics
        Bulletin 2, 110-114 (degrees of freedom of a sum of variances).
    """
    usable = [(a, b) for a, b in strata if min(a.n, b.n) >= 2]  # noqa: PLR2004 - for a variance
    if not usable:
        return no_contrast()
    information = [a.n * b.n / (a.n + b.n) for a, b in usable]
    weights = [part / sum(information) for part in information]
    parts = [
        (weight * weight * side.variance / side.n, side.n - 1.0)
        for weight, stratum in zip(weights, usable, strict=True)
        for side in stratum
    ]
    mean_a = sum(weight * a.mean for weight, (a, _) in zip(weights, usable, strict=True))
    mean_b = sum(weight * b.mean for weight, (_, b) in zip(weights, usable, strict=True))
    return contrast_of(mean_a=mean_a, mean_b=mean_b, parts=parts, n=4.0 * sum(information))


def combined(contrasts: Sequence[Contrast]) -> Contrast:
    """Contrasts of separate periods, such as weight epochs, as one.

    Each counts by its `n`; those without a variance are left out. For contrasts of means this is
    `stratified`, which needs no moments here.

    Source:
        As `stratified`.
    """
    usable = [part for part in contrasts if part.n > 0.0 and not math.isnan(part.variance)]
    if not usable:
        return no_contrast()
    n = sum(part.n for part in usable)
    weights = [part.n / n for part in usable]
    weighted = list(zip(weights, usable, strict=True))
    return contrast_of(
        mean_a=sum(weight * part.mean_a for weight, part in weighted),
        mean_b=sum(weight * part.mean_b for weight, part in weighted),
        parts=[(weight * weight * part.variance, part.df) for weight, part in weighted],
        n=n,
    )


def contrast_of(
    *, mean_a: float, mean_b: float, parts: Sequence[tuple[float, float]], n: float
) -> Contrast:
    """The contrast of two estimates.

    Args:
        mean_a: The control's.
        mean_b: The treatment's.
        parts: Independent parts of the difference's variance, each with its degrees of freedom.
        n: As `Contrast.n`.
    """
    rounding = _ROUNDING * max(abs(mean_a), abs(mean_b))
    return Contrast(
        difference=mean_b - mean_a,
        variance=max(sum(part for part, _ in parts), rounding * rounding),
        df=_satterthwaite(parts),
        mean_a=mean_a,
        mean_b=mean_b,
        n=n,
    )


def no_contrast() -> Contrast:
    """What is known while nothing can be compared."""
    return Contrast(difference=0.0, variance=math.nan, df=math.nan, mean_a=0.0, mean_b=0.0, n=0.0)


def paired(differences: Moments, *, mean_a: float, mean_b: float) -> Contrast:
    """Treatment minus control where both were measured on the same units.

    Args:
        differences: Moments of treatment minus control, one value per unit.
        mean_a: Mean of the control over these units, for the report.
        mean_b: Mean of the treatment over these units, for the report.

    Source:
        Student (1908), Biometrika 6, 1-25.
    """
    n = differences.n
    return Contrast(
        difference=differences.mean if n > 1 else 0.0,
        variance=differences.variance / n if n > 1 else math.nan,
        df=float(n - 1) if n > 1 else math.nan,
        mean_a=mean_a,
        mean_b=mean_b,
        n=2.0 * n,
    )


def t_test(contrast: Contrast, *, confidence_level: float = 0.95) -> TTest:
    """Whether the difference could be chance, when looked at once.

    Raises:
        ConfigError: `confidence_level` lies outside (0, 1).

    Source:
        As the contrast. Reference numbers: `tests/reference/significance.json`, from scipy.
    """
    alpha = alpha_of(confidence_level)
    if math.isnan(contrast.variance):
        return TTest(
            t_statistic=0.0, df=math.nan, p_value=1.0, interval=Interval(math.nan, math.nan)
        )
    error = math.sqrt(contrast.variance)
    t_statistic = in_standard_errors(contrast)
    half = float(special.stdtrit(contrast.df, 1.0 - alpha / 2.0)) * error if error > 0.0 else 0.0
    return TTest(
        t_statistic=t_statistic,
        df=contrast.df,
        p_value=2.0 * float(special.stdtr(contrast.df, -abs(t_statistic))),
        interval=Interval(contrast.difference - half, contrast.difference + half),
    )


def in_standard_errors(contrast: Contrast) -> float:
    """The difference in standard errors; infinite where two constants differ."""
    if contrast.difference == 0.0:
        return 0.0
    if contrast.variance <= 0.0:
        return math.copysign(math.inf, contrast.difference)
    return contrast.difference / math.sqrt(contrast.variance)


def _satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    total = sum(part for part, _ in parts)
    if total == 0.0:
        return float(sum(df for _, df in parts))
    return total * total / sum(part * part / df for part, df in parts)
