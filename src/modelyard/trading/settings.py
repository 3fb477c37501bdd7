"""Everything that shapes a chain: sizes of the three models, how each is trained, where to cut."""

from dataclasses import asdict, dataclass, field
from datetime import date

import torch

from modelyard.trading.account import DEFAULT_COST_RATE
from modelyard.trading.data import TRAIN_END
from modelyard.trading.policy import PolicyNetwork
from modelyard.trading.transformer import ForecastHead, MarketTransformer
from modelyard.trading.transformer_training import TransformerTraining
from modelyard.trading.ts2vec import TS2Vec
from modelyard.trading.ts2vec_training import TS2VecTraining


@dataclass(frozen=True, kw_only=True)
class TS2VecSize:
    """Arguments of `TS2Vec`; inputs (4) and output (128) are the chain's."""

    hidden_size: int = 32
    depth: int = 5


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """Arguments of `MarketTransformer`; inputs (64, 155) and output (256) are the chain's."""

    model_size: int = 32
    n_layers: int = 2
    n_heads: int = 4
    feedforward_size: int = 64


@dataclass(frozen=True, kw_only=True)
class PolicySize:
    """Arguments of `PolicyNetwork`."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    n_inputs: int = 263
    n_actions: int = 4


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of the three models."""

    ts2vec: TS2VecSize = field(default_factory=TS2VecSize)
    transformer: TransformerSize = field(default_factory=TransformerSize)
    policy: PolicySize = field(default_factory=PolicySize)


@dataclass(frozen=True, kw_only=True)
class PolicyTraining:
    """How long and how PPO is trained; names of stable-baselines3 in brackets.

    Attributes:
        n_steps: Environment steps in all [total_timesteps].
        n_envs: Environments stepped together.
        n_steps_per_rollout: Steps per environment between updates [n_steps].
        batch_size: States per gradient step [batch_size].
        n_epochs: Passes over each rollout [n_epochs].
        learning_rate: Of Adam [learning_rate].
        discount: Of rewards, per day [gamma].
        gae_lambda: Of the advantage estimate [gae_lambda].
        entropy_weight: Reward for staying undecided [ent_coef].
        episode_days: Steps per episode.
    """

    n_steps: int = 50_000
    n_envs: int = 8
    n_steps_per_rollout: int = 256
    batch_size: int = 256
    n_epochs: int = 6
    learning_rate: float = 3e-4
    discount: float = 0.95
    gae_lambda: float = 0.95
    entropy_weight: float = 0.01
    episode_days: int = 252


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """All that decides a trained chain, beside the seed and the data.

    Attributes:
        architecture: Sizes of the three models.
        ts2vec_training: How TS2Vec is trained.
        transformer_training: How the Transformer is trained.
        policy_training: How PPO is trained.
        train_end: Last day of the training part.
        cost_rate: Cost per unit of money traded; 0.001 is 10 basis points.
        n_threads: torch threads in training. One: models this small gain nothing from a second
            thread, and on a busy machine lose much by waiting for it.
    """

    architecture: Architecture = field(default_factory=Architecture)
    ts2vec_training: TS2VecTraining = field(default_factory=TS2VecTraining)
    transformer_training: TransformerTraining = field(default_factory=TransformerTraining)
    policy_training: PolicyTraining = field(default_factory=PolicyTraining)
    train_end: date = TRAIN_END
    cost_rate: float = DEFAULT_COST_RATE
    n_threads: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """The three models of a chain and the Transformer's training head, untrained or trained."""

    ts2vec: TS2Vec
    transformer: MarketTransformer
    head: ForecastHead
    policy: PolicyNetwork


def build_models(architecture: Architecture, *, seed: int) -> Models:
    """Untrained models in eval mode; the same seed gives the same weights.

    torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Models(
            ts2vec=TS2Vec(**asdict(architecture.ts2vec)).eval(),
            transformer=MarketTransformer(**asdict(architecture.transformer)).eval(),
            head=ForecastHead().eval(),
            policy=PolicyNetwork(**asdict(architecture.policy)).eval(),
        )
