"""What the lifecycle needs to know of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Evaluate = Callable[[nn.Module], Mapping[str, float]]
UnitScores = Callable[[nn.Module], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelSource:
    """A trained model with the data it is judged on.

    Attributes:
        name: Its name in the registry.
        model: The module, in eval mode.
        config: What it was made with.
        train_inputs: Inputs it was trained on, batch first: for calibration and distillation.
        held_out_inputs: Inputs it was not trained on, in order of time.
        evaluate: Metrics of a module on held-out data, by name; pure.
        primary_metric: The metric that counts, one of those.
        is_lower_better: Whether a smaller primary metric is the better one.
        unit_scores: One score a unit (a day, a sample) on held-out data, shape (n_units,), the
            same units in the same order for every module; what the A/B test compares.
        unit_metric: Name of that score.
        distillation_task: "regression" or "embedding": how a student learns this model's outputs.
        pruning_method: As `ModelCompressor.prune_model` takes it; None for the plan's own.
        unit: What a unit is, in the singular.
    """

    name: str
    model: nn.Module
    config: Mapping[str, Any]
    train_inputs: Tensor
    held_out_inputs: Tensor
    evaluate: Evaluate
    primary_metric: str
    unit_scores: UnitScores
    unit_metric: str
    is_lower_better: bool = False
    distillation_task: str = "regression"
    pruning_method: str | None = None
    unit: str = "sample"


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """What a model in production sees, and what it saw when all was well.

    Attributes:
        reference_inputs: Inputs of a calm period, shape (n, ...).
        reference_features: What is watched of them, shape (n, n_features).
        inputs: Inputs that come in, in order of time, shape (m, ...).
        features: What is watched of them, shape (m, n_features).
        times: When each came, shape (m,); dates or positions.
        feature_names: Names of the features.
        shaded: Periods to point out in the plot: (start, end, label).
        reference_label: What the calm period is, in words.
    """

    reference_inputs: Tensor
    reference_features: NDArray[np.float32]
    inputs: Tensor
    features: NDArray[np.float32]
    times: Sequence[str]
    feature_names: Sequence[str]
    shaded: Sequence[tuple[str, str, str]] = field(default_factory=tuple)
    reference_label: str = "the reference period"
