"""The same traffic moved by other rules: plain thresholds, and Flagger's checks by the clock."""

import math
from dataclasses import dataclass

import numpy as np
from _rollout_ours import Ending
from _rollout_traffic import WINDOW, Answers, Flags, Floats, Traffic

BAKE_S = 600.0
_SHARES, _STEP_S = (0.1, 0.5, 1.0), 100.0
_ERROR_RATE, _FACTOR, _DROP = 0.10, 2.0, 0.30


def by_thresholds(traffic: Traffic) -> Ending:
    """The design document's three conditions, looked at after every answer, steps by the clock.

    The mean latency over the last 1,000 answers, the error rate and the mean of the key metric
    count from the first answer on. They stand until ten minutes after the last step.
    """
    promoted_s = _STEP_S * len(_SHARES)
    times_s = traffic.times_s
    shares = np.array(_SHARES)[np.minimum(times_s // _STEP_S, len(_SHARES) - 1).astype(int)]
    routed = (traffic.places < shares) & (times_s < promoted_s + BAKE_S)
    answers = traffic.candidate(promoted_s, bake_s=BAKE_S)
    broken = np.flatnonzero(routed)[_breaks(traffic, answers, routed)]
    if len(broken) == 0:
        routed = routed | (times_s >= promoted_s)
        n = int((routed & (times_s < promoted_s + BAKE_S)).sum())
        at_s = promoted_s + BAKE_S
        return _ended("promoted", at_s, n, promoted_s=promoted_s, routed=routed)
    at = int(broken[0])
    routed[at + 1 :] = False
    at_s = float(times_s[at])
    was_promoted_s = promoted_s if at_s >= promoted_s else None
    n = int(routed.sum())
    return _ended("rolled_back", at_s, n, promoted_s=was_promoted_s, routed=routed)


def _breaks(traffic: Traffic, answers: Answers, routed: Flags) -> Flags:
    """After which of the candidate's answers a threshold is broken."""
    before = traffic.before
    found = _rolling(answers.errors[routed]) > _ERROR_RATE
    found |= _rolling(answers.latencies_ms[routed]) > _FACTOR * before.latencies_ms.mean()
    if traffic.case.spread > 0.0:
        known = traffic.times_s[routed]
        n_known = np.searchsorted(known, known - traffic.case.delay_s, side="right")
        usual = before.values.mean()
        means = _rolling(answers.values[routed])[np.maximum(0, n_known - 1)]
        found |= (n_known > 0) & (means < usual - _DROP * abs(usual))
    return found


def _rolling(values: Floats | Flags) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    first = np.maximum(0, ends - WINDOW)
    found: Floats = (sums[ends] - sums[first]) / (ends - first)
    return found


@dataclass(frozen=True, kw_only=True)
class Flagger:
    """Flagger's analysis with the values of its tutorials.

    Each minute the last minute of the candidate is checked. A minute that passes adds 10 % of the
    traffic; five that fail, in all, roll back a minute later; at 50 % everything is given to the
    candidate, and nobody looks any more. A minute without an answer fails.

    Attributes:
        success_rate: The least, 0 to 1.
        p99_ms: The largest 99th percentile; None for twice the stable version's.
        drop: The largest loss of the key metric; None for no such check.
    """

    success_rate: float
    p99_ms: float | None
    drop: float | None

    def ending(self, traffic: Traffic) -> Ending:
        """Carry a rollout through."""
        routed = np.zeros(len(traffic.times_s), bool)
        answers = traffic.candidate(None, bake_s=BAKE_S)
        weight, n_failed, now_s = 0.1, 0, 0.0
        end_s = float(traffic.times_s[-1])
        while now_s + 60.0 <= end_s:
            first, last = np.searchsorted(traffic.times_s, (now_s, now_s + 60.0))
            routed[first:last] = traffic.places[first:last] < weight
            now_s += 60.0
            if n_failed >= 5:
                return _ended("rolled_back", now_s, int(routed.sum()), routed=routed)
            if not self._passes(traffic, answers, routed, int(first), int(last)):
                n_failed += 1
            elif weight >= 0.5:
                n = int(routed.sum())
                routed[last:] = True
                return _ended("promoted", now_s, n, promoted_s=now_s, routed=routed)
            else:
                weight = round(weight + 0.1, 1)
        return _ended("running", math.nan, int(routed.sum()), routed=routed)

    def _passes(
        self, traffic: Traffic, answers: Answers, routed: Flags, first: int, last: int
    ) -> bool:
        places = first + np.flatnonzero(routed[first:last])
        if len(places) == 0:
            return False
        p99_ms = self.p99_ms or 2.0 * float(np.quantile(traffic.before.latencies_ms, 0.99))
        is_well = 1.0 - answers.errors[places].mean() >= self.success_rate
        is_well &= np.quantile(answers.latencies_ms[places], 0.99) <= p99_ms
        if self.drop is not None and traffic.case.spread > 0.0:
            late_s = traffic.case.delay_s
            begin, end = np.searchsorted(
                traffic.times_s,
                (traffic.times_s[first] - late_s, traffic.times_s[last - 1] - late_s),
            )
            values = answers.values[begin:end][routed[begin:end]]
            usual = traffic.before.values.mean()
            is_well &= len(values) > 0 and values.mean() >= usual - self.drop * abs(usual)
        return bool(is_well)


def _ended(
    status: str, at_s: float, n: int, *, routed: Flags, promoted_s: float | None = None
) -> Ending:
    return Ending(status=status, at_s=at_s, n_candidate=n, promoted_s=promoted_s, routed=routed)
