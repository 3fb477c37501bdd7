"""An `InferenceOptimizer` as what serves: one model, exchanged at the end."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelyard.update_strategy.evidence import Evidence, evidence_since
from modelyard.update_strategy.ports import (
    DriftWatcher,
    HealthLike,
    Registry,
    SwapTarget,
    Watcher,
)
from modelyard.update_strategy.settings import UpdateSettings


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The module of a version, and the example input that was saved with it or None."""

    module: Any
    example: Any


@dataclass(frozen=True)
class _Prepared:
    """A version that has been loaded, and whether it must serve without being tuned first."""

    version_id: str
    loaded: Loaded
    at_once: bool


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What the monitor said at some moment."""

    health: HealthLike
    n_total: int

    def evidence(self, settings: UpdateSettings) -> Evidence:
        """The same as numbers to decide by."""
        return Evidence.of(self.health, settings, n_total=self.n_total)


@dataclass(frozen=True, kw_only=True)
class _Exchanged:
    """The last exchange: of which version, what was recorded by then, and what counts no more."""

    old: str | None
    before: _Recorded
    since: _Recorded


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
        self, optimizer: SwapTarget, load: Callable[[str], Loaded], *, monitor: Watcher
    ) -> None:
        self.applied_to = ["optimizer"]
        self._optimizer = optimizer
        self._load = load
        self._monitor = monitor
        self._serving: str | None = None
        self._prepared: _Prepared | None = None
        self._exchanged: _Exchanged | None = None

    @property
    def serving(self) -> frozenset[str] | None:
        """Nothing while the optimizer has no model; which version it has bears no id."""
        return frozenset() if self._optimizer.model is None else None

    def prepare(self, version_id: str, *, at_once: bool = False) -> bool:
        """Load the version and let it answer: what cannot must not begin to roll out."""
        if version_id == self._serving:
            return False
        self._prepared = _Prepared(version_id, self._load(version_id), at_once=at_once)
        return True

    def drop(self, version_id: str) -> None:
        """Forget the module that was loaded."""
        if self._prepared is not None and self._prepared.version_id == version_id:
            self._prepared = None

    def split(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Exchange the model once one version has all the traffic."""
        whole = [version_id for version_id, share in shares.items() if share == 1.0]
        if whole:
            self.serve(whole[0])
        elif self._serving is None and self._optimizer.model is not None:
            self._serving = stable

    def serve(self, version_id: str, *, retired: Iterable[str] = ()) -> None:  # noqa: ARG002 - the port's signature
        """Exchange the model, unless it is the one that serves."""
        if version_id != self._serving:
            self._exchange(version_id)
            self._exchanged = _Exchanged(
                old=self._serving,
                before=self._recorded(),
                since=self._recorded(),
            )
            self._serving = version_id
        self._prepared = None

    def mirror(self, version_id: str | None) -> None:
        """An optimizer has one model: there is nothing to copy requests to."""

    def set_stable_only(self, *, is_on: bool) -> None:
        """An optimizer has one model, and it is the stable one until the exchange."""

    def measure_anew(self) -> None:
        """Count from now on what is recorded of the new version."""
        if self._exchanged is not None:
            self._exchanged = replace(self._exchanged, since=self._recorded())

    def _recorded(self) -> _Recorded:
        return _Recorded(health=self._monitor.health(), n_total=self._monitor.total_predictions)

    def _exchange(self, version_id: str) -> None:
        prepared = self._prepared
        if prepared is None or prepared.version_id != version_id:
            self._optimizer.set_model(self._load(version_id).module)
        elif prepared.at_once:
            # Going back: a version known to be bad must not serve while another is tuned.
            self._optimizer.set_model(prepared.loaded.module)
        else:
            loaded = prepared.loaded
            self._optimizer.swap(loaded.module, example_input=loaded.example)

    def evidence(self, version_id: str, settings: UpdateSettings) -> Evidence | None:
        """What was recorded since the exchange, of the old version until then.

        None before an exchange, and while nothing has been recorded since: the monitor then has
        nothing to do with this optimizer, and the clock goes on alone.
        """
        exchanged = self._exchanged
        if exchanged is None or version_id not in {exchanged.old, self._serving}:
            return None
        if version_id == exchanged.old:
            return exchanged.before.evidence(settings)
        now = self._recorded()
        if now.n_total == exchanged.before.n_total:
            return None
        return evidence_since(now.evidence(settings), exchanged.since.evidence(settings))

    evidence_of_candidate = evidence

    def evidence_beside(self, version_id: str, settings: UpdateSettings) -> Evidence | None:  # noqa: ARG002 - the port's signature
        """Nothing serves side by side."""
        return None

    evidence_at_step = evidence_beside

    def present(self, version_id: str, monitored: Evidence, settings: UpdateSettings) -> Evidence:
        """What was recorded since the exchange; all of it where there was none."""
        if version_id != self._serving or self._exchanged is None:
            return monitored
        return self.evidence(version_id, settings) or Evidence()

    def drift_watcher(self, version_id: str) -> DriftWatcher | None:  # noqa: ARG002 - the port's signature
        """Nothing measures a version by itself."""
        return None


def proved(registry: Registry, version_id: str) -> Loaded:
    """A version, after it has answered the example that was saved with it.

    Raises:
        InputError: It does not run on its example, or answers with NaN or infinity.
    """
    module = registry.load_model(version_id, load_full=True)
    try:
        example = registry.read_artifact(version_id, "example_input")
    except LookupError:
        return Loaded(module=module, example=None)
    from modelyard.update_strategy.proof import prove_answers  # noqa: PLC0415 - brings torch

    prove_answers(module, example, version_id)
    return Loaded(module=module, example=example)
