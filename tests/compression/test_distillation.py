"""The distillation losses against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from modelyard.compression.training import DistillationPlan, distil_


class Answer(nn.Module):
    """A table of logits, one row a sample; its gradient is the loss's."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, index):
        return self.logits[index]


def plan(**options):
    defaults = {
        "temperature": 3.0,
        "alpha": 0.7,
        "epochs": 1,
        "task": "auto",
        "learning_rate": 1e-9,
        "max_grad_norm": 1.0,
        "seed": 0,
    }
    return DistillationPlan(**{**defaults, **options})


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(6, 5), torch.randn(6, 5)


def losses(student, teacher, batch, **options):
    return distil_(Answer(student), Answer(teacher), [batch], plan(**options))[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_class_loss_is_hintons(logits, temperature):
    student, teacher = logits
    targets = torch.arange(6) % 5
    found = losses(student, teacher, (torch.arange(6), targets), temperature=temperature)
    divergence = nn.KLDivLoss(reduction="batchmean")(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
    )
    task = functional.cross_entropy(student, targets)
    assert found["distillation_loss"] == pytest.approx(
        float(divergence) * temperature**2, rel=1e-5
    )
    assert found["task_loss"] == pytest.approx(float(task), rel=1e-5)
    total = 0.7 * found["distillation_loss"] + 0.3 * found["task_loss"]
    assert found["loss"] == pytest.approx(total, rel=1e-5)


def test_value_loss_is_the_mean_squared_error(logits):
    student, teacher = logits
    targets = torch.zeros(6, 5)
    found = losses(student, teacher, (torch.arange(6), targets))
    want = functional.mse_loss(student, teacher)
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)
    assert found["task_loss"] == pytest.approx(float(student.square().mean()), rel=1e-5)


def test_embedding_loss_adds_the_angle(logits):
    student, teacher = logits
    found = losses(student, teacher, torch.arange(6), task="embedding", alpha=1.0)
    angle = 1 - functional.cosine_similarity(student, teacher).mean()
    want = functional.mse_loss(student, teacher) + angle
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)


def test_teacher_and_random_state_are_left_alone(logits):
    teacher = nn.Sequential(nn.Linear(5, 5), nn.Dropout()).train()
    before = [p.clone() for p in teacher.parameters()]
    student = nn.Linear(5, 5)
    state = torch.get_rng_state()
    distil_(student, teacher, [logits[0]], plan(alpha=1.0))
    assert teacher.training
    assert teacher[1].training
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
