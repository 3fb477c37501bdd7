"""Every kind of module comes back as it was: bits, shapes, layouts, ties and structure."""

import io
import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from module_files import to_files
from torch import nn
from torch.nn.utils import parametrizations, prune

from modelyard._core.errors import InputError, UntrustedClassError
from modelyard.compression import ModelCompressor
from modelyard.torchtools.layers import own_tensors
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.version_manager.loading import ModelPaths, load_into, load_whole
from modelyard.version_manager.module_format import rebuild
from modelyard.version_manager.tensor_files import _DTYPES, read_tensors, write_tensors
from modelyard.version_manager.trust import forget_registered

VERSION = {"version_id": "m_v20231120_120000", "class_name": "M", "config": {}}


def raw(tensor):
    """The bytes of a tensor's values, in the order of its dimensions."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    # as_strided: the stride of what has one element or none may be anything.
    flat = plain.as_strided((plain.numel(),), (1,))
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same_tensor(found, wanted):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert found.requires_grad == wanted.requires_grad
    assert isinstance(found, nn.Parameter) == isinstance(wanted, nn.Parameter)
    assert raw(found) == raw(wanted)


def assert_same_module(found, wanted):
    """Equal names in equal order, equal bits, equal ties, equal modes of every part."""
    one, other = dict(own_tensors(found)), dict(own_tensors(wanted))
    assert list(one) == list(other)
    for name, tensor in other.items():
        assert_same_tensor(one[name], tensor)
    assert list(found.state_dict()) == list(wanted.state_dict())
    modes = [(name, type(part), part.training) for name, part in wanted.named_modules()]
    assert [(name, type(part), part.training) for name, part in found.named_modules()] == modes


def stored(files, folder):
    weights, description = folder / "weights.safetensors", folder / "module.pt"
    buffer = io.BytesIO()
    write_tensors(files.tensors)(buffer)
    weights.write_bytes(buffer.getvalue())
    if files.description is not None:
        description.write_bytes(files.description)
    return ModelPaths(weights=lambda: weights, description=files.description and description)


def round_trip(model, folder, **options):
    files = to_files(model)
    assert files.reason is None
    forget_registered()
    paths = stored(files, folder)
    return rebuild(paths.description, paths.weights, **options)


# ── tensors ─────────────────────────────────────────────────────────────────────────────────


@st.composite
def laid_out_tensors(draw):
    """Any bits in any dtype and shape, as a whole or as some view of more."""
    dtype = draw(st.sampled_from(list(_DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = torch.Size(shape).numel() * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        data = bytes(byte % 2 for byte in data)
    tensor = torch.tensor(list(data), dtype=torch.uint8).view(dtype).reshape(shape)
    view = draw(st.sampled_from(["whole", "transposed", "offset", "expanded", "steps"]))
    if tensor.ndim == 0 or view == "whole":
        return tensor
    if view == "transposed":
        return tensor.movedim(0, -1)
    if view == "expanded":
        return tensor.unsqueeze(0).expand(3, *tensor.shape)
    return tensor[1:] if view == "offset" else tensor[::2]


def written(tensors, path):
    with path.open("wb") as file:
        write_tensors(tensors)(file)
    return path


@given(named=st.dictionaries(st.text(min_size=1, max_size=5), laid_out_tensors(), max_size=4))
def test_tensors_of_every_dtype_shape_and_layout_keep_their_bits(named, tmp_path_factory):
    path = written(named, tmp_path_factory.mktemp("tensors") / "t")
    found, _ = read_tensors(path)
    assert found.keys() == named.keys()
    for name, tensor in named.items():
        assert_same_tensor(found[name], tensor)


@pytest.mark.parametrize("dtype", list(_DTYPES), ids=str)
def test_every_dtype_comes_back_with_every_shape(dtype, tmp_path):
    one = torch.arange(6 * dtype.itemsize, dtype=torch.uint8)
    if dtype == torch.bool:
        one %= 2
    matrix = one.view(dtype).reshape(2, 3)
    named = {"matrix": matrix, "scalar": matrix[1, 2], "empty": matrix[:0], "column": matrix[:, 1]}
    found, _ = read_tensors(written(named, tmp_path / "t"))
    for name, tensor in named.items():
        assert_same_tensor(found[name], tensor)


def test_payload_of_nan_and_sign_of_zero_are_kept(tmp_path):
    odd = torch.tensor([0x7FC12345, -0x80000000, 0x7F800001, -1], dtype=torch.int32)
    found, _ = read_tensors(written({"x": odd.view(torch.float32)}, tmp_path / "t"))
    assert torch.equal(found["x"].view(torch.int32), odd)


def test_conjugated_and_negated_views_are_stored_as_they_read(tmp_path):
    z = torch.tensor([1 + 2j, -3j], dtype=torch.complex64)
    found, _ = read_tensors(written({"z": z.conj(), "n": z.conj().imag}, tmp_path / "t"))
    assert torch.equal(found["z"], torch.tensor([1 - 2j, 3j]))
    assert torch.equal(found["n"], torch.tensor([-2.0, 3.0]))


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float4_e2m1fn_x2], ids=str)
def test_dtypes_the_format_cannot_give_back_are_refused_by_name(dtype):
    model = nn.Module()
    model.register_buffer("odd", torch.zeros(16, dtype=torch.uint8).view(dtype))
    with pytest.raises(InputError, match=f"'odd' has dtype {dtype}"):
        to_files(model)


# ── ties, views and layouts inside modules ──────────────────────────────────────────────────


class Tied(nn.Module):
    """Ties across parts, to a buffer, by memory, and in a list no table knows of."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(6, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 6, bias=False))
        self.decoder[0].weight = self.encoder.weight
        self.register_buffer("table", self.encoder.weight)
        self.twin = nn.Linear(3, 6, bias=False)
        self.twin.weight.data = self.encoder.weight.data
        self.register_buffer("cache", torch.randn(4), persistent=False)
        self.register_buffer("same_cache", self.cache)
        self.register_buffer("none", None)
        self.register_parameter("nothing", None)
        self.listed = [self.encoder.weight, {"also": self.cache}]

    def forward(self, x):
        return self.decoder(self.encoder(x)) + self.twin(self.listed[0][x])


