"""Weights put into a class are told of the form they were written in, as torch does."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelyard._core.errors import InputError, IntegrityError
from modelyard.version_manager import module_format
from modelyard.version_manager.loading import ModelPaths, load_into


class Turned(nn.Module):
    """Its second form keeps the weight the other way around."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0).reshape(2, 2))

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if (metadata.get("version") or 1) < 2:
            state[prefix + "weight"] = state[prefix + "weight"].t()
        super()._load_from_state_dict(state, prefix, metadata, *rest)


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Turned()
        self.again = self.inner
        self.norm = nn.BatchNorm1d(2)


class WithExtraState(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.k = 3

    def get_extra_state(self):
        return {"k": self.k}

    def set_extra_state(self, state):
        self.k = state["k"]


@pytest.mark.parametrize("cls", [Turned, Holds])
def test_class_of_a_later_form_gets_its_weights_as_they_were_saved(registry, cls):
    model = cls()
    loaded = registry.load_model(registry.save_model(model, "ppo"), cls)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_form_is_that_of_the_save_though_the_class_has_a_later_one_now(registry, monkeypatch):
    monkeypatch.setattr(Turned, "_version", 1)
    model = Holds()
    version = registry.save_model(model, "ppo")
    monkeypatch.setattr(Turned, "_version", 2)
    loaded = registry.load_model(version, Holds)
    assert torch.equal(loaded.inner.weight, model.inner.weight.t())


def test_weights_saved_before_the_form_was_stored_are_those_of_the_class(registry, tmp_path):
    version = registry.save_model(Turned(), "ppo")
    stored = registry.get_version(version)
    tensors = load_file(registry.base_dir / stored["path"] / "weights.safetensors")
    save_file(tensors, tmp_path / "weights.safetensors")
    paths = ModelPaths(weights=lambda: tmp_path / "weights.safetensors", description=None)
    assert torch.equal(load_into(Turned, stored, paths).weight, Turned().weight)


def test_extra_state_needs_the_whole_module(registry):
    model = WithExtraState()
    model.k = 7
    version = registry.save_model(model, "ppo")
    assert registry.load_model(version).k == 7
    with pytest.raises(InputError, match="load_full=True"):
        registry.load_model(version, WithExtraState)


def test_only_forms_other_than_the_first_are_stored():
    assert module_format.part_versions(nn.Linear(1, 1)) == {"modelyard_part_versions": "{}"}
    told = module_format.part_versions(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)))
    assert told == {"modelyard_part_versions": '{"1":2}'}


def test_metadata_of_weights_that_makes_no_sense_is_an_integrity_error():
    with pytest.raises(IntegrityError, match="modelyard_part_versions"):
        module_format.state_dict_of({}, nn.ReLU(), {"modelyard_part_versions": "[1"})
