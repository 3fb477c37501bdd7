"""Fast inference without risk: measured backends, an exact cache, a batching engine.

Example:
    >>> import torch
    >>> from modelyard.inference_optimizer import InferenceOptimizer
    >>> optimizer = InferenceOptimizer(torch.nn.Linear(8, 2), device="cpu")
    >>> optimizer.predict(torch.zeros(1, 8)).shape
    torch.Size([1, 2])
"""

from modelyard.inference_optimizer.backends import label_of
from modelyard.inference_optimizer.engine import Engine, EngineStats
from modelyard.inference_optimizer.optimizer import InferenceOptimizer
from modelyard.inference_optimizer.records import (
    Benchmark,
    CacheStats,
    Candidate,
    Optimization,
    PerformanceStats,
)
from modelyard.inference_optimizer.targets import TargetCheck, Targets

__all__ = [
    "Benchmark",
    "CacheStats",
    "Candidate",
    "Engine",
    "EngineStats",
    "InferenceOptimizer",
    "Optimization",
    "PerformanceStats",
    "TargetCheck",
    "Targets",
    "label_of",
]
