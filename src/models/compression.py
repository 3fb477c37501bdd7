"""Alias of `modelyard.compression`."""

from modelyard.compression import ModelCompressor

__all__ = ["ModelCompressor"]
