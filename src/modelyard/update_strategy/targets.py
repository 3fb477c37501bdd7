"""Carrying a rollout's shares to whatever serves the model."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from modelyard._core.errors import ConfigError, IntegrityError, StorageError
from modelyard.update_strategy.evidence import Evidence, evidence_since, present_of
from modelyard.update_strategy.ports import (
    DriftWatcher,
    HealthLike,
    Registry,
    ServingTarget,
    SwapTarget,
    Watcher,
)
from modelyard.update_strategy.settings import UpdateSettings

_logger = logging.getLogger("modelyard")


class Target(Protocol):
    """What moves when a rollout moves."""

    @property
    def applied_to(self) -> list[str]:
        """What really serves the shares."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether it could serve and does not yet."""
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

    def hold(self, *, is_held: bool) -> None:
        """Have the stable version answer everything whatever the shares are, or no longer."""
        ...

    def prepare(self, version_id: str) -> None:
        """Prove that a version can serve; traffic stays as it is."""
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
    is_empty = False
    is_side_by_side = False

    def __init__(self, registry: Registry, *, goes_by_clock: bool = True) -> None:
        self.applied_to = []
        self.goes_by_clock = goes_by_clock
        self._registry = registry

    def prepare(self, version_id: str) -> None:
        """The files of the version must at least be there, and undamaged."""
        self._registry.verify_version(version_id)

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Nothing to split."""

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """Nothing to serve."""

    def mirror(self, version_id: str | None) -> None:
        """Nothing to copy."""

    def hold(self, *, is_held: bool) -> None:
        """Nothing to hold."""

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None

    def evidence_at_step(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing serves side by side."""
        return None

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
    def is_empty(self) -> bool:
        """Whether it serves no version yet."""
        return not self._deployment.shares()

    def prepare(self, version_id: str) -> None:
        """Load the version and let it answer once."""
        self._deployment.add_version(version_id)

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

    def hold(self, *, is_held: bool) -> None:
        """Have the stable version answer everything, or follow the shares again."""
        self._deployment.hold_on_stable(is_held=is_held)

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence:
        """How the version has been doing since it began to serve; nothing if it does not."""
        if version_id not in self._deployment.versions():
            return Evidence()
        copies = self._deployment.shadow_health(version_id)
        if copies is not None:
            return Evidence.of(copies, settings)
        n_total = self._deployment.n_answers(version_id)
        return Evidence.of(self._deployment.health(version_id), settings, n_total=n_total)

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


