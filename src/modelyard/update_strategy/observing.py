"""How the versions of a rollout are doing, as this process measures them."""

from dataclasses import dataclass
from datetime import datetime

from modelyard._core.clock import Clock
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.carrier import Carrier
from modelyard.update_strategy.evidence import Evidence, reference_for, side_by_side
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.ports import DriftWatcher, Watcher
from modelyard.update_strategy.rollout import Observation, Rollout
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import Target

_NOTE_EVERY_S = 1.0


@dataclass(frozen=True)
class _StepSeen:
    """When this process first saw a step, and what the candidate had answered by then."""

    step: tuple[str, str]
    n_before: int
    since: datetime


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
        self._noted_at_s = float("-inf")

    def sides(self, rollout: Rollout | None) -> tuple[Evidence, Evidence]:
        """What may have to go, and what it is compared with."""
        candidate, reference = (None, None) if rollout is None else self._compared(rollout)
        if candidate is None or reference is None:
            return self.present(), self._baseline.evidence()
        return candidate, reference

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
        candidate, reference = self._compared(rollout)
        stable = self._target.evidence(rollout.old_version_id or "", self._settings) or Evidence()
        n_total = 0 if candidate is None else candidate.n_total
        step = (rollout.rollout_id, rollout.step_started_at)
        if self._seen is None or self._seen.step != step:
            self._seen = _StepSeen(step, n_before=n_total, since=self._clock.now())
        return Observation(
            candidate=candidate,
            stable=reference,
            n_at_step=n_total - self._seen.n_before,
            since=self._seen.since,
            is_key_metric_reported=any(
                side is not None and side.n_key_metric > 0 for side in (candidate, stable)
            ),
            concurrent=stable if self._target.is_side_by_side else None,
            at_step=self.at_step(rollout),
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
                "candidate": seen.candidate.to_plain(),
                "stable": seen.stable.to_plain(),
                "n_at_step": seen.n_at_step,
            },
            clock=self._clock,
        )

    def _compared(self, rollout: Rollout) -> tuple[Evidence | None, Evidence]:
        """The candidate, if it is measured by itself, and what it is compared with."""
        baseline = self._baseline.evidence()
        if rollout.old_version_id is None:
            return None, baseline
        candidate = self._target.evidence(rollout.new_version_id, self._settings)
        stable = self._target.evidence(rollout.old_version_id, self._settings) or Evidence()
        return candidate, reference_for(stable, baseline, self._settings)
