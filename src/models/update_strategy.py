"""Alias of `modelyard.update_strategy`."""

from modelyard.update_strategy import UpdateStrategy, UpdateTrigger

__all__ = ["UpdateStrategy", "UpdateTrigger"]
