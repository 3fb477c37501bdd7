"""Wrappers are taken off; what only looks like one is not."""

import pytest
import torch
from torch import nn

from modelyard.torchtools.layers import named_parts, unwrapped
from modelyard.version_manager import ModelVersionManager


class Hundredfold(nn.Module):
    """A module of a user whose part has the name that torch.compile uses."""

    def __init__(self):
        super().__init__()
        self._orig_mod = nn.Linear(1, 1)

    def forward(self, x):
        return 100 * self._orig_mod(x)


def test_part_of_a_users_module_is_no_wrapped_one():
    model = Hundredfold()
    assert unwrapped(model) is model
    assert [name for name, _ in named_parts(model)] == ["", "_orig_mod"]


@pytest.mark.slow  # torch.compile is imported
def test_compiled_and_parallel_modules_are_unwrapped():
    layer = nn.Linear(1, 1)
    assert unwrapped(torch.compile(nn.DataParallel(layer), backend="eager")) is layer
    assert unwrapped(torch.compile(model := Hundredfold(), backend="eager")) is model


def test_users_module_comes_back_from_the_registry(tmp_path):
    registry = ModelVersionManager(tmp_path)
    model, x = Hundredfold().eval(), torch.ones(1, 1)
    loaded = registry.load_model(registry.save_model(model, "wrap"))
    assert type(loaded) is Hundredfold
    assert torch.equal(loaded(x), model(x))
    registry.store.close()
