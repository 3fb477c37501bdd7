"""The versions that one process serves, and who gets which part of the traffic."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import CapacityError, ConfigError
from modelyard.deployment.attempts import Deadline
from modelyard.deployment.recent import Recent
from modelyard.deployment.routed import Routing
from modelyard.deployment.serving import Maker, VersionSource, size_of
from modelyard.deployment.shadowing import Shadow, ShadowComparison
from modelyard.monitor import Health
from modelyard.routing import SlotTable

_MB = 1e6
_TOLERANCE = 1e-6  # of a sum of shares
_T = TypeVar("_T")


class Fleet:
    """Versions and their shares. The base of `Deployment`, whose docstring says what it takes.

    Thread-safe: requests read one immutable `Routing` that changes replace as a whole; one lock
    orders the changes, another the loading of versions, for which no request waits.
    """

    def __init__(
        self,
        version_manager: VersionSource,
        model_name: str,
        *,
        window_size: int = 1000,
        alert_thresholds: Mapping[str, float | None] | None = None,
        cache_size: int = 0,
        optimize: bool = False,
        clock: Clock | None = None,
        store: Any = None,
        timeout_s: float | None = None,
        memory_limit_mb: float | None = None,
    ) -> None:
        for name, value in (("timeout_s", timeout_s), ("memory_limit_mb", memory_limit_mb)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0 or None, got {value!r}.")
        self.model_name = model_name
        self._source = version_manager
        self._clock = clock or SystemClock()
        self._maker = Maker(
            source=version_manager,
            window_size=window_size,
            thresholds=alert_thresholds,
            cache_size=cache_size,
            optimize=optimize,
            clock=self._clock,
            store=store,
        )
        self._timeout_s = timeout_s
        self._memory_limit_mb = memory_limit_mb
        self._routing = Routing()
        self._changing = threading.RLock()  # guards changes of _routing
        self._loading = threading.Lock()  # one version at a time; taken before _changing

    @property
    def window_size(self) -> int:
        """Predictions of each version that its numbers look at."""
        return self._maker.window_size

    # ── versions ────────────────────────────────────────────────────────────────────────────

    def serve(self, version_id: str) -> None:
        """Give all the traffic to one version.

        Raises:
            ConfigError: It is a version of another model.
            VersionNotFoundError, IntegrityError, UntrustedClassError: It cannot be loaded.
            InputError: It does not answer.
        """
        self.add_version(version_id)
        self.set_shares({version_id: 1.0}, stable=version_id)

    def add_version(self, version_id: str, model: Any = None) -> None:
        """Make a version ready to answer; it gets no traffic yet. Nothing if it is ready.

        Args:
            version_id: Which one.
            model: Its module if it is loaded already.

        Raises:
            ConfigError: It is a version of another model.
            VersionNotFoundError, IntegrityError, UntrustedClassError: It cannot be loaded.
            InputError: It does not run on the example input saved with it, or answers with NaN or
                infinity.
            CapacityError: With it, the loaded versions would be over `memory_limit_mb`.
        """
        with self._loading:
            if version_id in self._routing.served:
                return
            self._refuse_other_model(version_id, is_loaded=model is not None)
            module = self._maker.loaded(version_id, model)
            self._refuse_too_large(version_id, module)
            made = self._maker.made(version_id, module)
            with self._changing:
                deadlines = {**self._routing.deadlines}
                if self._timeout_s is not None:
                    deadlines[version_id] = Deadline(self._timeout_s)
                served = {**self._routing.served, version_id: made}
                self._routing = replace(self._routing, served=served, deadlines=deadlines)

    def set_shares(self, shares: Mapping[str, float], *, stable: str) -> None:
        """Split the traffic, at once.

        Users are dealt out to the stable version from one end and to the others from the other,
        so that of two versions each has the same users whenever it has the same share: on the way
        up, on the way down, and in every process. Of three, only as many move as must.

        Args:
            shares: Part of the traffic by version, 0 to 1, adding up to 1; in any order.
            stable: The version that answers what another fails to.

        Raises:
            ConfigError: Shares that do not add up, or a version that was not added.
        """
        with self._changing:
            unknown = sorted({*shares, stable} - self._routing.served.keys())
            if unknown:
                raise ConfigError(f"{unknown[0]!r} is not loaded: call add_version() first.")
            _check_shares(shares)
            routing = self._routing
            weights = {name: shares[name] for name in _dealt(shares, stable)}
            slots = (
                SlotTable.from_weights(weights)
                if routing.slots is None
                else routing.slots.reassigned(weights, from_below=frozenset(weights) - {stable})
            )
            recent, beside = routing.recent, routing.beside
            if slots != routing.slots:
                # A version that has no share any more keeps what it did while it had one.
                recent = {**recent, **self._recent_of(weights)}
            if weights.keys() - routing.sharing:
                beside = self._recent_of(weights)
            self._routing = replace(
                routing,
                slots=slots,
                sharing=frozenset(weights),
                stable=stable,
                recent=recent,
                beside=beside,
            )

    def retire(self, version_id: str) -> None:
        """Forget a version that has no traffic; its memory is freed. Nothing if it is unknown.

        Raises:
            ConfigError: It still has traffic, or stands behind the others.
        """
        with self._changing:
            if self.shares().get(version_id) or version_id == self._routing.stable:
                raise ConfigError(
                    f"{version_id!r} still has traffic or is stable: set_shares() first."
                )
            if self._routing.shadow is not None and self._routing.shadow.version_id == version_id:
                self.set_shadow(None)
            routing = self._routing
            deadline = routing.deadlines.get(version_id)
            if deadline is not None:
                deadline.close()
            self._routing = replace(
                routing,
                served=_without(version_id, routing.served),
                deadlines=_without(version_id, routing.deadlines),
                recent=_without(version_id, routing.recent),
                beside=_without(version_id, routing.beside),
            )

    def set_shadow(self, version_id: str | None) -> None:
        """Have a version answer copies of requests from now on, or none.

        Its answers are compared with the stable version's (`shadow_comparison`); nobody gets
        them. It answers on a thread of its own, and where more requests come than it can answer,
        copies are dropped and counted. Its own monitor sees nothing of it: latencies on such a
        thread are not those of real requests.

        Raises:
            ConfigError: It was not added.
        """
        with self._changing:
            before = self._routing.shadow
            if (None if before is None else before.version_id) == version_id:
                return
            self._set_shadow(version_id)

    def shadow_health(self, version_id: str) -> Health | None:
        """Answers and errors of a version on copies of requests; None if it gets none."""
        shadow = self._routing.shadow
        if shadow is None or shadow.version_id != version_id:
            return None
        return shadow.health()

    def shadow_comparison(self) -> ShadowComparison | None:
        """How the answers to copies differ from the stable version's; None without a shadow."""
        shadow = self._routing.shadow
        return None if shadow is None else shadow.comparison()

    def set_stable_only(self, *, is_on: bool = True) -> None:
        """Have the stable version answer everything, whatever the shares are; or no longer."""
        with self._changing:
            self._routing = replace(self._routing, is_stable_only=is_on)

    def measure_anew(self) -> None:
        """Forget what was measured side by side so far, of copies too; monitors go on."""
        with self._changing:
            routing = self._routing
            self._routing = replace(
                routing,
                recent={**routing.recent, **self._recent_of(routing.sharing)},
                beside={**routing.beside, **self._recent_of(routing.sharing)},
            )
            if routing.shadow is not None:
                self._set_shadow(routing.shadow.version_id)

    def memory_mb(self) -> float:
        """Parameters and buffers of all loaded versions, in 10^6 bytes."""
        return sum(served.size_bytes for served in self._routing.served.values()) / _MB

    def shares(self) -> dict[str, float]:
        """Part of the traffic by version, 0 to 1."""
        slots = self._routing.slots
        return {} if slots is None else slots.shares()

    def versions(self) -> list[str]:
        """Versions that are ready to answer, in the order they were added."""
        return list(self._routing.served)

    # ── inside ────────────────────────────────────────────────────────────────────

    def _refuse_other_model(self, version_id: str, *, is_loaded: bool) -> None:
        try:
            model_name = self._source.get_version(version_id)["model_name"]
        except LookupError:
            # Whoever brings the module along needs no stored version for it.
            if is_loaded:
                return
            raise
        if model_name != self.model_name:
            raise ConfigError(
                f"{version_id!r} is a version of {model_name!r}; this deployment serves "
                f"{self.model_name!r}."
            )

    def _refuse_unknown(self, version_id: str) -> None:
        if version_id not in self._routing.served:
            known = ", ".join(sorted(self._routing.served)) or "none"
            raise ConfigError(f"{version_id!r} is not loaded. Loaded are: {known}.")

    def _set_shadow(self, version_id: str | None) -> None:
        """Begin with a shadow, beside which the others are measured from now on; or end it."""
        before, made, beside = self._routing.shadow, None, self._routing.beside
        if version_id is not None:
            self._refuse_unknown(version_id)
            made = Shadow(
                self._routing.served[version_id], window_size=self.window_size, clock=self._clock
            )
            beside = self._recent_of(self._routing.sharing)
        self._routing = replace(self._routing, shadow=made, beside=beside)
        if before is not None:
            before.stop()

    def _refuse_too_large(self, version_id: str, module: Any) -> None:
        limit = self._memory_limit_mb
        needed = self.memory_mb() + size_of(module) / _MB
        if limit is not None and needed > limit:
            loaded = ", ".join(self._routing.served) or "none"
            raise CapacityError(
                f"With {version_id} the loaded versions would take {needed:.1f} MB, over "
                f"memory_limit_mb={limit:g}. Loaded are: {loaded}. Retire one, or raise the limit."
            )

    def _recent_of(self, version_ids: Iterable[str]) -> dict[str, Recent]:
        return {version_id: Recent(self._maker.window_size) for version_id in version_ids}


def _without(version_id: str, kept: Mapping[str, _T]) -> dict[str, _T]:
    return {key: one for key, one in kept.items() if key != version_id}


def _dealt(shares: Mapping[str, float], stable: str) -> list[str]:
    """Who gets a share, in the order in which users are dealt out: the stable version first."""
    sharing = [version_id for version_id, share in shares.items() if share > 0]
    return sorted(sharing, key=lambda version_id: (version_id != stable, version_id))


def _check_shares(shares: Mapping[str, float]) -> None:
    is_split = all(0.0 <= share <= 1.0 for share in shares.values())
    if not is_split or abs(sum(shares.values()) - 1.0) > _TOLERANCE:
        raise ConfigError(f"Shares must lie between 0 and 1 and add up to 1, got {dict(shares)}.")
