"""Smaller and faster models, with the error measured at every step.

Example:
    >>> import torch
    >>> from modelyard.compression import ModelCompressor
    >>> compressor = ModelCompressor(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()))
    >>> stats = compressor.prune_model(amount=0.5)
    >>> round(stats["actual_sparsity"], 2)
    0.5
"""

from modelyard.compression.compressor import ModelCompressor
from modelyard.compression.records import (
    CompressionStats,
    DistillationEpoch,
    Evaluation,
    PruningStats,
    QuantizationStats,
)

__all__ = [
    "CompressionStats",
    "DistillationEpoch",
    "Evaluation",
    "ModelCompressor",
    "PruningStats",
    "QuantizationStats",
]
