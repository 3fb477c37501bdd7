"""What a monitor is told of answers in several parts."""

import numpy as np
import pytest
import torch
from torch import distributions as d
from torch import nn

from modelyard.deployment import Deployment
from modelyard.deployment.watched import as_prediction
from modelyard.version_manager import ModelVersionManager

ACTION, VALUE = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0, 6.0])


@pytest.mark.parametrize(
    ("answer", "rows"),
    [
        ({"action": ACTION, "value": VALUE}, [[1, 2, 5], [3, 4, 6]]),
        ((ACTION.numpy(), {"value": VALUE, "name": "ppo"}), [[1, 2, 5], [3, 4, 6]]),
        ((ACTION, (torch.zeros(1, 2, 8), VALUE[:, None])), [[1, 2, 5], [3, 4, 6]]),
        ((ACTION, torch.zeros(3)), [[1, 2], [3, 4]]),
        (d.Normal(ACTION, VALUE[:, None]), [[1, 2, 5, 5], [3, 4, 6, 6]]),
        ({"value": torch.tensor(5.0)}, [[5]]),
        ((torch.complex(VALUE, -VALUE),), [[5, -5], [6, -6]]),
        ({"class": torch.tensor([2, 0])}, [[2], [0]]),
    ],
)
def test_parts_with_a_row_for_each_sample_stand_beside_each_other(answer, rows):
    assert as_prediction(answer).tolist() == rows


@pytest.mark.parametrize("answer", ["buy", None, 1.5, [1.0, 2.0], (1, 2.5), {"a": "buy"}, {}])
def test_what_is_plain_stays_as_it_is(answer):
    assert as_prediction(answer) is answer


def test_an_empty_batch_stays_as_it_is():
    answer = {"action": torch.zeros(0, 2)}
    assert as_prediction(answer) is answer


def test_a_batch_of_one_is_a_row():
    assert as_prediction(ACTION[:1]).shape == (2,)
    assert np.array_equal(as_prediction(ACTION), ACTION.numpy())


class Policy(nn.Module):
    """Answers with an action and a value."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        action, value = self.layer(x).split([2, 1], dim=-1)
        return {"action": action, "value": value.squeeze(-1)}


def test_drift_of_a_policys_answers_is_seen(tmp_path):
    torch.manual_seed(0)
    registry = ModelVersionManager(tmp_path)
    version_id = registry.save_model(Policy().eval(), "policy", example_input=torch.ones(2, 4))
    deployment = Deployment(registry, "policy", seed=0)
    deployment.serve(version_id)
    monitor = deployment.monitor(version_id)
    for _ in range(200):
        deployment.predict(torch.randn(1, 4))
    monitor.set_baseline()
    assert not monitor.detect_prediction_drift()["is_drifted"]
    for _ in range(200):
        deployment.predict(torch.randn(1, 4) + 4.0)
    assert monitor.detect_prediction_drift()["is_drifted"]
    assert monitor.get_summary()["odd_values"]["unreadable"] == 0
