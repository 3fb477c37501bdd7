"""Modules whose weights are computed from others come back whole, and go on being computed."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from modelyard.version_manager import ModelVersionManager, parametrized


class Symmetric(nn.Module):
    """Makes a square matrix symmetric."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Positive(nn.Module):
    """Makes a tensor positive."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


class OwnLayer(nn.Linear):
    """A class of one's own that is parametrized."""


class Causal(nn.Module):
    """A convolution as a TCN has it."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(4)
        self.conv = parametrizations.weight_norm(nn.Conv1d(4, 8, 3, padding=2))
        self.after = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.conv(self.before(x).transpose(1, 2))[..., : x.shape[1]]
        return self.after(seen.amax(-1))


def _both(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Positive())
    parametrize.register_parametrization(layer, "bias", Positive())
    return layer


MODELS = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral_norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))),
    "several": lambda: _both(nn.Linear(4, 4)),
    "own_class": lambda: nn.Sequential(_both(OwnLayer(4, 4)), nn.ReLU()),
    "recurrent": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.LSTM(4, 4, batch_first=True), "weight_hh_l0")
    ),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "causal": Causal,
}


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(tmp_path)


def _answer(model, x):
    with torch.no_grad():
        found = model(x)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", MODELS)
def test_it_comes_back_whole(registry, name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(2, 5, 4)
    version_id = registry.save_model(model, "tcn", {"sharpe": 1.0})
    found = registry.load_model(version_id, load_full=True)
    assert torch.equal(_answer(found, x), _answer(model, x))
    assert list(found.state_dict()) == list(model.state_dict())
    assert [n for n, _ in found.named_modules()] == [n for n, _ in model.named_modules()]
    for told, part in zip(found.modules(), model.modules(), strict=True):
        assert type(told).__name__ == type(part).__name__
        assert parametrize.is_parametrized(told) == parametrize.is_parametrized(part)


def test_its_class_is_told_without_the_parametrization(registry):
    version_id = registry.save_model(_both(nn.Linear(4, 4)), "policy", {})
    assert registry.get_version(version_id)["class_name"] == "torch.nn.modules.linear.Linear"


@pytest.mark.parametrize("name", MODELS)
def test_saving_leaves_the_model_as_it_is(registry, name):
    model = MODELS[name]()
    kinds = [type(part) for part in model.modules()]
    before = copy.deepcopy(model.state_dict())
    registry.save_model(model, "tcn", {})
    assert [type(part) for part in model.modules()] == kinds
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), model.state_dict().values(), strict=True)
    )


def test_what_came_back_goes_on_being_trained(registry):
    torch.manual_seed(0)
    model = Causal()
    found = registry.load_model(registry.save_model(model, "tcn", {}), load_full=True)
    x = torch.randn(2, 5, 4)
    for trained in (model.train(), found.train()):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained(x).square().sum().backward()
        optimizer.step()
    assert torch.equal(_answer(model, x), _answer(found, x))
    assert not torch.equal(found.conv.weight, Causal().conv.weight)


def test_what_came_back_can_be_saved_again_and_freed_of_it(registry):
    model = Causal().eval()
    found = registry.load_model(registry.save_model(model, "tcn", {}), load_full=True)
    again = registry.load_model(registry.save_model(found, "tcn", {}), load_full=True)
    parametrize.remove_parametrizations(again.conv, "weight")
    x = torch.randn(2, 5, 4)
    assert type(again.conv) is nn.Conv1d
    assert torch.allclose(_answer(again, x), _answer(model, x))


@pytest.mark.parametrize("name", ["forward", "eval", "a.b", ""])
def test_a_file_binds_nothing_else_than_tensors(name):
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    parametrized.give_back_classes_(layer)
    table = layer.parametrizations
    table._modules[name] = table._modules.pop("weight")
    with pytest.raises(KeyError):
        parametrized.bind_(layer)


def test_old_normalisations_come_back_too(registry):
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(
            nn.utils.weight_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Linear(4, 4))
        ).eval()
    x = torch.randn(2, 4)
    found = registry.load_model(registry.save_model(model, "old", {}), load_full=True)
    assert torch.equal(found(x), model(x))
