"""Where a rollback goes: to a version that is proved to serve before anything is written."""

from collections.abc import Iterable

from modelyard.update_strategy.carrier import PRODUCTION
from modelyard.update_strategy.earlier import earlier_productions
from modelyard.update_strategy.ports import Registry
from modelyard.update_strategy.rollout import Rollout
from modelyard.update_strategy.targets import Target, is_passing

# Where nothing serves it is not tried at every look: each try reads the files of versions.
_TRY_AGAIN_S = 300.0


class WayBack:
    """Finds the version that a rollback goes to.

    Not thread-safe: the strategy that owns it locks.

    Args:
        registry: Knows the versions and who was production.
        target: What serves.
        model_name: Of which model.
    """

    def __init__(self, registry: Registry, target: Target, model_name: str) -> None:
        self._registry = registry
        self._target = target
        self._model_name = model_name
        self._none_for: tuple[str, int] | None = None
        self._tried_at_s = float("-inf")

    def find(self, rollout: Rollout, *, production: str | None) -> tuple[str | None, list[str]]:
        """The version that a rollout goes back to, and why others were passed over.

        The one it replaces, if it serves. Where the pointer has moved to the candidate, else the
        newest earlier production that does; None where none does.

        Raises:
            StorageError: The store is out of reach.
        """
        old, new = rollout.old_version_id, rollout.new_version_id
        if old is None:
            return None, ["there is nothing to go back to"]
        if production != new:
            return self._first_that_serves([old], is_moved=False)
        return self._first_that_serves([old, *self.earlier(without={old, new})], is_moved=True)

    def newest_earlier(self) -> tuple[str | None, list[str]]:
        """The newest earlier production that serves, and why newer ones do not."""
        return self._first_that_serves(self.earlier(), is_moved=True)

    def earlier(self, without: Iterable[str] = ()) -> list[str]:
        """Who was production before, newest first."""
        events = self._registry.get_history(self._model_name)
        gone = set(without)
        return [one for one in earlier_productions(events, PRODUCTION) if one not in gone]

    def remember_none(self, rollout: Rollout, now_s: float) -> None:
        """Keep that nothing serves, as long as nobody changes the rollout."""
        self._none_for, self._tried_at_s = (rollout.rollout_id, rollout.revision), now_s

    def is_worth_a_try(self, rollout: Rollout, now_s: float) -> bool:
        """Whether there is a chance: it was changed since the last try, or time has passed."""
        is_tried = self._none_for == (rollout.rollout_id, rollout.revision)
        if is_tried and now_s - self._tried_at_s < _TRY_AGAIN_S:
            return False
        if is_tried:
            self._tried_at_s = now_s
        return True

    def _first_that_serves(
        self, version_ids: Iterable[str], *, is_moved: bool
    ) -> tuple[str | None, list[str]]:
        passed_over = []
        for version_id in version_ids:
            try:
                if is_moved:
                    self._registry.verify_version(version_id)
                if self._target.applied_to:
                    self._target.prepare(version_id, at_once=True)
            except Exception as error:
                if is_passing(error):
                    raise
                passed_over.append(f"{version_id} was passed over: {error}")
            else:
                return version_id, passed_over
        return None, passed_over
