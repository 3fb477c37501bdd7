"""Making the traffic of this process what is decided: for a rollout, or for production."""

import logging
from collections.abc import Iterable

from modelyard._core.errors import VersionNotFoundError
from modelyard.storage import tables
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.ports import Registry, Watcher
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.targets import Target, is_passing

_logger = logging.getLogger("modelyard")

PRODUCTION = tables.PRODUCTION


class Carrier:
    """Carries rollouts and production to what serves.

    Production is what the registry's alias says; between rollouts whatever serves follows it.
    Not thread-safe: the strategy that owns it locks.

    Args:
        registry: Knows production.
        monitor: Gets the alerts.
        target: What serves.

    Attributes:
        carried: The unfinished rollout that is served, as it is; None between rollouts.
    """

    def __init__(self, registry: Registry, monitor: Watcher, target: Target) -> None:
        self.carried: Rollout | None = None
        self._registry = registry
        self._monitor = monitor
        self._target = target
        self._unable: tuple[str, int] | None = None  # what could not be served when assisting
        self._serving: str | None = None  # the production that is served
        self._is_stable_only = False

    def production(self) -> str | None:
        """The version that is production, or None."""
        try:
            found: str = self._registry.get_by_alias(self._monitor.model_name, PRODUCTION)[
                "version_id"
            ]
        except VersionNotFoundError:
            return None
        return found

    def take_up(self, rollout: Rollout | None) -> None:
        """Serve what is decided already, before the first request comes."""
        self._serving = production = self.production()
        serving = self._target.serving
        if production is not None and serving is not None:
            if not serving:
                self._target.serve(production)
            elif rollout is None or rollout.phase == states.PENDING:
                self._bring_in_line(production, serving)
        if rollout is not None:
            self.assist(rollout)

    def _bring_in_line(self, production: str, serving: frozenset[str]) -> None:
        """Serve production where something else has the traffic, or a part of it."""
        if serving != {production}:
            names = ", ".join(sorted(serving - {production}))
            _logger.warning(
                "%s is production and serves everything from now on, %s nothing.",
                production,
                names,
            )
            self._follow(production, retired=serving - {production})

    def is_carried(self, rollout: Rollout, *, any_revision: bool = False) -> bool:
        """Whether the traffic is as this rollout says; in any of its states, if told so."""
        carried = self.carried
        return (
            carried is not None
            and carried.rollout_id == rollout.rollout_id
            and (any_revision or carried.revision == rollout.revision)
        )

    def apply(self, rollout: Rollout) -> None:
        """Make the traffic what an unfinished rollout says."""
        old, phase = rollout.old_version_id, rollout.phase
        if phase != states.PENDING:
            # Whoever replaced a version is not rid of it while it is watched.
            stable = rollout.new_version_id if old is None else old
            self._target.split(rollout.traffic, stable=stable)
        self._target.mirror(rollout.shadow)
        self.carried = rollout

    def cannot_serve(self, rollout: Rollout) -> str | None:
        """Why the candidate cannot be served here; None once the traffic is as it should be."""
        if not self.is_carried(rollout):
            try:
                self._target.prepare(rollout.new_version_id)
                self.apply(rollout)
            except Exception as error:
                if is_passing(error):
                    raise
                return f"{rollout.new_version_id} cannot be served: {error}"
        return None

    def assist(self, rollout: Rollout) -> None:
        """Serve what the leading process has decided; if that cannot be, go on as before."""
        change = (rollout.rollout_id, rollout.revision)
        if self.is_carried(rollout) or self._unable == change:
            return
        try:
            self.apply(rollout)
        except Exception as error:
            if is_passing(error):
                raise
            self._unable = change  # tried once for each change, not at every look
            _logger.warning("%s cannot be served here: %s", rollout.rollout_id, error)

    def let_go(self) -> None:
        """After a rollout has ended: all the traffic to production, the other one forgotten."""
        if self.carried is None:
            return
        old, new = self.carried.old_version_id, self.carried.new_version_id
        production = self.production() or old
        self._target.mirror(None)
        if production is not None:
            gone = {version_id for version_id in (old, new) if version_id is not None}
            self._follow(production, retired=gone - {production})
        self.carried = None

    def follow_production(self) -> None:
        """Serve the production that someone has named by hand."""
        if not self._target.applied_to:
            return
        production = self.production()
        if production is not None and production != self._serving:
            self._follow(production, retired={self._serving} if self._serving else ())

    def set_stable_only(self, *, is_on: bool) -> None:
        """Have the stable version answer everything, or follow the shares again."""
        if is_on != self._is_stable_only:
            self._target.set_stable_only(is_on=is_on)
            self._is_stable_only = is_on

    def alert(self, message: str) -> None:
        """Make something known to whoever watches the alerts."""
        self._monitor.raise_alert("rollback", severity="critical", message=message)

    def _follow(self, version_id: str, *, retired: Iterable[str]) -> None:
        try:
            self._target.serve(version_id, retired=retired)
        except Exception as error:
            if is_passing(error):
                raise
            self.alert(f"{version_id} is production and cannot be served: {error}")
        # Tried once for each move of the pointer, not at every look.
        self._serving = version_id
