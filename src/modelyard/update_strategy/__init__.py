"""Deciding when a model is replaced, moving traffic step by step, and going back.

`UpdateStrategy` joins a registry, a monitor and, if there is one, whatever serves the model.
"""

from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.explaining import explained
from modelyard.update_strategy.history import (
    current_halt,
    last_rollout,
    last_seen,
    rollout_history,
)
from modelyard.update_strategy.records import (
    RollbackDecision,
    RollbackResult,
    RolloutState,
    UpdateDecision,
    UpdateRecord,
)
from modelyard.update_strategy.report import rollout_report
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.strategy import UpdateStrategy
from modelyard.update_strategy.triggers import UpdateTrigger

__all__ = [
    "Evidence",
    "RollbackDecision",
    "RollbackResult",
    "RolloutState",
    "UpdateDecision",
    "UpdateRecord",
    "UpdateSettings",
    "UpdateStrategy",
    "UpdateTrigger",
    "current_halt",
    "explained",
    "last_rollout",
    "last_seen",
    "rollout_history",
    "rollout_report",
]
