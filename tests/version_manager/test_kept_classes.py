"""Classes that a module keeps as values: the same after loading, and never called by it."""

import io
import sys
import types
from collections import OrderedDict

import pytest
import torch
from torch import nn

from modelyard._core.errors import UntrustedClassError
from modelyard.version_manager.module_format import load_module_file
from modelyard.version_manager.trust import forget_registered


class Chooses(nn.Module):
    """Does what the class it keeps says."""

    def __init__(self, block=nn.BatchNorm1d):
        super().__init__()
        self.block = block
        self.line = nn.Linear(2, 2)

    def forward(self, x):
        return self.line(x) if self.block is nn.BatchNorm1d else self.line(x) * 0


class Keeps(nn.Module):
    """Keeps what it is given, and itself in another place."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept


def test_class_kept_as_a_value_is_that_class_again_and_can_be_saved_again(registry):
    model, x = Chooses().eval(), torch.ones(1, 2)
    first = registry.save_model(model, "ppo")
    loaded = registry.load_model(first)
    assert loaded.block is nn.BatchNorm1d
    assert torch.equal(loaded(x), model(x))
    again = registry.save_model(loaded, "ppo")
    assert registry.get_version(again)["can_load_full"]
    assert registry.load_model(again).block is nn.BatchNorm1d


@pytest.mark.parametrize(
    "kept",
    [
        [nn.ReLU, [nn.GELU]],
        (1, (nn.ReLU, [nn.GELU])),
        {"a": nn.ReLU, nn.GELU: [nn.ReLU]},
        OrderedDict([(nn.ReLU, 1), ("b", nn.GELU)]),
        {nn.ReLU, "a"},
        [Keeps((nn.ReLU, Chooses))],
    ],
    ids=["list", "tuple", "dict", "ordered", "set", "module"],
)
def test_classes_are_found_wherever_they_are_kept(registry, kept):
    version = registry.save_model(Keeps(kept), "ppo")
    forget_registered()
    found = registry.load_model(version).kept
    if isinstance(kept, list) and isinstance(kept[0], Keeps):
        found, kept = found[0].kept, kept[0].kept
    assert found == kept
    assert list(found) == list(kept)


def test_lists_that_hold_themselves_and_shared_ones_stay_so(registry):
    kept = [nn.ReLU]
    kept += [kept, (kept, nn.GELU)]
    found = registry.load_model(registry.save_model(Keeps(kept), "ppo")).kept
    assert found[0] is nn.ReLU
    assert found[1] is found
    assert found[2][0] is found
    assert found[2][1] is nn.GELU


@pytest.mark.parametrize("name", ["forward", "_forward_hooks", "_call_impl"])
def test_class_where_it_would_be_called_unasked_is_refused(name, tmp_path):
    model = nn.Linear(1, 1)
    value = {0: nn.ReLU} if name.endswith("hooks") else nn.ReLU
    vars(model)["earlier"] = value
    vars(model)[name] = value
    torch.save(model, tmp_path / "module.pt")
    with pytest.raises(UntrustedClassError, match=r"asks for .*ReLU to be called"):
        load_module_file(tmp_path / "module.pt")


def test_class_nobody_may_rebuild_is_refused_as_a_value_too(tmp_path):
    home = types.ModuleType("home_of_a_plain_class")
    home.Plain = type("Plain", (), {"__module__": home.__name__})
    sys.modules[home.__name__] = home
    buffer = io.BytesIO()
    try:
        torch.save(Keeps([home.Plain]), buffer)
        (tmp_path / "module.pt").write_bytes(buffer.getvalue())
        with pytest.raises(UntrustedClassError, match="Plain"):
            load_module_file(tmp_path / "module.pt")
    finally:
        del sys.modules[home.__name__]
