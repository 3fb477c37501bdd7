"""Alias of `modelyard.inference_optimizer`."""

from modelyard.inference_optimizer import InferenceOptimizer

__all__ = ["InferenceOptimizer"]
