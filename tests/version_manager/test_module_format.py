"""Modules as files: equal bit for bit, readable by others, and deaf to what a file asks for."""

import io
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from module_files import to_files
from torch import nn
from torch.nn.utils import prune

from modelyard._core.errors import InputError, IntegrityError, UntrustedClassError
from modelyard.version_manager.module_format import rebuild
from modelyard.version_manager.tensor_files import read_tensors, write_tensors
from modelyard.version_manager.trust import forget_registered, register_class

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@st.composite
def tensors(draw):
    """Any bits in any shape, dtype and memory layout."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    n_bytes = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
    data = draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    if dtype == torch.bool:
        data = bytes(byte % 2 for byte in data)
    raw = torch.tensor(list(data), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape)
    return tensor.mT if draw(st.booleans()) and tensor.ndim >= 2 else tensor


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def written(tensors, **options):
    buffer = io.BytesIO()
    write_tensors(tensors, **options)(buffer)
    return buffer.getvalue()


def round_trip(model, folder, **options):
    """The module after being stored and rebuilt by a process that vouches for nothing."""
    files = to_files(model)
    assert files.reason is None
    forget_registered()
    (folder / "module.pt").write_bytes(files.description)
    (folder / "weights").write_bytes(written(files.tensors))
    return rebuild(folder / "module.pt", lambda: folder / "weights", **options)


@given(named=st.dictionaries(st.text(min_size=1, max_size=5), tensors(), max_size=4))
def test_our_file_is_read_by_the_safetensors_library_bit_for_bit(named):
    named = {name: t for name, t in named.items() if name != "__metadata__"}
    found = safetensors.torch.load(written(named))
    assert found.keys() == named.keys()
    for name, tensor in named.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert bits(found[name]) == bits(tensor)


def test_file_of_the_safetensors_library_is_read_by_ours(tmp_path):
    named = {"a": torch.randn(3, 2), "b": torch.arange(4)}
    safetensors.torch.save_file(named, tmp_path / "file", metadata={"kind": "dict"})
    found, metadata = read_tensors(tmp_path / "file")
    assert metadata == {"kind": "dict"}
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())


def test_garbage_is_an_integrity_error(tmp_path):
    (tmp_path / "file").write_bytes(b"garbage")
    with pytest.raises(IntegrityError, match="no safetensors file"):
        read_tensors(tmp_path / "file")


class Odd(nn.Module):
    """Tied weights, a buffer outside the state dict, a frozen parameter, a list of numbers."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("scale", torch.rand(4), persistent=False)
        self.register_buffer("empty", None)
        self.frozen = nn.Parameter(torch.rand(2), requires_grad=False)
        self.sizes = [1, (2, 3), {"a": 4.0}]

    def forward(self, x):
        return self.decoder(self.encoder(x)) * self.scale


MODULES = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.BatchNorm1d(8), nn.Linear(8, 4)),
    "lstm": lambda: nn.LSTM(4, 4, num_layers=2, batch_first=True),
    "transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation=torch.tanh),
        1,
        enable_nested_tensor=False,
    ),
    "convolution": lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.Flatten()),
    "odd": Odd,
    "half": lambda: nn.Linear(4, 4).to(torch.bfloat16),
}
INPUTS = {
    "lstm": lambda: torch.randn(2, 5, 4),
    "transformer": lambda: torch.randn(2, 5, 4),
    "convolution": lambda: torch.randn(2, 4, 6),
    "half": lambda: torch.randn(2, 4).to(torch.bfloat16),
}


@pytest.mark.parametrize("name", MODULES)
def test_rebuilt_module_has_equal_weights_and_answers(name, tmp_path):
    model = MODULES[name]().eval()
    x = INPUTS.get(name, lambda: torch.randn(2, 4))()
    found = round_trip(model, tmp_path).eval()
    assert type(found) is type(model)
    for key, tensor in model.state_dict().items():
        assert bits(found.state_dict()[key]) == bits(tensor)
    with torch.no_grad():
        want, got = model(x), found(x)
    want, got = (want[0], got[0]) if isinstance(want, tuple) else (want, got)
    assert torch.equal(want, got)


def test_ties_buffers_and_frozen_parameters_survive(tmp_path):
    model = Odd()
    found = round_trip(model, tmp_path)
    assert found.decoder.weight is found.encoder.weight
    assert torch.equal(found.scale, model.scale)
    assert "scale" not in found.state_dict()
    assert found.empty is None
    assert not found.frozen.requires_grad
    assert found.encoder.weight.requires_grad
    assert found.sizes == model.sizes


def test_tied_weights_are_stored_once():
    assert [name for name in to_files(Odd()).tensors if "weight" in name] == ["encoder.weight"]


def test_masked_weights_survive(tmp_path):
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    found = round_trip(layer, tmp_path)
    x = torch.randn(2, 4)
    assert torch.equal(found(x), layer(x))
    assert torch.equal(found.weight_mask, layer.weight_mask)
    assert torch.equal(found.weight_orig, layer.weight_orig)


