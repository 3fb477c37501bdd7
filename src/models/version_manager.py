"""Alias of `modelyard.version_manager`."""

from modelyard.version_manager import ModelVersionManager

__all__ = ["ModelVersionManager"]
