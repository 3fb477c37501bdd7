"""Training that compression needs: fine-tuning, and distillation from a teacher.

Both share one loop (`loop`): validation with early stopping, the best weights restored, the same
weights for the same seed, and training that goes on after an interruption.

Example:
    >>> import torch
    >>> from modelyard.compression.training import TrainingPlan, fine_tune_, history_table
    >>> model, x = torch.nn.Linear(4, 1), torch.ones(8, 4)
    >>> history = fine_tune_(model, [(x, torch.ones(8))], TrainingPlan(epochs=3), progress=False)
    >>> len(history)
    3
"""

from modelyard.compression.training.distillation import distil_
from modelyard.compression.training.fine_tuning import fine_tune_
from modelyard.compression.training.history import history_figure, history_table
from modelyard.compression.training.plan import DistillationPlan, TrainingPlan

__all__ = [
    "DistillationPlan",
    "TrainingPlan",
    "distil_",
    "fine_tune_",
    "history_figure",
    "history_table",
]
