"""What training needs travels with a version and goes on where it stopped."""

import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, NotFoundError


def training(model):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)


def train(model, optimizer, scheduler, steps):
    for step in steps:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()


def test_training_goes_on_bit_for_bit_from_a_version(registry):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer, scheduler = training(model)
    train(model, optimizer, scheduler, range(5))
    state = {"optimizer": optimizer, "scheduler": scheduler, "epoch": 5}
    version_id = registry.save_model(model, "ppo", training_state=state)
    train(model, optimizer, scheduler, range(5, 10))
    resumed = registry.load_model(version_id).train()
    stored = registry.read_training_state(version_id)
    again = training(resumed)
    again[0].load_state_dict(stored["optimizer"])
    again[1].load_state_dict(stored["scheduler"])
    train(resumed, *again, range(stored["epoch"], 10))
    assert torch.equal(resumed.weight, model.weight)
    assert again[1].state_dict()["last_epoch"] == scheduler.state_dict()["last_epoch"]


def test_version_without_one_says_so(registry, save):
    with pytest.raises(NotFoundError, match="training_state"):
        registry.read_training_state(save())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"training_state": [1]}, "must be a dict"),
        ({"training_state": {"optimizer": object()}}, "training_state.*optimizer"),
        ({"artifacts": {"training_state": 1}}, "pass training_state="),
        (
            {"artifacts": {"example_input": 1}, "example_input": torch.zeros(1, 8)},
            "pass example_input=",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_and_stores_nothing(registry, mlp, options, said):
    with pytest.raises(ConfigError, match=said):
        registry.save_model(mlp, "ppo", **options)
    assert registry.list_versions() == []
    assert list(registry.store.blobs.stored()) == []
