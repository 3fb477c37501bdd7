"""How a model is trained: every option of fine-tuning and of distillation, checked when made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard._core.errors import ConfigError

TASKS = ("auto", "classification", "regression", "embedding", "policy")
SCHEDULES = ("constant", "cosine")
DEFAULT_TEMPERATURE = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How a model is trained, with or without a teacher.

    Attributes:
        epochs: Passes over the data, 1 or more.
        task: "classification" (logits, classes last), "regression" (values), "embedding"
            (vectors, also by their angle), "policy" (distributions of actions), or "auto":
            policy where the model answers with a `torch.distributions.Distribution`,
            classification where the targets are whole numbers, else regression (so without
            targets, too).
        learning_rate: Highest rate of AdamW.
        weight_decay: Of AdamW, on parameters of two or more dimensions; 0 makes it Adam.
        schedule: "constant", or "cosine" down to 0 at the end of the last epoch.
        warmup_epochs: The rate rises linearly over this many epochs; a fraction is allowed.
        max_grad_norm: Gradients are scaled down to this norm; infinity leaves them.
        patience: Stop after this many epochs in a row without a better validation; None: never.
        maximize: Whether a larger value of the validation metric is better.
        amp: Forward passes of training in bfloat16: True, False, or "auto": on CUDA devices that
            have it. Weights, losses and validation stay in the model's own type. Never float16.
        seed: Of the order of the data, of dropout and of projectors; 0 or more.
    """

    epochs: int
    task: str = "auto"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    max_grad_norm: float = 1.0
    patience: int | None = None
    maximize: bool = True
    amp: bool | str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one("epochs", self.epochs)
        _one_of("task", self.task, TASKS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _positive("learning_rate", self.learning_rate)
        _not_negative("weight_decay", self.weight_decay)
        _not_negative("warmup_epochs", self.warmup_epochs)
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ConfigError(
                f"warmup_epochs must be less than epochs ({self.epochs}), "
                f"got {self.warmup_epochs}."
            )
        if not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm must be above 0, got {self.max_grad_norm}.")
        if self.patience is not None:
            _at_least_one("patience", self.patience)
        if not isinstance(self.amp, bool) and self.amp != "auto":
            raise ConfigError(f"amp must be True, False or 'auto', got {self.amp!r}.")
        _not_negative("seed", self.seed)

    def learning_rate_at(self, started: float, ended: float) -> float:
        """The rate of the step between two moments, in epochs from the start of the training.

        Source:
            Cosine: Loshchilov and Hutter (2017), SGDR, equation 5, without restarts.
        """
        highest, warmup = float(self.learning_rate), float(self.warmup_epochs)
        if ended <= warmup:
            return highest * ended / warmup
        if self.schedule == "constant":
            return highest
        done = max(0.0, started - warmup) / (self.epochs - warmup)
        return highest * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class DistillationPlan(TrainingPlan):
    """How a student is trained on a teacher's answers.

    The loss is `alpha` times the distillation loss, plus `1 - alpha` times the task loss, plus
    `feature_weight` times the feature loss.

    Attributes:
        temperature: Softens the distributions of classes; above 0. Without effect on other tasks,
            which is warned of where it is not the default.
        alpha: Weight of the distillation loss, 0 to 1. With 1 the data needs no targets.
        features: Names of the teacher's layers to those of the student's that imitate them.
        feature_weight: Weight of the feature loss, above 0.
    """

    temperature: float = DEFAULT_TEMPERATURE
    alpha: float = 0.5
    features: Mapping[str, str] = field(default_factory=dict)
    feature_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("temperature", self.temperature)
        _positive("feature_weight", self.feature_weight)
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha must be in [0, 1], got {self.alpha}.")
        if not isinstance(self.features, Mapping):
            raise ConfigError(
                'features must map layers of the teacher to layers of the student, {"0": "0"}, '
                f"got {self.features!r}."
            )


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite, got {value}.")


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} must be 0 or more, got {value}.")


def _at_least_one(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be 1 or more, a whole number; got {value!r}.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} {value!r} is not one of {', '.join(known)}.")
