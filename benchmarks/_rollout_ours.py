"""A rollout by `modelyard`'s own rules, on simulated traffic, without anything that serves.

`judged` and `moved` are the production's own. What they look at is built from the simulated
answers as the monitors' windows would hold them. Looks that can find nothing (no figure over its
factor, no step that is due) change nothing and are left out.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from _rollout_traffic import WINDOW, Answers, Flags, Floats, Traffic
from numpy.typing import NDArray

from modelyard.monitor.recording.health import health_of
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.evidence import (
    Evidence,
    reference_for,
    side_by_side,
    with_key_metric,
)
from modelyard.update_strategy.guard import ERROR_FACTOR, LATENCY_FACTOR
from modelyard.update_strategy.next_move import PATIENCE, Observation, judged
from modelyard.update_strategy.rollout import Move, Rollout
from modelyard.update_strategy.settings import UpdateSettings

START = datetime(2024, 1, 1, tzinfo=UTC)
METRIC = "return"
OLD, NEW = "old", "new"
_CHUNK = 1500
# A step that is due and undecided is judged at one look of so many; the guard looks at each.
_JUDGED_EVERY = 10
# The value in between is this part of what the other is about to be.
_PART = 0.8
# A loss of this many standard errors is needed at least to be beyond chance.
_LEAST_ERRORS = 2.5

Places = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a rollout ended.

    Attributes:
        status: "promoted", "rolled_back", "paused" or, where the requests ended first, "running".
        at_s: When, from its beginning on; NaN if it did not.
        n_candidate: Requests that the candidate had taken by then.
        promoted_s: When all the traffic went to the candidate to stay; None if never.
        routed: Which requests were meant for the candidate.
        moves: Each move with its time and its reason.
    """

    status: str
    at_s: float
    n_candidate: int
    promoted_s: float | None
    routed: Flags
    moves: tuple[tuple[float, str, str], ...] = ()


class _Stream:
    """Everything one version has answered, in order."""

    def __init__(self, before: Answers, room: int) -> None:
        self.latencies_s = np.concatenate([before.latencies_ms / 1000.0, np.empty(room)])
        self.errors = np.concatenate([before.errors.astype(float), np.empty(room)])
        known = before.values[~before.errors]
        self.values = np.concatenate([known, np.empty(room)])
        self.n, self.n_values = len(before.errors), len(known)

    def add(self, answers: Answers, *, taken: Flags, answered: Flags) -> None:
        """Take the answers to the requests taken; those answered have outcomes too."""
        self.n = _put(self.latencies_s, self.n, answers.latencies_ms[taken] / 1000.0)
        _put(self.errors, self.n - int(taken.sum()), answers.errors[taken])
        self.n_values = _put(self.values, self.n_values, answers.values[answered])

    def evidence(
        self,
        n: int,
        n_values: int,
        settings: UpdateSettings,
        *,
        since: int = 0,
        values_since: int = 0,
    ) -> Evidence:
        """What is known after `n` answers and `n_values` outcomes, of those since one each."""
        window, known = _window(n, since), _window(n_values, values_since)
        is_known = n_values > values_since and settings.key_metric is not None
        metrics = {METRIC: self.values[known]} if is_known else {}
        health = health_of(self.latencies_s[window], self.errors[window], metrics)
        return Evidence.of(health, settings, n_total=n)