def assert_tied(model):
    weight = model.encoder.weight
    assert model.decoder[0].weight is weight
    assert model.table is weight
    assert model.same_cache is model.cache
    assert model.none is None
    assert model.nothing is None


def test_every_kind_of_tie_survives(tmp_path):
    model = Tied()
    found = round_trip(model, tmp_path)
    assert_same_module(found, model)
    assert_tied(found)
    assert found.twin.weight is not found.encoder.weight
    assert found.twin.weight.data_ptr() == found.encoder.weight.data_ptr()
    assert found.listed[0] is found.encoder.weight
    assert found.listed[1]["also"] is found.cache
    assert "cache" not in found.state_dict()
    assert vars(found).keys() == vars(model).keys()


@pytest.mark.slow
def test_rebuilt_ties_train_as_one(tmp_path):
    model, x = Tied(), torch.tensor([0, 2])
    found = round_trip(model, tmp_path)
    for each in (model, found):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(x).square().sum().backward()
        optimizer.step()
    assert_same_module(found, model)


def test_ties_and_unlisted_buffers_reach_a_given_class(tmp_path):
    model = Tied().eval()
    found = load_into(Tied, VERSION, stored(to_files(model), tmp_path))
    assert_same_module(found, model)
    assert_tied(found)


class OtherOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3, bias=False)
        self.first = nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight


class ThisOrder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.last = nn.Linear(3, 3, bias=False)
        self.last.weight = self.first.weight


def test_class_that_names_tied_parts_in_another_order_gets_them(tmp_path):
    model = ThisOrder()
    found = load_into(OtherOrder, VERSION, stored(to_files(model), tmp_path))
    assert raw(found.last.weight) == raw(model.first.weight)
    assert found.last.weight is found.first.weight


class Views(nn.Module):
    """Tensors that are not simply their memory in order."""

    def __init__(self):
        super().__init__()
        base = torch.arange(24.0).reshape(4, 6)
        self.transposed = nn.Parameter(torch.randn(3, 5).T)
        self.register_buffer("offset", base[2:, 1:])
        self.register_buffer("expanded", torch.randn(1, 3).expand(4, 3))
        self.register_buffer("stepped", base[:, ::3])
        self.register_buffer("scalar", torch.tensor(-0.0))
        self.register_buffer("hollow", torch.empty(0, 3))
        self.register_buffer("leaf", torch.ones(2).requires_grad_())
        self.convolution = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
        self.plain = torch.randn(6).reshape(2, 3).T  # neither parameter nor buffer


def test_views_keep_values_and_dense_layouts(tmp_path):
    model = Views()
    found = round_trip(model, tmp_path)
    assert_same_module(found, model)
    assert found.transposed.stride() == (1, 5)
    weight = found.convolution.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.plain, model.plain)


def test_module_of_every_dtype(tmp_path):
    model = nn.Module()
    for dtype in _DTYPES:
        values = torch.arange(4 * dtype.itemsize, dtype=torch.uint8) % 2
        model.register_buffer(str(dtype).replace(".", "_"), values.view(dtype))
    model.register_parameter("small", nn.Parameter(torch.ones(2, dtype=torch.bfloat16)))
    model.register_parameter(
        "whole", nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    )
    assert_same_module(round_trip(model, tmp_path), model)


# ── kinds of modules ────────────────────────────────────────────────────────────────────────


