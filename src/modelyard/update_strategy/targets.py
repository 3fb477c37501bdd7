"""Carrying a rollout's shares to whatever serves the model."""

from collections.abc import Callable
from typing import Any, Protocol

from modelyard._core.errors import ConfigError
from modelyard.update_strategy.decisions import Evidence
from modelyard.update_strategy.ports import Registry, ServingTarget, SwapTarget
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.settings import UpdateSettings


class Target(Protocol):
    """What moves when a rollout moves."""

    @property
    def applied_to(self) -> list[str]:
        """What really serves the shares."""
        ...

    def prepare(self, version_id: str) -> None:
        """Prove that a version can serve; traffic stays as it is."""
        ...

    def apply(self, rollout: Rollout) -> None:
        """Make the traffic what the rollout says. Doing it twice does no harm."""
        ...

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How a version is doing, or None where nothing measures it by itself."""
        ...


class PointerOnly:
    """Nothing serves: only the production pointer will move."""

    applied_to: list[str]

    def __init__(self) -> None:
        self.applied_to = []

    def prepare(self, version_id: str) -> None:
        """Nothing to prepare."""

    def apply(self, rollout: Rollout) -> None:
        """Nothing to apply."""

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None


class DeploymentTarget:
    """Several versions served side by side, each measured by itself."""

    def __init__(self, deployment: ServingTarget) -> None:
        self.applied_to = ["deployment"]
        self._deployment = deployment

    def prepare(self, version_id: str) -> None:
        """Load the version and let it answer once."""
        self._deployment.add_version(version_id)

    def apply(self, rollout: Rollout) -> None:
        """Set the shares; a version that has lost all its traffic for good is forgotten."""
        traffic = rollout.traffic
        for version_id in traffic:
            self._deployment.add_version(version_id)
        old = rollout.old_version_id
        stable = old if old is not None and old in traffic else next(iter(traffic))
        self._deployment.set_shares(traffic, stable=stable)
        if rollout.finished_at is not None:
            for gone in (old, rollout.new_version_id):
                if gone is not None and gone not in traffic:
                    self._deployment.retire(gone)

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How the version has been doing since it began to serve."""
        return Evidence.of(self._deployment.health(version_id), settings)


class OptimizerTarget:
    """One model that is exchanged when the new version's share reaches 100 %."""

    def __init__(self, optimizer: SwapTarget, load: Callable[[str], Any]) -> None:
        self.applied_to = ["optimizer"]
        self._optimizer = optimizer
        self._load = load
        self._serving: str | None = None

    def prepare(self, version_id: str) -> None:
        """Load the version: what cannot be loaded must not begin to roll out."""
        self._load(version_id)

    def apply(self, rollout: Rollout) -> None:
        """Exchange the model when one version has all the traffic."""
        whole = [version_id for version_id, share in rollout.traffic.items() if share == 1.0]
        if whole and whole[0] != self._serving:
            self._optimizer.set_model(self._load(whole[0]))
            self._serving = whole[0]

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """One model at a time: nothing is measured side by side."""
        return None


def target_for(deployment: Any, registry: Registry) -> Target:
    """The target for what the caller passed as `deployment`.

    Raises:
        ConfigError: It is neither a `Deployment`, nor an `InferenceOptimizer`, nor None.
    """
    if deployment is None:
        return PointerOnly()
    if hasattr(deployment, "set_shares"):
        return DeploymentTarget(deployment)
    if hasattr(deployment, "set_model"):
        return OptimizerTarget(
            deployment, lambda version_id: registry.load_model(version_id, load_full=True)
        )
    raise ConfigError(
        "deployment must be a Deployment or an InferenceOptimizer, "
        f"got {type(deployment).__name__}."
    )