class OptimizerTarget:
    """One model that is exchanged when the new version's share reaches 100 %.

    The optimizer comes with a model that bears no id; it is taken for the stable version. What
    the monitor records after an exchange is taken for the new version's doing.

    Args:
        optimizer: Whose model is exchanged.
        load: Loads a version and proves that it answers; the module and its example, if any.
        monitor: Watches the model.
    """

    goes_by_clock = True
    is_side_by_side = False

    def __init__(
        self, optimizer: SwapTarget, load: "Callable[[str], _Loaded]", *, monitor: Watcher
    ) -> None:
        self.applied_to = ["optimizer"]
        self._optimizer = optimizer
        self._load = load
        self._monitor = monitor
        self._serving: str | None = None
        self._prepared: tuple[str, _Loaded] | None = None
        self._exchanged: _Exchanged | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the optimizer has no model yet."""
        return self._optimizer.model is None

    def prepare(self, version_id: str) -> None:
        """Load the version and let it answer: what cannot must not begin to roll out."""
        if version_id != self._serving:
            self._prepared = (version_id, self._load(version_id))

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Exchange the model once one version has all the traffic."""
        whole = [version_id for version_id, share in shares.items() if share == 1.0]
        if whole:
            self.serve(whole[0])
        elif self._serving is None and not self.is_empty:
            self._serving = stable

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:  # noqa: ARG002 - the port's signature
        """Exchange the model, unless it is the one that serves."""
        if version_id != self._serving:
            self._exchange(version_id)
            self._exchanged = _Exchanged(
                old=self._serving,
                health=self._monitor.health(),
                n_total=self._monitor.total_predictions,
            )
            self._serving = version_id
        self._prepared = None

    def mirror(self, version_id: str | None) -> None:
        """An optimizer has one model: there is nothing to copy requests to."""

    def hold(self, *, is_held: bool) -> None:
        """An optimizer has one model, and it is the stable one until the exchange."""

    def _exchange(self, version_id: str) -> None:
        if self._prepared is None or self._prepared[0] != version_id:
            # Going back: a version known to be bad must not serve while another is tuned.
            self._optimizer.set_model(self._load(version_id).module)
            return
        loaded = self._prepared[1]
        self._optimizer.swap(loaded.module, example_input=loaded.example)

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """What was recorded since the exchange, of the old version until then.

        None before an exchange, and while nothing has been recorded since: the monitor then has
        nothing to do with this optimizer, and the clock goes on alone.
        """
        exchanged = self._exchanged
        if exchanged is None or version_id not in {exchanged.old, self._serving}:
            return None
        before = Evidence.of(exchanged.health, settings, n_total=exchanged.n_total)
        if version_id == exchanged.old:
            return before
        n_total = self._monitor.total_predictions
        if n_total == exchanged.n_total:
            return None
        now = Evidence.of(self._monitor.health(), settings, n_total=n_total)
        return evidence_since(now, before)

    def evidence_at_step(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing serves side by side."""
        return None

    def present(self, version_id: str, monitored: Evidence, settings: UpdateSettings) -> Evidence:
        """What was recorded since the exchange; all of it where there was none."""
        if version_id != self._serving or self._exchanged is None:
            return monitored
        return self.evidence(version_id, settings) or Evidence()

    def drift_watcher(self, version_id: str) -> DriftWatcher | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """The module of a version, and the example input that was saved with it or None."""

    module: Any
    example: Any


@dataclass(frozen=True, kw_only=True)
class _Exchanged:
    """The last exchange: of which version, and what the monitor said at that moment."""

    old: str | None
    health: HealthLike
    n_total: int


def target_for(
    deployment: Any, registry: Registry, *, monitor: Watcher, is_remote: bool
) -> Target:
    """The target for what the caller passed as `deployment`.

    Raises:
        ConfigError: It is neither a `Deployment`, nor an `InferenceOptimizer`, nor None; or it is
            there although another process is said to serve.
    """
    if deployment is None:
        return PointerOnly(registry, goes_by_clock=not is_remote)
    if is_remote:
        raise ConfigError("is_remote=True says that another process serves: pass no deployment.")
    if hasattr(deployment, "set_shares"):
        return DeploymentTarget(deployment)
    if hasattr(deployment, "set_model"):
        return OptimizerTarget(
            deployment, lambda version_id: _proved(registry, version_id), monitor=monitor
        )
    raise ConfigError(
        "deployment must be a Deployment or an InferenceOptimizer, "
        f"got {type(deployment).__name__}."
    )


def _proved(registry: Registry, version_id: str) -> _Loaded:
    """A version, after it has answered the example that was saved with it.

    Raises:
        InputError: It does not run on its example, or answers with NaN or infinity.
    """
    module = registry.load_model(version_id, load_full=True)
    try:
        example = registry.read_artifact(version_id, "example_input")
    except LookupError:
        return _Loaded(module=module, example=None)
    from modelyard.update_strategy.proof import prove_answers  # noqa: PLC0415 - brings torch

    prove_answers(module, example, version_id)
    return _Loaded(module=module, example=example)


def is_passing(error: Exception) -> bool:
    """Whether trying again may help: the store is out of reach, and no version is to blame."""
    return isinstance(error, StorageError) and not isinstance(error, IntegrityError)
