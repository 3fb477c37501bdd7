"""Alias of `modelyard.export`."""

from modelyard.export import ModelExporter

__all__ = ["ModelExporter"]
