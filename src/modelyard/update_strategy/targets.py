"""Carrying a rollout's shares to whatever serves the model."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from modelyard._core.errors import ConfigError
from modelyard.update_strategy.decisions import Evidence
from modelyard.update_strategy.ports import Registry, ServingTarget, SwapTarget
from modelyard.update_strategy.settings import UpdateSettings


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


class PointerOnly:
    """Nothing serves: only the production pointer will move.

    Args:
        registry: Knows the versions.
        goes_by_clock: False where another process serves and takes the steps.
    """

    applied_to: list[str]
    is_empty = False

    def __init__(self, registry: Registry, *, goes_by_clock: bool = True) -> None:
        self.applied_to = []
        self.goes_by_clock = goes_by_clock
        self._registry = registry

    def prepare(self, version_id: str) -> None:
        """The version must at least be there."""
        self._registry.get_version(version_id)

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Nothing to split."""

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """Nothing to serve."""

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None


class DeploymentTarget:
    """Several versions served side by side, each measured by itself."""

    goes_by_clock = False

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
        """Set the shares; what is not loaded yet is loaded first."""
        for version_id in shares:
            self._deployment.add_version(version_id)
        self._deployment.set_shares(shares, stable=stable)

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:
        """All the traffic to one version; the memory of the others is freed."""
        self.split({version_id: 1.0}, stable=version_id)
        for gone in retired:
            self._deployment.retire(gone)

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """How the version has been doing since it began to serve; nothing if it does not."""
        if version_id not in self._deployment.versions():
            return Evidence()
        n_total = self._deployment.n_answers(version_id)
        return Evidence.of(self._deployment.health(version_id), settings, n_total=n_total)


class OptimizerTarget:
    """One model that is exchanged when the new version's share reaches 100 %.

    The optimizer comes with a model that bears no id; it is taken for the stable version.
    """

    goes_by_clock = True

    def __init__(self, optimizer: SwapTarget, load: Callable[[str], Any]) -> None:
        self.applied_to = ["optimizer"]
        self._optimizer = optimizer
        self._load = load
        self._serving: str | None = None
        self._prepared: tuple[str, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the optimizer has no model yet."""
        return self._optimizer.model is None

    def prepare(self, version_id: str) -> None:
        """Load the version: what cannot be loaded must not begin to roll out."""
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
            name, module = self._prepared or ("", None)
            self._optimizer.set_model(module if name == version_id else self._load(version_id))
            self._serving = version_id
        self._prepared = None

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """One model at a time: nothing is measured side by side."""
        return None


def target_for(deployment: Any, registry: Registry, *, is_remote: bool) -> Target:
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
            deployment, lambda version_id: registry.load_model(version_id, load_full=True)
        )
    raise ConfigError(
        "deployment must be a Deployment or an InferenceOptimizer, "
        f"got {type(deployment).__name__}."
    )