class Run:
    """One rollout on one traffic.

    Args:
        traffic: The requests.
        settings: The rules.
        as_often: Judge at every look that production takes, too.
    """

    def __init__(
        self, traffic: Traffic, settings: UpdateSettings, *, as_often: bool = False
    ) -> None:
        n = len(traffic.times_s)
        self._traffic, self._settings = traffic, settings
        self._judged_every = 1 if as_often else _JUDGED_EVERY
        self._bake_s = settings.bake_minutes * 60.0
        self._answers = traffic.candidate(None, bake_s=self._bake_s)
        nothing = Answers(latencies_ms=np.empty(0), errors=np.empty(0, bool), values=np.empty(0))
        self._new, self._old = _Stream(nothing, n), _Stream(traffic.before, n)
        self._meant = _Stream(nothing, n)
        # After each request: answers and outcomes of the candidate and of the stable version, and
        # this one's answers to what was meant for it.
        self._n = np.zeros((3, n + 1), np.intp)
        self._n_values = np.zeros((2, n + 1), np.intp)
        self._n[1, 0], self._n_values[1, 0] = self._old.n, self._old.n_values
        self._routed = np.zeros(n, bool)
        delayed_s = traffic.times_s - traffic.case.delay_s
        self._n_known = np.searchsorted(traffic.times_s, delayed_s, side="right")
        # Answers of both when the step began, and when that was.
        self._n_before, self._since_s = self._n[:, 0].copy(), 0.0
        self._moves: list[tuple[float, str, str]] = []
        self._promoted_s: float | None = None

    def ending(self) -> Ending:
        """Carry the rollout through."""
        rollout = _begun(self._settings)
        first, n = 0, len(self._traffic.times_s)
        while first < n and rollout.is_unfinished:
            last = min(n, first + _CHUNK)
            self._serve(rollout, first, last)
            rollout, first = self._looked(rollout, first, last)
        is_over = not rollout.is_unfinished or rollout.status == states.PAUSED
        if rollout.status == states.PROMOTED:
            self._routed[first:] = True
        return Ending(
            status=rollout.status,
            at_s=self._moves[-1][0] if is_over else float("nan"),
            n_candidate=int(self._n[0, first]),
            promoted_s=self._promoted_s,
            routed=self._routed,
            moves=tuple(self._moves),
        )

    # ── serving ─────────────────────────────────────────────────────────────────────────────

    def _serve(self, rollout: Rollout, first: int, last: int) -> None:
        """Answer the requests from `first` to `last` by the shares of the rollout."""
        part = slice(first, last)
        share = rollout.traffic.get(NEW, 0.0)
        new, old = _part(self._answers, part), _part(self._traffic.stable, part)
        routed = self._traffic.places[part] < share
        rescued = routed & new.errors
        # What both versions refuse is taken for the caller's fault, whoever it was meant for.
        blamed = ~(new.errors & old.errors)
        by_new, by_old, meant = routed & blamed, (rescued | ~routed) & blamed, ~routed & blamed
        self._new.add(new, taken=by_new, answered=by_new & ~new.errors)
        self._old.add(old, taken=by_old, answered=by_old & ~old.errors)
        self._meant.add(old, taken=meant, answered=np.zeros(last - first, bool))
        for row, taken in enumerate((by_new, by_old, meant)):
            self._n[row, first + 1 : last + 1] = self._n[row, first] + np.cumsum(taken)
        for row, answers, taken in ((0, new, by_new), (1, old, by_old)):
            self._n_values[row, first + 1 : last + 1] = self._n_values[row, first] + np.cumsum(
                taken & ~answers.errors
            )
        self._routed[part] = routed

    def _cut(self, end: int) -> None:
        """Forget what was answered from the request `end` on."""
        self._new.n, self._old.n, self._meant.n = self._n[:, end].tolist()
        self._new.n_values, self._old.n_values = self._n_values[:, end].tolist()
        self._routed[end:] = False

    # ── looking ─────────────────────────────────────────────────────────────────────────────

    def _looked(self, rollout: Rollout, first: int, last: int) -> tuple[Rollout, int]:
        """The rollout after its next move, and the request that comes then."""
        begin, end = np.searchsorted(self._traffic.looks, (first, last))
        looks = self._traffic.looks[begin:end]
        is_judged = np.arange(begin, end) % self._judged_every == 0
        worth = self._may_break_a_limit(looks) | (self._may_move_on(rollout, looks) & is_judged)
        for look in looks[worth].tolist():
            verdict = judged(rollout, self._settings, now=self._at(look), seen=self._seen(look))
            if verdict.move is not Move.WAIT:
                return self._moved(rollout, verdict, look), look + 1
        return rollout, last

    def _moved(self, rollout: Rollout, verdict: states.Verdict, look: int) -> Rollout:
        now, now_s = self._at(look), float(self._traffic.times_s[look])
        self._moves.append((now_s, verdict.move.value, verdict.reason))
        self._cut(look + 1)
        if verdict.move is Move.FINISH:
            return states.finished(rollout, states.PROMOTED, now=now, reason=verdict.reason)
        changed = states.moved(rollout, verdict, now=now)
        if changed.status == states.PROMOTING:
            self._promoted_s = now_s
            self._answers = self._traffic.candidate(now_s, bake_s=self._bake_s)
            changed = states.baking(changed, now=now)
        if changed.status == states.ROLLING_BACK:
            changed = replace(changed, status=states.ROLLED_BACK)
        if changed.step_started_at != rollout.step_started_at:
            self._since_s = now_s
        if changed.traffic != rollout.traffic:
            self._split_anew(changed, look + 1)
        return changed

    def _split_anew(self, rollout: Rollout, place: int) -> None:
        before = self._n_before
        self._n_before = self._n[:, place].copy()
        if OLD not in rollout.traffic or rollout.traffic[OLD] == 0.0:
            self._n_before[2] = before[2]

    def _may_break_a_limit(self, looks: Places) -> Flags:
        """Where some figure of the candidate may be over its factor."""
        n = self._n[:, looks + 1]
        found = _means(self._new.errors, n[0]) > (
            ERROR_FACTOR * self._settings.error_rate_threshold
        )
        found |= self._may_have_lost(looks)
        since, enough = self._n_before, self._settings.step_min_samples
        is_enough = n[0] - since[0] >= enough
        end = int(n[2, -1]) if len(looks) else 0
        lately_s = self._meant.latencies_s[_window(end, since[2])]
        if len(lately_s) < enough:
            return found | is_enough
        is_slow = self._may_be_over(n, lately_s, 0.5, 0.5, LATENCY_FACTOR)
        is_tail_slow = self._may_be_over(n, lately_s, 0.95, 0.95, LATENCY_FACTOR)
        is_tail_slow &= self._may_be_over(n, lately_s, 0.95, 0.99, 1.0)
        return found | (is_enough & (is_slow | is_tail_slow))

    def _may_be_over(
        self, n: Places, lately_s: Floats, level: float, its_level: float, factor: float
    ) -> Flags:
        """Where a quantile of the candidate may be over so many of the stable version's.

        Only where it is over some value that the other is under.
        """
        limit_s = _PART * float(np.quantile(lately_s, its_level))
        over = _means(self._new.latencies_s > factor * limit_s, n[0], self._n_before[0])
        under = _means(self._meant.latencies_s < limit_s, n[2], self._n_before[2])
        # One answer more or less, because quantiles lie between two.
        is_over: Flags = over + _one_of(n[0], self._n_before[0]) > 1.0 - level
        return is_over | (under + _one_of(n[2], self._n_before[2]) > its_level)

    def _may_have_lost(self, looks: Places) -> Flags:
        """Where the key metric may be worse by the factor, and beyond chance."""
        if not self._settings.key_metric:
            return np.zeros(len(looks), bool)
        n_new, n_old = self._n_values[:, self._n_known[looks]]
        new, old = _means(self._new.values, n_new), _means(self._old.values, n_old)
        spread = np.sqrt(np.maximum(_means(self._new.values**2, n_new) - new**2, 0.0))
        error = spread / np.sqrt(np.maximum(1, np.minimum(n_new, WINDOW)))
        is_lower = new < self._settings.rollback_threshold * old
        is_lower &= n_new >= self._settings.step_min_samples
        return is_lower & (old - new > _LEAST_ERRORS * error)

    def _may_move_on(self, rollout: Rollout, looks: Places) -> Flags:
        """Where time and samples may have come."""
        if rollout.status == states.PAUSED:
            return np.zeros(len(looks), bool)
        is_baking = rollout.status == states.BAKING
        step_s = self._bake_s if is_baking else self._settings.step_s
        waited_s = self._traffic.times_s[looks] - self._since_s
        n_at_step = self._n[0, looks + 1] - self._n_before[0]
        is_enough = is_baking | (n_at_step >= self._settings.step_min_samples)
        if self._settings.key_metric:
            is_enough &= is_baking | (self._n_values[0, self._n_known[looks]] > 0)
        return (waited_s >= step_s) & (is_enough | (waited_s > PATIENCE * step_s))

    def _seen(self, look: int) -> Observation:
        known = self._n_values[:, self._n_known[look]].tolist()
        n_new, n_old, n_meant = self._n[:, look + 1].tolist()
        new = self._new.evidence(n_new, known[0], self._settings)
        old = self._old.evidence(n_old, known[1], self._settings)
        since = self._n_before.tolist()
        at_step = side_by_side(
            self._new.evidence(n_new, 0, self._settings, since=since[0]),
            self._meant.evidence(n_meant, 0, self._settings, since=since[2]),
            self._settings,
        )
        # What stable answered beside the candidate, since this joined it with the first request.
        beside = self._meant.evidence(n_meant, 0, self._settings)
        joined = int(self._n_values[1, 0])
        outcomes = self._old.evidence(n_old, known[1], self._settings, values_since=joined)
        beside = with_key_metric(beside, outcomes)
        reference = reference_for(
            reference_for(beside, old, self._settings), Evidence(), self._settings
        )
        return Observation(
            candidate=new,
            reference=reference,
            n_at_step=new.n_total - int(self._n_before[0]),
            since=START + timedelta(seconds=self._since_s),
            is_key_metric_reported=max(new.n_key_metric, old.n_key_metric) > 0,
            stable=beside,
            at_step=at_step,
        )

    def _at(self, look: int) -> datetime:
        return START + timedelta(seconds=float(self._traffic.times_s[look]))


