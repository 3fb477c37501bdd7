"""Carrying a rollout's shares to whatever serves the model."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from modelyard._core.errors import ConfigError, IntegrityError, StorageError
from modelyard.update_strategy.evidence import Evidence, present_of
from modelyard.update_strategy.guard import TAIL_FACTOR
from modelyard.update_strategy.optimizer_target import OptimizerTarget, proved
from modelyard.update_strategy.ports import DriftWatcher, Registry, ServingTarget, Watcher
from modelyard.update_strategy.settings import UpdateSettings

_logger = logging.getLogger("modelyard")


class Target(Protocol):
    """What moves when a rollout moves."""

    @property
    def applied_to(self) -> list[str]:
        """What really serves the shares."""
        ...

    @property
    def serving(self) -> frozenset[str] | None:
        """The versions that have traffic; None where nobody can tell which."""
        ...

    @property
    def goes_by_clock(self) -> bool:
        """Whether the clock alone may move a rollout that nothing serves."""
        ...

    @property
    def is_side_by_side(self) -> bool:
        """Whether both versions serve at the same time, each measured by itself."""
        ...

    def mirror(self, version_id: str | None) -> None:
        """Have a version answer copies of requests, whose answers nobody gets; None for no one."""
        ...

    def set_stable_only(self, *, is_on: bool) -> None:
        """Have the stable version answer everything whatever the shares are, or no longer."""
        ...

    def measure_anew(self) -> None:
        """Forget what was measured of the candidate, and beside it, so far."""
        ...

    def prepare(self, version_id: str, *, at_once: bool = False) -> bool:
        """Prove that a version can serve; traffic stays as it is.

        Args:
            version_id: Which one.
            at_once: Whether it must serve as soon as it is asked to, tuned or not.

        Returns:
            Whether it had to be loaded, and takes memory now that it did not take before.
        """
        ...

    def drop(self, version_id: str) -> None:
        """Forget a version that was prepared in vain; nothing if it serves."""
        ...

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Make the traffic what a rollout says. Doing it twice does no harm."""
        ...

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """Give all the traffic to one version and forget others."""
        ...

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How a version is doing, or None where nothing measures it by itself."""
        ...

    def evidence_of_candidate(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How a version is doing since it got traffic or copies; None if nothing measures it."""
        ...

    def evidence_beside(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How the stable version is doing since then; None if they are not side by side."""
        ...

    def evidence_at_step(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """Latency and errors of a version since the shares last changed; None if not measured."""
        ...

    def present(self, version_id: str, monitored: Evidence, settings: UpdateSettings) -> Evidence:
        """How production is doing, given what the strategy's monitor says."""
        ...

    def drift_watcher(self, version_id: str) -> DriftWatcher | None:
        """What knows of a version's drift, or None where only the strategy's monitor may."""
        ...


class PointerOnly:
    """Nothing serves: only the production pointer will move.

    Args:
        registry: Knows the versions.
        goes_by_clock: False where another process serves and takes the steps.
    """

    applied_to: list[str]
    serving: frozenset[str] | None = None
    is_side_by_side = False

    def __init__(self, registry: Registry, *, goes_by_clock: bool = True) -> None:
        self.applied_to = []
        self.goes_by_clock = goes_by_clock
        self._registry = registry

    def prepare(self, version_id: str, *, at_once: bool = False) -> bool:  # noqa: ARG002 - the port's signature
        """The files of the version must at least be there, and undamaged."""
        self._registry.verify_version(version_id)
        return False

    def drop(self, version_id: str) -> None:
        """Nothing was loaded."""

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Nothing to split."""

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """Nothing to serve."""

    def mirror(self, version_id: str | None) -> None:
        """Nothing to copy."""

    def set_stable_only(self, *, is_on: bool) -> None:
        """Nothing answers."""

    def measure_anew(self) -> None:
        """Nothing is measured."""

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None

    evidence_of_candidate = evidence
    evidence_beside = evidence
    evidence_at_step = evidence

    def present(
        self,
        version_id: str,  # noqa: ARG002 - the port's signature
        monitored: Evidence,
        settings: UpdateSettings,  # noqa: ARG002 - the port's signature
    ) -> Evidence:
        """The monitor is all there is."""
        return monitored

    def drift_watcher(self, version_id: str) -> DriftWatcher | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None


class DeploymentTarget:
    """Several versions served side by side, each measured by itself."""

    goes_by_clock = False
    is_side_by_side = True

    def __init__(self, deployment: ServingTarget) -> None:
        self.applied_to = ["deployment"]
        self._deployment = deployment

    @property
    def serving(self) -> frozenset[str]:
        """The versions that have a share."""
        shares = self._deployment.shares()
        return frozenset(version_id for version_id, share in shares.items() if share > 0)

    def prepare(self, version_id: str, *, at_once: bool = False) -> bool:  # noqa: ARG002 - the port's signature
        """Load the version and let it answer once."""
        is_new = version_id not in self._deployment.versions()
        self._deployment.add_version(version_id)
        return is_new

    def drop(self, version_id: str) -> None:
        """Free the memory of a version that has no share."""
        if not self._deployment.shares().get(version_id):
            self._deployment.retire(version_id)

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Set the shares; what is not loaded yet is loaded first.

        A stable version without a share that cannot be loaded is done without.
        """
        for version_id in shares:
            self._deployment.add_version(version_id)
        if stable not in shares and not self._can_add(stable):
            stable = max(shares, key=lambda version_id: shares[version_id])
        self._deployment.set_shares(shares, stable=stable)

    def _can_add(self, version_id: str) -> bool:
        try:
            self._deployment.add_version(version_id)
        except Exception as error:
            if is_passing(error):
                raise
            _logger.warning("%s cannot stand behind the new version: %s", version_id, error)
            return False
        return True

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """All the traffic to one version; the memory of the others is freed."""
        self.split({version_id: 1.0}, stable=version_id)
        for gone in retired:
            self._deployment.retire(gone)

    def mirror(self, version_id: str | None) -> None:
        """Copy requests to a version, which is loaded first, or to none."""
        if version_id is not None:
            self._deployment.add_version(version_id)
        self._deployment.set_shadow(version_id)

    def set_stable_only(self, *, is_on: bool) -> None:
        """Have the stable version answer everything, or follow the shares again."""
        self._deployment.set_stable_only(is_on=is_on)

    def measure_anew(self) -> None:
        """Let the deployment begin its measurements side by side again."""
        self._deployment.measure_anew()

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence:
        """How the version has been doing over its window; nothing if it does not serve."""
        if version_id not in self._deployment.versions():
            return Evidence()
        n_total = self._deployment.n_answers(version_id)
        return Evidence.of(self._deployment.health(version_id), settings, n_total=n_total)

    def evidence_of_candidate(self, version_id: str, settings: UpdateSettings) -> Evidence:
        """What it made of copies, or of requests since it has a share; nothing before."""
        if version_id not in self._deployment.versions():
            return Evidence()
        copies = self._deployment.shadow_health(version_id)
        if copies is not None:
            return Evidence.of(copies, settings)
        n_total = self._deployment.n_answers(version_id)
        return Evidence.of(self._deployment.health_beside(version_id), settings, n_total=n_total)

    def evidence_beside(self, version_id: str, settings: UpdateSettings) -> Evidence:
        """What the stable version has done since the candidate joined; nothing if nothing."""
        return Evidence.of(self._deployment.health_beside(version_id), settings)

    def evidence_at_step(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """What the deployment has measured since it last split the traffic."""
        health = self._deployment.health_since_split(version_id)
        return None if health is None else Evidence.of(health, settings)

    def present(self, version_id: str, monitored: Evidence, settings: UpdateSettings) -> Evidence:
        """The deployment's own measurements where there are enough, else the larger ones."""
        return present_of(self.evidence(version_id, settings), monitored, settings)

    def drift_watcher(self, version_id: str) -> DriftWatcher | None:
        """The version's own monitor, if it has a baseline."""
        if version_id not in self._deployment.versions():
            return None
        monitor = self._deployment.monitor(version_id)
        return monitor if monitor.baseline_status == "set" else None


def target_for(
    deployment: Any,
    registry: Registry,
    *,
    monitor: Watcher,
    settings: UpdateSettings,
    is_remote: bool,
) -> Target:
    """The target for what the caller passed as `deployment`.

    Raises:
        ConfigError: It is neither a `Deployment`, nor an `InferenceOptimizer`, nor None; it is
            there although another process is said to serve; or its window holds fewer answers
            than a step needs.
    """
    if deployment is None:
        return PointerOnly(registry, goes_by_clock=not is_remote)
    if is_remote:
        raise ConfigError("is_remote=True says that another process serves: pass no deployment.")
    if hasattr(deployment, "set_shares"):
        _check_window(deployment.window_size, settings)
        return DeploymentTarget(deployment)
    if hasattr(deployment, "set_model"):
        return OptimizerTarget(
            deployment, lambda version_id: proved(registry, version_id), monitor=monitor
        )
    raise ConfigError(
        "deployment must be a Deployment or an InferenceOptimizer, "
        f"got {type(deployment).__name__}."
    )


def _check_window(window_size: int, settings: UpdateSettings) -> None:
    """What a window never holds is never judged.

    Raises:
        ConfigError: It holds fewer answers than a step needs.
    """
    enough, tail = settings.step_min_samples, TAIL_FACTOR * settings.step_min_samples
    if enough > window_size:
        raise ConfigError(
            f"step_min_samples={enough} is more than the deployment's window_size={window_size} "
            "holds: no step could be judged. Give the deployment a window_size of "
            f"{tail} (95th percentiles need {TAIL_FACTOR} x step_min_samples), or ask for fewer "
            "samples."
        )
    if tail > window_size:
        _logger.warning(
            "95th percentiles of latencies are never compared: they need %d answers (%d x "
            "step_min_samples), and the deployment's window_size is %d.",
            tail,
            TAIL_FACTOR,
            window_size,
        )


def is_passing(error: Exception) -> bool:
    """Whether trying again may help: the store is out of reach, and no version is to blame."""
    return isinstance(error, StorageError) and not isinstance(error, IntegrityError)