class Nested(nn.Module):
    """A part that may be wrapped."""

    def __init__(self, wrap=None):
        super().__init__()
        body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.body = wrap(body) if wrap else body
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


def compiled(module):
    return torch.compile(module, backend="eager")


def double_wrapped(module):
    return nn.DataParallel(compiled(nn.Sequential(compiled(module))))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel], ids=["compile", "parallel"])
def test_wrapper_is_left_behind_wherever_it_was(wrap, tmp_path):
    model = Nested(wrap)
    bare = Nested()
    bare.load_state_dict(dict(zip(bare.state_dict(), model.state_dict().values(), strict=True)))
    assert_same_module(round_trip(model, tmp_path), bare)
    assert_same_module(round_trip(wrap(model), tmp_path), bare)
    assert isinstance(model.body, type(wrap(nn.ReLU())))
    found = load_into(Nested, VERSION, stored(to_files(model), tmp_path))
    assert_same_module(found.train(), bare)


def test_wrappers_in_wrappers_are_left_behind(tmp_path):
    found = round_trip(nn.Sequential(double_wrapped(nn.Linear(2, 2))), tmp_path)
    assert type(found[0]) is nn.Sequential
    assert type(found[0][0]) is nn.Linear
    assert list(found.state_dict()) == ["0.0.weight", "0.0.bias"]


def test_weights_of_a_wrapped_part_fit_a_class_that_wraps_it(tmp_path):
    model = Nested()

    def wrapping():
        return Nested(compiled)

    found = load_into(wrapping, VERSION, stored(to_files(model), tmp_path))
    assert raw(found.head.weight) == raw(model.head.weight)
    assert [raw(t) for _, t in own_tensors(found)] == [raw(t) for _, t in own_tensors(model)]


def masked():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.ln_structured(model[2], "weight", amount=0.5, n=2, dim=1)
    return model


def made_permanent():
    model = masked()
    prune.remove(model[0], "weight")
    prune.remove(model[2], "weight")
    return model


def narrowed():
    """Of another width than its constructor makes, as structured pruning leaves it."""
    model = Nested()
    model.body[0] = nn.Linear(4, 3)
    model.head = nn.Linear(3, 2)
    return model


KINDS = {
    "none": nn.ReLU,
    "hollow": lambda: nn.Sequential(nn.Identity(), nn.Flatten()),
    "lstm": lambda: nn.LSTM(4, 5, num_layers=2, bidirectional=True),
    "gru": lambda: nn.Sequential(nn.GRU(4, 4, batch_first=True)),
    "norm": lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
    "masked": masked,
    "permanent": made_permanent,
    "narrowed": narrowed,
    "shared part": lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2),
    "lists": lambda: nn.ModuleDict({"a": nn.ModuleList(), "b": nn.ParameterList([torch.ones(2)])}),
}


@pytest.mark.parametrize("name", KINDS)
def test_modules_come_back_whole_and_in_their_mode(name, tmp_path):
    model = KINDS[name]()
    for module in list(model.modules())[1::2]:
        module.training = False
    before = {key: raw(tensor) for key, tensor in own_tensors(model)}
    modes = [part.training for part in model.modules()]
    found = round_trip(model, tmp_path)
    assert_same_module(found, model)
    assert before == {key: raw(tensor) for key, tensor in own_tensors(model)}
    assert modes == [part.training for part in model.modules()]
    if name not in {"lists", "lstm", "gru"}:
        with torch.no_grad():
            want, got = (each.eval()(torch.ones(2, 4)) for each in (model, found))
        assert raw(want) == raw(got)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_layers_answer_and_train_alike(name, tmp_path):
    model = KINDS[name]()
    found, x = round_trip(model, tmp_path), torch.randn(3, 2, 4)
    for _ in range(2):
        answers = [each(x)[0] for each in (model, found)]
        assert raw(answers[0]) == raw(answers[1])
        for each, answer in zip((model, found), answers, strict=True):
            optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
            answer.square().sum().backward()
            optimizer.step()


def test_mask_goes_on_pruning_after_the_round_trip(tmp_path):
    found = round_trip(masked(), tmp_path)
    prune.remove(found[0], "weight")
    assert (found[0].weight == 0).sum() == 8


def test_other_widths_than_the_class_makes_are_a_clear_error(tmp_path):
    paths = stored(to_files(narrowed()), tmp_path)
    with pytest.raises(
        InputError, match=r"(?s)do not fit Nested.*size mismatch for body\.0\.weight"
    ):
        load_into(Nested, VERSION, paths)


