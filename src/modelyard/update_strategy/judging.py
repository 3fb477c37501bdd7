"""The judgement of a step: the candidate against the stable version of the same time.

Three answers. *pass*: shown to be no worse by the margin, or no stable version serves to compare
with. *fail*: shown to be worse by more than the margin. *inconclusive*: neither, or too little to
say, so the step goes on. The intervals are always-valid, so a step may be
judged at every look and extended as long as it takes, without a false answer becoming likely.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from modelyard._core.plain import finite_or_none
from modelyard.stats.sequential import always_valid
from modelyard.stats.significance import Contrast, no_contrast
from modelyard.update_strategy.evidence import Evidence, balanced_contrast, key_metric_loss
from modelyard.update_strategy.guard import TUNED_STEPS
from modelyard.update_strategy.settings import UpdateSettings

Answer = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of the candidate with the stable version.

    Attributes:
        what: What is compared.
        answer: `pass`, `fail` or `inconclusive`.
        worse_by: How much worse the candidate is, as measured, in the unit of the margin.
        at_least: Lower end of the always-valid interval of that.
        at_most: Upper end.
        margin: How much worse it may be.
        sentence: All of it in words.
    """

    what: str
    answer: Answer
    worse_by: float
    at_least: float
    at_most: float
    margin: float
    sentence: str

    def to_plain(self) -> dict[str, object]:
        """All of it as JSON values; what has no end as None."""
        return {
            "what": self.what,
            "answer": self.answer,
            "worse_by": finite_or_none(self.worse_by),
            "at_least": finite_or_none(self.at_least),
            "at_most": finite_or_none(self.at_most),
            "margin": self.margin,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the checks of a step come to.

    Attributes:
        answer: `fail` if any fails, else `inconclusive` if any is, else `pass`.
        checks: One each for errors, latency and, where it is required, the key metric; empty
            where there is nothing to compare with.
        shortage: What there is too little of to compare; empty where there is enough.
    """

    answer: Answer
    checks: tuple[Check, ...]
    shortage: str = ""

    @property
    def reason(self) -> str:
        """The checks that decide, in words."""
        deciding = [check for check in self.checks if check.answer == self.answer]
        return self.shortage or "; ".join(check.sentence for check in deciding)


def judge(
    candidate: Evidence,
    stable: Evidence,
    settings: UpdateSettings,
    *,
    next_share: float,
    at_step: tuple[Evidence, Evidence] | None = None,
    is_stable_serving: bool = True,
) -> Judgement:
    """Whether the candidate may get more traffic.

    Args:
        candidate: What it has done since it got traffic.
        stable: What the stable version has done since then.
        settings: The rules.
        next_share: The share the candidate is about to get, 0 to 1. What may go wrong is counted
            by all users: twice the errors are borne by half of them.
        at_step: Both since the shares last changed, whose latencies are compared where it is
            given: a machine that is slow now is slow for both.
        is_stable_serving: Whether the stable version has a share now. While it has, too few of
            its answers are waited for; where it has none, nothing can come of waiting.
    """
    enough = settings.step_min_samples
    if min(candidate.n, stable.n) < enough:
        side, n = ("candidate", candidate.n) if candidate.n < enough else ("stable", stable.n)
        shortage = f"too little to compare with: {n} of {enough} answers of the {side} version"
        is_hopeless = candidate.n >= enough and not is_stable_serving
        answer: Answer = "pass" if is_hopeless else "inconclusive"
        return Judgement(answer=answer, checks=(), shortage=shortage)
    checks = [_errors(candidate, stable, settings, next_share)]
    latency = _latency(*(at_step or (candidate, stable)), settings)
    if latency is not None:
        checks.append(latency)
    if settings.require_key_metric:
        checks.append(_key_metric(candidate, stable, settings))
    answers = {check.answer for check in checks}
    answer = "pass"
    if "fail" in answers:
        answer = "fail"
    elif "inconclusive" in answers:
        answer = "inconclusive"
    return Judgement(answer=answer, checks=tuple(checks))


def _errors(
    candidate: Evidence, stable: Evidence, settings: UpdateSettings, next_share: float
) -> Check:
    """Error rates, each with one failure and one success added (Agresti and Caffo, 2000)."""
    sides = [((e.n_errors + 1.0) / (e.n + 2.0), e.n + 2.0) for e in (stable, candidate)]
    variance = sum(rate * (1.0 - rate) / n for rate, n in sides)
    contrast = balanced_contrast(sides[1][0] - sides[0][0], variance, stable.n, candidate.n)
    margin = settings.largest_excess / next_share
    return _checked(
        "error rate",
        contrast,
        settings,
        margin=margin,
        measured=candidate.error_rate - stable.error_rate,
        shown=lambda value: f"{100.0 * value:.1f} points",
    )


def _latency(candidate: Evidence, stable: Evidence, settings: UpdateSettings) -> Check | None:
    """Median latencies as a ratio; None where none is known or none is worth a thought."""
    contrast = no_contrast()
    if min(candidate.n, stable.n) >= settings.step_min_samples:
        if math.isnan(candidate.latency_log_error) or math.isnan(stable.latency_log_error):
            return None
        if candidate.latency_median_ms <= settings.latency_floor_ms:
            return None
        difference = math.log(candidate.latency_median_ms / stable.latency_median_ms)
        variance = candidate.latency_log_error**2 + stable.latency_log_error**2
        contrast = balanced_contrast(difference, variance, stable.n, candidate.n)
    return _checked(
        "median latency",
        contrast,
        settings,
        margin=math.log1p(settings.latency_margin),
        measured=contrast.difference,
        shown=lambda value: f"{math.expm1(value):.0%}",
    )


def _key_metric(candidate: Evidence, stable: Evidence, settings: UpdateSettings) -> Check:
    """Means of the key metric, worse by a part of the stable version's."""
    contrast = key_metric_loss(candidate, stable, settings)
    if min(candidate.n_key_metric, stable.n_key_metric) < settings.step_min_samples:
        contrast = replace(contrast, variance=math.nan)
    return _checked(
        settings.key_metric or "key metric",
        contrast,
        settings,
        margin=settings.key_metric_margin * abs(stable.key_metric),
        measured=contrast.difference,
        shown=lambda value: f"{value:.4g}",
    )


def _checked(
    what: str,
    contrast: Contrast,
    settings: UpdateSettings,
    *,
    margin: float,
    measured: float,
    shown: Callable[[float], str],
) -> Check:
    interval = always_valid(
        contrast,
        n_tuned=TUNED_STEPS * settings.step_min_samples,
        confidence_level=settings.confidence_level,
    ).interval
    answer: Answer = "inconclusive"
    if interval.upper < margin:
        answer = "pass"
    elif interval.lower > margin:
        answer = "fail"
    told = {
        "pass": f"worse by {shown(interval.upper)} at most, {shown(margin)} is allowed",
        "fail": f"worse by {shown(interval.lower)} at least, {shown(margin)} is allowed",
        "inconclusive": "not yet known: worse by "
        + (
            f"{shown(interval.lower)} to {shown(interval.upper)}"
            if math.isfinite(interval.upper)
            else "anything"
        )
        + f", {shown(margin)} is allowed",
    }
    return Check(
        what=what,
        answer=answer,
        worse_by=measured,
        at_least=interval.lower,
        at_most=interval.upper,
        margin=margin,
        sentence=f"{what} {told[answer]}",
    )