def test_saving_changes_nothing(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_files(model)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_what_is_noted_on_parameters_and_buffers_survives(tmp_path, caplog):
    model = Odd()
    model.frozen.no_decay = True
    model.encoder.weight.groups = {"a": [1, (2.5, None)]}
    model.scale.unit = "m"
    model.frozen.other = object()
    rnn = nn.GRU(2, 2)
    rnn.weight_ih_l0.no_decay = True
    found = round_trip(nn.ModuleList([model, rnn]), tmp_path)
    assert vars(found[0].frozen) == {"no_decay": True}
    assert found[0].decoder.weight.groups == {"a": [1, (2.5, None)]}
    assert found[0].scale.unit == "m"
    assert found[1].weight_ih_l0.no_decay
    assert "0.frozen.other is not stored" in caplog.text
    assert to_files(found).reason is None


def test_lazy_and_sparse_tensors_are_refused_by_name():
    with pytest.raises(InputError, match="'weight' is lazy"):
        to_files(nn.LazyLinear(4))
    sparse = nn.Module()
    sparse.register_buffer("table", torch.eye(2).to_sparse())
    with pytest.raises(InputError, match=r"'table' has dtype .*sparse"):
        to_files(sparse)


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_no_file_can_have_are_refused_at_once(name, registry):
    model = nn.Module()
    model.register_buffer(name, torch.ones(2))
    with pytest.raises(InputError, match="another name"):
        registry.save_model(model, "ppo")
    assert registry.list_versions() == []


def test_weights_of_another_module_are_refused(tmp_path):
    (tmp_path / "module.pt").write_bytes(to_files(nn.Linear(2, 2)).description)
    (tmp_path / "weights").write_bytes(written({"weight": torch.zeros(2, 2)}))
    with pytest.raises(IntegrityError, match="differ in: bias"):
        rebuild(tmp_path / "module.pt", lambda: tmp_path / "weights")
    other = {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}
    (tmp_path / "weights").write_bytes(written(other))
    with pytest.raises(IntegrityError, match=r"'weight': stored \(3, 2\)"):
        rebuild(tmp_path / "module.pt", lambda: tmp_path / "weights")


# ── hostile files ───────────────────────────────────────────────────────────────────────────


class Settings:
    """Not a module: somebody must vouch for it."""

    def __init__(self, n):
        self.n = n


class WithSettings(nn.Module):
    def __init__(self):
        super().__init__()
        self.settings = Settings(3)


class Touches(nn.Module):
    """Its constructor does something; a file must not be able to run it."""

    def __init__(self, path=None):
        super().__init__()
        if path is not None:
            open(path, "w").close()  # noqa: PTH123 - the shortest side effect


class OwnState(nn.Module):
    """Runs code of its own on what a file holds."""

    def __setstate__(self, state):
        open(state["path"], "w").close()  # noqa: PTH123


class Call:
    """Pickles as a call of anything with anything."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def hostile(value, folder):
    """A `module.pt` that holds `value`, with weights that would fit."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    (folder / "module.pt").write_bytes(buffer.getvalue())
    (folder / "weights").write_bytes(written({}))
    return folder / "module.pt", lambda: folder / "weights"


@pytest.mark.parametrize(
    "attack",
    [
        lambda path: Call(os.system, f"touch {path}"),
        lambda path: Call(open, str(path), "w"),
        lambda path: Call(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Call(Touches, str(path)),
        lambda path: Call(getattr, Call(__import__, "os"), "system"),
    ],
    ids=["system", "open", "eval", "constructor", "import"],
)
def test_no_code_runs_because_a_file_asks_for_it(attack, tmp_path):
    target = tmp_path / "ran"
    files = hostile(attack(target), tmp_path)
    with pytest.raises(UntrustedClassError):
        rebuild(*files)
    assert not target.exists()


def test_state_setting_class_needs_somebody_to_vouch(tmp_path):
    module = nn.Module.__new__(OwnState)
    module.__dict__["path"] = str(tmp_path / "ran")
    files = hostile(module, tmp_path)
    with pytest.raises(UntrustedClassError, match="OwnState"):
        rebuild(*files)
    assert not (tmp_path / "ran").exists()


def test_constructor_is_not_reachable_under_any_name_of_the_file(tmp_path):
    """The class itself must be allowed for its state to be set, but under no guessable name."""
    files = hostile([Touches(), Call(Touches, str(tmp_path / "ran"))], tmp_path)
    with pytest.raises(UntrustedClassError, match=r"asks for .*Touches to be called"):
        rebuild(*files)
    assert not (tmp_path / "ran").exists()


def test_pickle_that_is_no_module_is_refused(tmp_path):
    with pytest.raises(IntegrityError, match=r"holds a dict, no nn\.Module"):
        rebuild(*hostile({"a": 1}, tmp_path))


def test_damaged_opcode_is_an_untrusted_file(tmp_path):
    description, weights = hostile(nn.ReLU(), tmp_path)
    with zipfile.ZipFile(description) as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    with zipfile.ZipFile(description, "w") as archive:
        for name, data in parts.items():
            broken = pickle.dumps(nn.ReLU, protocol=4) if name.endswith("data.pkl") else data
            archive.writestr(name, broken)
    with pytest.raises(UntrustedClassError):
        rebuild(description, weights)


def test_unknown_class_is_listed_with_the_ways_out(tmp_path):
    with pytest.raises(UntrustedClassError, match=r"Settings.*trusted_classes.*register_class"):
        round_trip(WithSettings(), tmp_path)


@pytest.mark.parametrize("way", ["passed", "registered", "trust"])
def test_each_way_out_works(way, tmp_path):
    files = to_files(WithSettings())
    forget_registered()
    (tmp_path / "module.pt").write_bytes(files.description)
    (tmp_path / "weights").write_bytes(written(files.tensors))
    options = {"passed": {"trusted_classes": [Settings]}, "trust": {"trust": True}}
    if way == "registered":
        register_class(Settings)
    found = rebuild(tmp_path / "module.pt", lambda: tmp_path / "weights", **options.get(way, {}))
    assert found.settings.n == 3


def test_own_classes_of_this_process_need_no_vouching(tmp_path):
    files = to_files(WithSettings())
    (tmp_path / "module.pt").write_bytes(files.description)
    (tmp_path / "weights").write_bytes(written(files.tensors))
    assert rebuild(tmp_path / "module.pt", lambda: tmp_path / "weights").settings.n == 3
