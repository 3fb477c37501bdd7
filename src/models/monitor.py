"""Alias of `modelyard.monitor`."""

from modelyard.monitor import ModelMonitor

__all__ = ["ModelMonitor"]
