"""Alias of `modelyard.ab_testing`."""

from modelyard.ab_testing import ABTest, ModelVariant, MultiArmedBandit

__all__ = ["ABTest", "ModelVariant", "MultiArmedBandit"]
