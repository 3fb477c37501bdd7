"""The part of `UpdateStrategy` that decides and explains; it moves nothing."""

import os
import socket
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, NotFoundError, StaleRevisionError
from modelyard._core.ids import new_id
from modelyard.storage import Store
from modelyard.storage.leases import Lease
from modelyard.update_strategy import due, telling
from modelyard.update_strategy.baseline import Baseline
from modelyard.update_strategy.candidates import (
    best_candidate,
    consecutive_rollbacks,
    has_just_failed,
)
from modelyard.update_strategy.conductor import Conductor
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.explaining import explained
from modelyard.update_strategy.history import RolloutLog
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.records import (
    RollbackDecision,
    RolloutState,
    UpdateDecision,
    UpdateRecord,
)
from modelyard.update_strategy.rollout import ROLLED_BACK, Rollout
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.targets import target_for
from modelyard.update_strategy.triggers import UpdateTrigger
from modelyard.update_strategy.windows import closed_until

_LEASE_S = 30.0
_REMEMBERED_ROLLOUTS = 50


class Decider:
    """Decides from evidence. The base of `UpdateStrategy`, whose docstring says what it takes.

    Thread-safe: one re-entrant lock guards what it remembers; what counts is in the store.
    """

    def __init__(
        self,
        version_manager: Registry,
        monitor: Watcher,
        config: Mapping[str, Any] | None = None,
        *,
        deployment: Any = None,
        is_remote: bool = False,
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,  # noqa: ARG002 - see the docstring
        actor: str = "update_strategy",
    ) -> None:
        self.settings = UpdateSettings.from_config(config)
        self._actor = actor
        self.model_name = monitor.model_name
        self._registry = version_manager
        self._monitor = monitor
        self._clock = clock or SystemClock()
        self._target = target_for(
            deployment,
            version_manager,
            monitor=monitor,
            settings=self.settings,
            is_remote=is_remote,
        )
        store = store or version_manager.store
        self._log = RolloutLog(store, self.model_name)
        self._lease = Lease(
            store,
            f"rollout:{self.model_name}",
            f"{socket.gethostname()}:{os.getpid()}:{new_id('strategy')}",
            seconds=_LEASE_S,
            clock=self._clock,
        )
        self._baseline = Baseline(monitor, self.settings, store=store, clock=self._clock)
        self._lock = threading.RLock()
        self._looked_at_s = float("-inf")
        # When rollouts were first seen that lie in the future, by id.
        self._seen_ahead: dict[str, datetime] = {}
        self._is_idle = False
        self._created_at = self._clock.now()
        self._conductor = Conductor(
            version_manager,
            monitor,
            self._target,
            log=self._log,
            lease=self._lease,
            baseline=self._baseline,
            settings=self.settings,
            clock=self._clock,
            actor=actor,
        )

    def set_baseline(self) -> None:
        """Make the present the baseline, of the monitor and of latency and key metric.

        Without data the monitor's baseline is armed: its next full window becomes it.
        """
        with self._lock:
            self._baseline.set()

    def should_update(self) -> UpdateDecision:
        """Whether an update is due, and why. No while a rollout runs and in the cooldown."""
        self.advance()
        now = self._conductor.observer.present()
        found = self._due(now) if now.n >= self.settings.min_samples else []
        if self._is_scheduled():
            sentence = f"the schedule {self.settings.schedule!r} has come round"
            found.append(due.Due(trigger=UpdateTrigger.SCHEDULED, sentence=sentence))
        until = self._cooldown_until()
        blocked = self._blocked_by(now, until)
        return {
            "should_update": bool(found) and blocked is None,
            "reasons": [item.sentence for item in found],
            "triggers": list(dict.fromkeys(item.trigger.value for item in found)),
            "blocked_by": blocked,
            "n_samples": now.n,
            "cooldown_until": None if until is None else until.isoformat(),
        }

    def choose_candidate(
        self, metric: str | None = None, *, direction: str | None = None
    ) -> str | None:
        """The version to update to: best by a metric, better than the one running.

        One that was rolled back within `rollback_cooldown_hours` is passed over.

        Args:
            metric: As saved with the versions; the strategy's key metric by default.
            direction: "higher" or "lower" is better; by the settings or the name by default.

        Returns:
            Its id; None where nothing better is there.

        Raises:
            ConfigError: No metric is known, or another direction.
        """
        name = metric or self.settings.key_metric
        if name is None:
            raise ConfigError("choose_candidate needs a metric: pass one, or set key_metric.")
        rules = UpdateSettings(
            key_metric=name, key_metric_direction=direction or self._direction_of(name)
        )
        failed = has_just_failed(
            self._log.newest_of(_REMEMBERED_ROLLOUTS),
            now=self._clock.now(),
            within_hours=self.settings.rollback_cooldown_hours,
        )
        versions = self._registry.list_versions(self.model_name)
        return best_candidate(
            versions,
            name,
            direction=rules.direction([version["metrics"].get(name) for version in versions]),
            production=self._conductor.production(),
            excluded=failed,
        )

    def explain(self, rollout_id: str | None = None) -> list[str]:
        """A rollout in sentences: what was done when, by whom, and on which numbers.

        Args:
            rollout_id: Which; the newest by default.

        Raises:
            NotFoundError: There is none.
        """
        records = self._log.history(None if rollout_id else 1)
        for record in records:
            if rollout_id in (None, record["rollout_id"]):
                return explained(record)
        raise NotFoundError(
            f"No rollout {rollout_id!r} of {self.model_name!r} is stored."
            if rollout_id
            else f"{self.model_name!r} has had no rollout."
        )

    def should_rollback(self) -> RollbackDecision:
        """Whether what serves now breaks a limit with enough samples behind it.

        The candidate of a rollout is compared with the stable version at the same time, where
        both are measured; else production's present with the baseline.
        """
        observer = self._conductor.observer
        reasons, now, baseline = observer.reasons_to_go_back(self._log.current())
        return {
            "should_rollback": bool(reasons),
            "reasons": reasons,
            "evidence": {"now": now.to_plain(), "baseline": baseline.to_plain()},
        }

    def advance(self) -> RolloutState | None:
        """Look at the rollout and take the step that is due; the state, or None without one.

        Called by every method here that moves or decides and by every request to the deployment;
        call it from a timer, or use `running()`, where neither comes often enough.
        """
        with self._lock:
            self._looked_at_s = self._clock.monotonic_s()
            try:
                rollout = self._conductor.advance()
            except StaleRevisionError:
                # Someone gave a command meanwhile; the next look does what it says.
                rollout = self._log.current()
            self._is_idle = rollout is None
            return self._told(rollout)

    def get_update_history(self, limit: int | None = None) -> list[UpdateRecord]:
        """Updates and rollbacks, newest first, with everything that happened to each."""
        self.advance()
        return self._log.history(limit)

    def get_rollout(self) -> RolloutState | None:
        """The rollout that is not finished, or None. Changes nothing."""
        return self._told(self._log.current())

    def _due(self, now: Evidence) -> list[due.Due]:
        watcher = self._conductor.observer.drift_watcher()
        drifts = {
            "prediction": watcher.detect_prediction_drift(),
            "feature": watcher.detect_feature_drift(),
        }
        return due.updates_due(now, self._baseline.evidence(), drifts, self.settings)

    def _is_scheduled(self) -> bool:
        if self.settings.schedule is None:
            return False
        newest = self._log.newest()
        since = self._log.schedule_since(
            self.settings.schedule, created_at=self._created_at, clock=self._clock
        )
        if newest is not None:
            since = max(since, self._past(newest, newest.started_at))
        return due.is_scheduled(self.settings.schedule, since=since, now=self._clock.now())

    def _direction_of(self, metric: str) -> str | None:
        return self.settings.key_metric_direction if metric == self.settings.key_metric else None

    def _cooldown_until(self) -> datetime | None:
        newest = self._log.newest()
        if newest is None:
            return None
        since = self._past(newest, newest.finished_at or newest.started_at)
        went_back = newest.is_rollback or newest.status == ROLLED_BACK
        hours = self.settings.cooldown_hours
        if went_back:
            hours = max(hours, self.settings.rollback_cooldown_hours)
        until = since + timedelta(hours=hours)
        return until if until > self._clock.now() else None

    def _past(self, rollout: Rollout, at: str) -> datetime:
        """A moment of a rollout, not in the future.

        One that is was written by a clock that has been set back since: it would block updates
        until the clock has caught up. It counts from when that was noticed.
        """
        moment, now = datetime.fromisoformat(at), self._clock.now()
        return moment if moment <= now else self._seen_ahead.setdefault(rollout.rollout_id, now)

    def _blocked_by(self, now: Evidence, cooldown_until: datetime | None) -> str | None:
        running, halt = self._log.current(), self._log.halt()
        if running is not None:
            return f"{running.new_version_id} is rolling out ({running.rollout_id})"
        if halt is not None:
            return f"{halt.actor} has stopped all updates: {halt.reason}"
        n_back = consecutive_rollbacks(self._log.newest_of(_REMEMBERED_ROLLOUTS))
        if n_back >= self.settings.max_consecutive_rollbacks:
            return (
                f"the last {n_back} updates were rolled back; somebody must look: update_model "
                "begins one all the same"
            )
        if cooldown_until is not None:
            return f"the cooldown after the last update lasts until {cooldown_until.isoformat()}"
        if now.n < self.settings.min_samples and self.settings.schedule is None:
            return f"{now.n} of {self.settings.min_samples} predictions"
        return closed_until(self.settings.windows, self.settings.zone, self._clock.now())

    @staticmethod
    def _told(rollout: Rollout | None) -> RolloutState | None:
        return None if rollout is None else telling.state_of(rollout)
