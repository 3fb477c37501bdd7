"""Ready-made settings: `small` and `quick` to train, `document` to measure."""

from modelyard.trading.settings import (
    Architecture,
    ChainSettings,
    PolicySize,
    PolicyTraining,
    TransformerSize,
    TS2VecSize,
)
from modelyard.trading.transformer_training import TransformerTraining
from modelyard.trading.ts2vec_training import TS2VecTraining


def small() -> ChainSettings:
    """What the demo trains: large enough that compressing it shows."""
    return ChainSettings(
        architecture=Architecture(
            transformer=TransformerSize(model_size=64, feedforward_size=256),
            policy=PolicySize(hidden_sizes=(256, 256)),
        )
    )


def quick() -> ChainSettings:
    """The smallest chain that still does everything: for CI and tests."""
    return ChainSettings(
        architecture=Architecture(
            ts2vec=TS2VecSize(hidden_size=16),
            transformer=TransformerSize(n_layers=1),
            policy=PolicySize(hidden_sizes=(64, 64)),
        ),
        ts2vec_training=TS2VecTraining(n_iterations=30, batch_size=8),
        transformer_training=TransformerTraining(n_iterations=60),
        policy_training=PolicyTraining(n_steps=8_192, n_epochs=4),
    )


def document() -> Architecture:
    """The design document's sizes: 150 MB, 200 MB and 50 MB of float32 weights.

    For benchmarks; training them is not meant.
    """
    return Architecture(
        # 784 channels, not 768: those make 143 MB.
        ts2vec=TS2VecSize(hidden_size=784, depth=10),
        transformer=TransformerSize(model_size=768, n_layers=7, n_heads=12, feedforward_size=3072),
        policy=PolicySize(hidden_sizes=(2432, 2432, 2432)),
    )
