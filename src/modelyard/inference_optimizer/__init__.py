"""Fast inference without risk: measured backends, an exact cache, a batching engine.

Example:
    >>> import torch
    >>> from modelyard.inference_optimizer import InferenceOptimizer
    >>> optimizer = InferenceOptimizer(torch.nn.Linear(8, 2), device="cpu")
    >>> optimizer.predict(torch.zeros(1, 8)).shape
    torch.Size([1, 2])
"""

from modelyard.inference_optimizer.optimizer import InferenceOptimizer
from modelyard.inference_optimizer.records import (
    Benchmark,
    CacheStats,
    Candidate,
    Optimization,
    PerformanceStats,
)

__all__ = [
    "Benchmark",
    "CacheStats",
    "Candidate",
    "InferenceOptimizer",
    "Optimization",
    "PerformanceStats",
]
