"""How the versions of a rollout are doing, as this process measures them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from modelyard._core.clock import Clock
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.carrier import Carrier
from modelyard.update_strategy.evidence import (
    Evidence,
    evidence_since,
    reference_for,
    side_by_side,
)
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.next_move import Observation
from modelyard.update_strategy.ports import DriftWatcher, Watcher
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import Target
from modelyard.update_strategy.triggers import UpdateTrigger

_NOTE_EVERY_S = 1.0
# Updates that are due because the model does badly: what it does until it is replaced says nothing
# of its successor.
_DOES_BADLY = frozenset(
    {UpdateTrigger.HIGH_ERROR_RATE.value, UpdateTrigger.PERFORMANCE_DEGRADATION.value}
)


@dataclass(frozen=True)
class _StepSeen:
    """When this process first saw a step, and what the candidate had answered by then.

    Since then the step's time is told by the monotonic clock: a wall clock that is set an hour
    forward must not end a bake, nor one that is set back hold a step up.
    """

    step: tuple[str, str]
    n_before: int
    since: datetime
    since_s: float

    def lasted(self, now_s: float) -> timedelta:
        """How long the step has lasted, at a monotonic time."""
        before = self.since - datetime.fromisoformat(self.step[1])
        return max(before, timedelta(0)) + timedelta(seconds=now_s - self.since_s)


@dataclass(frozen=True)
class _ModelSeen:
    """What the model's monitor said when this process first saw a rollout.

    Attributes:
        key: Which rollout, and since when it is measured.
        before: What the monitor said.
        is_blameless: Whether the model did badly already.
    """

    key: tuple[str, str]
    before: Evidence
    is_blameless: bool


class Observer:
    """Looks at what serves, and says what is compared with what.

    Not thread-safe: the strategy that owns it locks.

    Args:
        carrier: Knows production.
        monitor: Watches the model.
        target: What serves.
        log: Where numbers are noted for whoever watches from elsewhere.
        baseline: What the candidate is compared with while the stable version has few samples.
        settings: The rules.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        carrier: Carrier,
        monitor: Watcher,
        target: Target,
        *,
        log: RolloutLog,
        baseline: Baseline,
        settings: UpdateSettings,
        clock: Clock,
    ) -> None:
        self._carrier = carrier
        self._monitor = monitor
        self._target = target
        self._log = log
        self._baseline = baseline
        self._settings = settings
        self._clock = clock
        self._seen: _StepSeen | None = None
        self._model_seen: _ModelSeen | None = None
        self._measured_since = ""
        self._noted_at_s = float("-inf")

    def reasons_to_go_back(self, rollout: Rollout | None) -> tuple[list[str], Evidence, Evidence]:
        """Which limits are broken; by what, and what that is compared with."""
        candidate, reference, beside = None, self._baseline.evidence(), None
        if rollout is not None:
            candidate, (reference, _), beside = self._compared(rollout)
        if candidate is None:
            candidate, reference, beside = self.present(), self._baseline.evidence(), None
        reasons = rollback_reasons(
            candidate, reference, self._settings, at_step=self.at_step(rollout), beside=beside
        )
        return reasons, candidate, reference

    def at_step(self, rollout: Rollout | None) -> tuple[Evidence, Evidence] | None:
        """Both versions since the shares last changed; None where that cannot be compared."""
        if rollout is None:
            return None
        new, old = (
            self._target.evidence_at_step(version_id or "", self._settings)
            for version_id in (rollout.new_version_id, rollout.old_version_id)
        )
        return side_by_side(new, old, self._settings)

    def present(self) -> Evidence:
        """How production is doing, by what serves it where that measures it."""
        monitored = Evidence.of(self._monitor.health(), self._settings)
        production = self._carrier.production()
        if production is None:
            return monitored
        return self._target.present(production, monitored, self._settings)

    def drift_watcher(self) -> DriftWatcher:
        """What knows of drift: production's own monitor if it has a baseline, else the model's."""
        production = self._carrier.production()
        own = None if production is None else self._target.drift_watcher(production)
        return self._monitor if own is None else own

    def observe(self, rollout: Rollout) -> Observation:
        """What is seen of a rollout's present step."""
        if rollout.measured_since > self._measured_since:
            self._measured_since = rollout.measured_since
            self._target.measure_anew()
        candidate, (reference, is_baseline), beside = self._compared(rollout)
        old, settings = rollout.old_version_id or "", self._settings
        n_total = 0 if candidate is None else candidate.n_total
        step = (rollout.rollout_id, rollout.step_started_at)
        now_s = self._clock.monotonic_s()
        if self._seen is None or self._seen.step != step:
            now = self._clock.now()
            self._seen = _StepSeen(step, n_before=n_total, since=now, since_s=now_s)
        return Observation(
            candidate=candidate,
            reference=reference,
            n_at_step=n_total - self._seen.n_before,
            since=self._seen.since,
            lasted=self._seen.lasted(now_s),
            is_key_metric_reported=any(
                side is not None and side.n_key_metric > 0
                for side in (candidate, beside, self._target.evidence(old, settings))
            ),
            stable=beside,
            at_step=self.at_step(rollout),
            is_baseline=is_baseline,
            model=self._model(rollout) if candidate is None else None,
        )

    def note(self, rollout: Rollout, seen: Observation) -> None:
        """Let whoever watches from elsewhere see the numbers, once a second."""
        now_s = self._clock.monotonic_s()
        if seen.candidate is None or now_s - self._noted_at_s < _NOTE_EVERY_S:
            return
        self._noted_at_s = now_s
        self._log.note_seen(
            {
                "rollout_id": rollout.rollout_id,
                "at": self._clock.now().isoformat(),
                **numbers_of(seen),
            },
            clock=self._clock,
        )

    def _compared(
        self, rollout: Rollout
    ) -> tuple[Evidence | None, tuple[Evidence, bool], Evidence | None]:
        """The candidate if it is measured, the guard's reference, and what serves beside it.

        With the reference comes whether it is the baseline.
        """
        baseline = self._baseline.evidence()
        if rollout.old_version_id is None:
            return None, (baseline, True), None
        old, settings = rollout.old_version_id, self._settings
        candidate = self._target.evidence_of_candidate(rollout.new_version_id, settings)
        beside = self._target.evidence_beside(old, settings)
        before = self._target.evidence(old, settings) or Evidence()
        stable = before if beside is None else reference_for(beside, before, settings)
        reference = reference_for(stable, baseline, settings)
        return candidate, (reference, stable.n < settings.step_min_samples), beside

    def _model(self, rollout: Rollout) -> Evidence | None:
        """What the monitor has recorded since the rollout began, where only the pointer moves.

        None where the model did badly before: an update is to end that, not to be blamed for it.
        """
        if self._target.applied_to:
            return None
        now = Evidence.of(
            self._monitor.health(), self._settings, n_total=self._monitor.total_predictions
        )
        key = (rollout.rollout_id, rollout.measured_since)
        if self._model_seen is None or self._model_seen.key != key:
            is_bad = bool(rollback_reasons(now, self._baseline.evidence(), self._settings))
            self._model_seen = _ModelSeen(
                key, now, is_blameless=is_bad or rollout.trigger in _DOES_BADLY
            )
        return (
            None if self._model_seen.is_blameless else evidence_since(now, self._model_seen.before)
        )


def numbers_of(seen: Observation) -> dict[str, Any]:
    """What a decision rests on, as it is stored: whose numbers are whose."""
    if seen.candidate is None:
        return {}
    numbers: dict[str, Any] = {
        "candidate": seen.candidate.to_plain(),
        "n_at_step": seen.n_at_step,
    }
    if seen.stable is not None:
        numbers["stable"] = seen.stable.to_plain()
    elif not seen.is_baseline:
        numbers["stable"] = seen.reference.to_plain()
    if seen.is_baseline:
        numbers["baseline"] = seen.reference.to_plain()
    return numbers
