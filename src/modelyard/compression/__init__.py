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
    CandidateTold,
    CompressionStats,
    DistillationEpoch,
    Evaluation,
    LayerTold,
    PruningStats,
    QuantizationStats,
    SearchResult,
)
from modelyard.compression.training import history_figure, history_table

__all__ = [
    "CandidateTold",
    "CompressionStats",
    "DistillationEpoch",
    "Evaluation",
    "LayerTold",
    "ModelCompressor",
    "PruningStats",
    "QuantizationStats",
    "SearchResult",
    "history_figure",
    "history_table",
]