def test_other_dtype_than_the_class_can_take_is_a_clear_error(tmp_path):
    model = nn.Module()
    model.register_parameter(
        "weight", nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    )

    class Floats(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    with pytest.raises(InputError, match=r"do not fit .*Floats"):
        load_into(Floats, VERSION, stored(to_files(model), tmp_path))


@pytest.mark.parametrize("kind", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_modules_load_into_their_class(kind, tmp_path):
    def make():
        return kind(nn.Linear(4, 4))

    model = make()
    found = load_into(make, VERSION, stored(to_files(model), tmp_path))
    with torch.no_grad():
        assert raw(found(torch.ones(1, 4))) == raw(model.eval()(torch.ones(1, 4)))


def test_quantized_module_comes_back_whole(tmp_path):
    model = quantized_module()
    found = round_trip(model, tmp_path)
    x = torch.randn(2, 4)
    assert isinstance(found, OnnxModule)
    assert raw(found(x)) == raw(model(x))
    assert found.recipe == model.recipe


def quantized_module():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    compressor = ModelCompressor(model, example_input=torch.randn(2, 4))
    compressor.dynamic_quantization()
    return compressor.model


# ── what is not stored, or not whole ────────────────────────────────────────────────────────


def test_tensors_without_values_are_refused_with_the_way_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(InputError, match=r"'1\.weight' is on the meta device.*to_empty"):
        to_files(model)


def test_lazy_parts_are_refused_by_name():
    with pytest.raises(InputError, match=r"'1\.weight' is lazy"):
        to_files(nn.Sequential(nn.ReLU(), nn.LazyConv1d(2, 3)))


def local_class():
    class Local(nn.Linear):
        pass

    return nn.Sequential(Local(2, 2))


def with_attribute(value):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].extra = value
    return model


def with_lambda_hook():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: with_attribute(lambda x: x), r"attribute '0\.extra' holds <function .*lambda"),
        (lambda: with_attribute(threading.Lock()), r"attribute '0\.extra' holds <unlocked"),
        (lambda: with_attribute({"deep": [threading.Lock()]}), r"attribute '0\.extra' holds \{"),
        (with_lambda_hook, r"attribute '0\._forward_hooks'"),
        (local_class, r"'0' is of the class .*local_class\.<locals>\.Local, which cannot be"),
    ],
    ids=["lambda", "lock", "deep", "hook", "class"],
)
def test_what_cannot_be_pickled_is_named_and_the_weights_are_stored(make, words, tmp_path):
    files = to_files(make())
    assert files.description is None
    assert re.search(words, files.reason)
    found = load_into(lambda: nn.Sequential(nn.Linear(2, 2)), VERSION, stored(files, tmp_path))
    assert list(found.state_dict()) == ["0.weight", "0.bias"]


def doubled(module, args, output):
    return output * 2


def test_hook_is_rebuilt_when_somebody_vouches_for_it(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(doubled)
    with pytest.raises(UntrustedClassError, match="doubled"):
        round_trip(model, tmp_path)
    found = round_trip(model, tmp_path, trusted_classes=[doubled])
    assert raw(found(torch.ones(1, 2))) == raw(model(torch.ones(1, 2)))


def test_arrays_and_settings_in_attributes_come_back(tmp_path):
    model = nn.Linear(2, 2)
    model.means = np.array([1.5, np.nan], dtype=np.float32)
    model.names = np.array(["a", "bc"])
    model.step = np.float64(0.1)
    model.raw, model.no_bytes = b"\x00\xff", b""
    model.options = {"sizes": (1, 2), 3: None, "set": {1, 2}, "dtype": torch.float16}
    found = round_trip(model, tmp_path)
    assert found.means.dtype == np.float32
    assert found.means.tobytes() == model.means.tobytes()
    assert found.names.tolist() == ["a", "bc"]
    assert found.step == 0.1
    assert found.raw == model.raw
    assert found.no_bytes == b""
    assert found.options == model.options


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
@pytest.mark.parametrize("code", ["?", "i1", "u8", "f2", "c8", "U5", "S3", "V4", "M8[ns]", "m8"])
def test_arrays_of_every_kind_in_attributes_come_back(code, shape, tmp_path):
    model = nn.Linear(2, 2)
    model.array = np.zeros(shape, dtype=code)
    model.kind = model.array.dtype
    found = round_trip(model, tmp_path)
    assert found.array.dtype == model.array.dtype == found.kind
    assert found.array.shape == shape
    assert found.array.tobytes() == model.array.tobytes()


def test_array_of_objects_is_named_as_the_reason():
    model = nn.Linear(2, 2)
    model.array = np.array([{}, None])
    assert "calls numpy.dtype with arguments that no array of numbers" in to_files(model).reason


def test_whole_module_is_in_eval_mode(tmp_path):
    paths = stored(to_files(nn.Sequential(nn.Dropout())), tmp_path)
    found = load_whole(VERSION, paths, trusted_classes=(), trust=False)
    assert not any(part.training for part in found.modules())