def _begun(settings: UpdateSettings) -> Rollout:
    return Rollout(
        rollout_id="simulated",
        model_name="ppo",
        old_version_id=OLD,
        new_version_id=NEW,
        trigger="manual",
        status=states.RUNNING,
        is_rollback=False,
        shares=settings.shares,
        step_index=0,
        step_started_at=START.isoformat(),
        started_at=START.isoformat(),
    )


def _part(answers: Answers, part: slice) -> Answers:
    return Answers(
        latencies_ms=answers.latencies_ms[part],
        errors=answers.errors[part],
        values=answers.values[part],
    )


def _put(room: Floats, n: int, values: NDArray[np.generic]) -> int:
    room[n : n + len(values)] = values
    return n + len(values)


def _window(n: int, since: int = 0) -> slice:
    return slice(max(since, n - WINDOW), n)


def _means(values: NDArray[np.generic], ends: Places, since: Places | int = 0) -> Floats:
    """Mean of the window's values after each of so many; 0 where there are none."""
    last = int(ends.max(initial=0))
    sums = np.concatenate([[0.0], np.cumsum(values[:last])])
    first = np.maximum(since, ends - WINDOW)
    found: Floats = (sums[ends] - sums[first]) / np.maximum(1, ends - first)
    return found


def _one_of(ends: Places, since: Places) -> Floats:
    found: Floats = 1.0 / np.maximum(1, np.minimum(ends - since, WINDOW))
    return found
