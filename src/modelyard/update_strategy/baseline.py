"""How the model was doing when all was well."""

from modelyard._core.clock import Clock
from modelyard.storage import Store
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.ports import Watcher
from modelyard.update_strategy.settings import UpdateSettings

_KIND = "update_baseline"


class Baseline:
    """Latency and key metric of the time that others are compared with; kept in the store.

    Not thread-safe: the strategy that owns it locks.

    Args:
        monitor: Watches the model; its own baseline stands in while there is none here.
        settings: Say how many samples are enough.
        store: Where it is kept.
        clock: Where the time comes from.
    """

    def __init__(
        self, monitor: Watcher, settings: UpdateSettings, *, store: Store, clock: Clock
    ) -> None:
        self._monitor = monitor
        self._settings = settings
        self._store = store
        self._clock = clock
        state = store.load_snapshot(_KIND, monitor.model_name)
        self._evidence = Evidence.from_plain(state) if state else None

    def set(self) -> None:
        """Make the monitor's present the baseline; with too few samples, its next full window."""
        self._monitor.set_baseline()
        evidence = Evidence.of(self._monitor.health(), self._settings)
        self._evidence = evidence if evidence.n >= self._settings.step_min_samples else None
        # An empty one takes the place of what an earlier process stored.
        state = {} if self._evidence is None else self._evidence.to_plain()
        self._store.save_snapshot(_KIND, self._monitor.model_name, state, clock=self._clock)

    def evidence(self) -> Evidence:
        """The numbers; NaN where nothing is known."""
        if self._evidence is not None:
            return self._evidence
        return Evidence.of(self._monitor.baseline_health(), self._settings)
