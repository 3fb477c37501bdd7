"""Every target: the file alone gives the model's answers, or there is no file."""

import copy
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import openvino
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from modelyard._core.errors import (
    ConfigError,
    ConversionError,
    InputError,
    MissingDependencyError,
    QuantizationError,
)
from modelyard.export import PRESETS, TARGETS, ModelExporter
from modelyard.export.files import put_in_place
from modelyard.export.optimization import is_faster
from modelyard.torchtools.openvino_core import openvino_core
from modelyard.trading import build_models, presets


class Branches(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else -x


class Nested(nn.Module):
    def forward(self, batch, scale=None, *, power=2):
        x = batch["prices"] ** power
        return {"x": x if scale is None else x * scale, "sum": x.sum(1)}


class FreezesBatch(nn.Module):
    """What a trace makes of it holds for the traced batch alone."""

    def forward(self, x):
        n = int(x.shape[0])
        return x.reshape(n, -1) + torch.arange(n).reshape(-1, 1)


@pytest.fixture
def exporter(tmp_path):
    return ModelExporter(tmp_path / "out")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.LayerNorm(32), nn.Linear(32, 3)).eval()


def loaded(exported):
    """The file as a function, by its own runtime and nothing of ours."""
    if exported.target == "onnx":
        session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    if exported.target == "torch_export":
        return torch.export.load(exported.path).module()
    if exported.target == "torchscript":
        return torch.jit.load(exported.path)
    compiled = openvino_core().compile_model(
        exported.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda x: torch.from_numpy(compiled([x.numpy()])[0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_a_file_answers_by_itself(exporter, model, target):
    exported = exporter.export(model, "net", target, input_shape=(1, 8))
    assert exported.path == exporter.output_dir / f"net{TARGETS[target].suffixes[0]}"
    assert exported.verification.n_samples == 22
    assert exported.verification.sizes == {"batch_size": (1, 2, 3, 8, 33, 130)}
    answer = loaded(exported)
    for n in (1, 5):
        x = torch.randn(n, 8)
        with torch.no_grad():
            torch.testing.assert_close(answer(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["onnx", "torch_export", "torchscript"])
def test_nothing_of_this_machine_is_in_a_file(exporter, target):
    exported = exporter.export(
        Nested(), "net", target, example_input={"batch": {"prices": torch.randn(2, 3)}}
    )
    data = exported.path.read_bytes()
    assert __file__.encode() not in data
    assert b"/site-packages" not in data
    if target != "onnx":
        with zipfile.ZipFile(exported.path) as archive:
            assert not [name for name in archive.namelist() if "debug" in name]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_branch_on_the_data_is_refused_and_an_older_file_stays(exporter, target):
    path = exporter.output_dir / f"net{TARGETS[target].suffixes[0]}"
    path.parent.mkdir()
    path.write_text("older")
    with pytest.raises(ConversionError, match=r"return 2 \* x if x.sum.*branches on the data"):
        exporter.export(Branches(), "net", target, input_shape=(2, 3))
    assert [file.name for file in exporter.output_dir.iterdir()] == [path.name]
    assert path.read_text() == "older"


class Pair(NamedTuple):
    """As a policy answers."""

    mean: torch.Tensor
    deviation: torch.Tensor


class Answers(nn.Module):
    """Answers in a form that not every format has."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Linear(8, 1)

    def forward(self, x):
        return self.form(self.layer(x))


@pytest.mark.parametrize(
    ("form", "target", "error", "message"),
    [
        (lambda y: Pair(y, y.exp()), "torch_export", ConversionError, "a .pt2 file"),
        (lambda y: {"action": y, "of": "ppo"}, "torch_export", ConversionError, "a .pt2 file"),
        (lambda y: y.squeeze(), "openvino", ConversionError, "OpenVINO does not take Answers"),
        (lambda y: Normal(y, y.exp()), "onnx", InputError, "Give its parameters"),
    ],
)
def test_answers_that_a_format_does_not_have_are_refused(exporter, form, target, error, message):
    with pytest.raises(error, match=message):
        exporter.export(Answers(form).eval(), "policy", target, example_input=torch.zeros(2, 8))


def test_a_frozen_batch_is_refused_in_a_trace(exporter):
    with pytest.raises(
        ConversionError, match="as TorchScript is not the module: what was written"
    ):
        exporter.export(FreezesBatch(), "net", "torchscript", input_shape=(2, 3))


def test_an_exported_program_takes_what_forward_takes(exporter):
    example = {"batch": {"prices": torch.randn(2, 3)}, "scale": None, "power": 3}
    exported = exporter.export(Nested(), "net", "torch_export", example_input=example)
    assert (exported.inputs, exported.outputs) == (("batch_prices",), ("x", "sum"))
    program = torch.export.load(exported.path)
    assert program.example_inputs is None
    batch = {"prices": torch.randn(4, 3)}
    answer = program.module()(batch=batch, scale=None, power=3)
    torch.testing.assert_close(answer["sum"], (batch["prices"] ** 3).sum(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:FutureWarning")
def test_a_scripted_module_is_written_as_it_is(exporter):
    script = torch.jit.script(Branches())
    exported = exporter.export(script, "net", "torchscript", input_shape=(2, 3))
    assert exported.route == "scripted"
    x = -torch.ones(2, 3)
    assert torch.equal(torch.jit.load(exported.path)(x), -x)


@pytest.mark.parametrize("target", ["torch_export", "torchscript", "openvino"])
def test_metadata_is_in_every_file(exporter, model, target):
    exported = exporter.export(
        model, "net", target, input_shape=(1, 8), metadata={"desk": "rates"}
    )
    if target == "openvino":
        info = openvino.Core().read_model(exported.path).get_rt_info(["modelyard", "desk"])
        assert info.astype(str) == "rates"
    else:
        with zipfile.ZipFile(exported.path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("modelyard.json")]
            assert json.loads(archive.read(name))["desk"] == "rates"


@pytest.mark.parametrize(
    ("precision", "largest"), [("fp16", 5e-3), ("bf16", 5e-2), ("int8", 5e-2)]
)
def test_smaller_numbers_make_a_smaller_file_of_the_same_answers(exporter, precision, largest):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    full = exporter.export(model, "full", input_shape=(1, 64))
    small = exporter.export(model, "small", input_shape=(1, 64), precision=precision)
    assert small.size_bytes < 0.6 * full.size_bytes
    assert onnx.load(small.path).opset_import[0].version == 14
    x = torch.randn(16, 64)
    with torch.no_grad():
        want = model(x)
    got = loaded(small)(x)
    assert got.dtype == torch.float32
    assert float((got - want).norm() / want.norm()) < largest
    assert exporter.get_model_info(small.path)["metadata"]["precision"] == precision


def test_int8_is_calibrated_and_judged_on_the_users_data(exporter):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14, 3)
    ).eval()
    data = torch.randn(64, 4, 16)
    exported = exporter.export(
        model, "net", example_input=data[:2], precision="int8", validation_data=data
    )
    details = exported.details
    assert details["recipe"] == "static_int8"
    assert details["validated_on"] == "validation_data"
    assert 0 < details["max_error"] < 0.1
    with pytest.raises(QuantizationError, match=r"the limit is 0\.001 %"):
        exporter.export(model, "none", example_input=data[:2], precision="int8", max_error=0.00001)
    assert not (exporter.output_dir / "none.onnx").exists()


def test_int8_of_labels_is_judged_by_how_many_differ(exporter):
    class Acts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(16, 64)

        def forward(self, x):
            return self.net(x).argmax(1)

    torch.manual_seed(0)
    exported = exporter.export(Acts(), "acts", input_shape=(2, 16), precision="int8")
    assert exported.details["max_error"] * 256 == pytest.approx(
        round(exported.details["max_error"] * 256)
    )


def test_openvino_stores_half_precision_weights(exporter):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)).eval()
    full = exporter.export(model, "full", "openvino", input_shape=(1, 64))
    small = exporter.export(model, "small", "openvino", input_shape=(1, 64), precision="fp16")
    weights = [exported.path.with_suffix(".bin").stat().st_size for exported in (full, small)]
    assert weights[1] < 0.55 * weights[0]


def test_openvino_is_asked_for_by_its_extra(exporter, model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"modelyard\[openvino\]"):
        exporter.export(model, "net", "openvino", input_shape=(1, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tflite"}, "target must be one of onnx, torch_export, torchscript, openvino"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, bf16, int8"),
        ({"target": "torchscript", "precision": "int8"}, "'torchscript' is written in fp32"),
        ({"target": "openvino", "precision": "bf16"}, "'openvino' is written in fp32, fp16"),
        ({"preset": "dqn", "input_shape": None}, "preset must be one of ts2vec, transformer, ppo"),
        ({"opset_version": "14"}, "opset_version must be a whole number"),
        ({"opset_version": 14.5}, "opset_version must be a whole number"),
        ({"target": []}, "target must be one of"),
        ({"dynamic_axes": ["input"]}, "dynamic_axes must be such as"),
        ({"dynamic_axes": {"input": "batch"}}, "dynamic_axes must be such as"),
        ({"dynamic_axes": {"input": {0: None}}}, "dynamic_axes must be such as"),
        ({"dynamic_axes": {"input": {1.5: "x"}}}, "dynamic_axes must be such as"),
        ({"dynamic_axes": {0: {0: "x"}}}, "dynamic_axes must be such as"),
        ({"input_names": 5}, "input_names must be a list of texts"),
        ({"output_names": [""]}, "output_names must be a list of texts"),
        ({"max_error": float("nan")}, "max_error must be a number"),
        ({"input_shape": "1,8"}, "input_shape must be whole numbers"),
        ({"input_shape": (2.0, 8)}, "input_shape must be whole numbers"),
        ({"input_shape": (-1, 8)}, "input_shape must be whole numbers"),
        ({"input_shape": {"input": (1, 8)}}, "input_shape must be whole numbers"),
        ({"example_input": torch.zeros(2, 8)}, "one of example_input, input_shape and preset"),
        ({"preset": "ppo"}, "one of example_input, input_shape and preset"),
        ({"metadata": {"precision": "x"}}, "may not hold precision"),
        ({"metadata": ["x"]}, "metadata must be a dict"),
        ({"metadata": {"x": object()}}, "metadata.x holds a builtins.object"),
        ({"input_names": ["a", "b"]}, "input_names must be 1"),
    ],
)
def test_wrong_options_are_named(exporter, model, options, message):
    with pytest.raises(ConfigError, match=message):
        exporter.export(model, "net", **{"input_shape": (1, 8)} | options)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("preset", "name"), [("ts2vec", "ts2vec"), ("transformer", "transformer"), ("ppo", "policy")]
)
def test_the_documents_configurations_are_presets(exporter, preset, name, opset):
    model = getattr(build_models(presets.quick().architecture, seed=0), name).eval()
    exported = exporter.export(model, preset, preset=preset, opset_version=opset)
    info = exporter.get_model_info(exported.path)
    shapes = PRESETS[preset]
    assert info["opset_version"] == opset
    assert info["inputs"][0]["shape"] == ["batch_size", *shapes.input_shape[1:]]
    assert info["outputs"][0]["shape"] == ["batch_size", *shapes.output_shape[1:]]


def test_a_preset_refuses_another_output(exporter):
    with pytest.raises(ConversionError, match=r"give \(1, 4\); this one gives \(1, 5\)"):
        exporter.export(nn.Linear(263, 5), "net", preset="ppo")


def test_an_onnx_module_is_one_graph_and_nothing_else(exporter, model):
    from modelyard.compression import ModelCompressor

    compressor = ModelCompressor(model)
    compressor.dynamic_quantization()
    exported = exporter.export(compressor.model, "int8", metadata={"desk": "rates"})
    assert (exported.route, exported.verification) == ("onnx_module", None)
    assert exported.inputs == ("input",)
    metadata = exporter.get_model_info(exported.path)["metadata"]
    assert metadata == {"desk": "rates", "modelyard.by_sample": '["output"]'}
    with pytest.raises(ConversionError, match="the ONNX graph it is"):
        exporter.export(compressor.model, "int8", "torchscript")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({"1": 0.8, "8": 1.0}, True),
        ({"1": 0.8, "8": 1.1}, False),
        ({"1": 0.99, "8": 1.0}, False),
        ({}, False),
    ],
)
def test_a_simplified_graph_gains_somewhere_and_loses_nowhere(ratios, expected):
    times = {n: {"raw_ms": 1.0, "optimized_ms": ratio} for n, ratio in ratios.items()}
    assert is_faster(times) is expected


def test_files_that_belong_together_are_put_in_place_together(tmp_path, monkeypatch):
    path = tmp_path / "v1.2.xml"
    put_in_place(path, {".bin": b"weights 1", ".xml": b"graph 1"})

    def no_room(_path):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("modelyard.export.files.fsync_file", no_room)
        with pytest.raises(OSError, match="No space left"):
            put_in_place(path, {".bin": b"weights 2", ".xml": b"graph 2"})
    assert path.read_bytes() == b"graph 1"
    assert path.with_suffix(".bin").read_bytes() == b"weights 1"
    put_in_place(path, {".bin": b"weights 2", ".xml": b"graph 2"})
    assert path.read_bytes() == b"graph 2"
    assert path.with_suffix(".bin").read_bytes() == b"weights 2"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_crash_between_two_files_leaves_no_graph_beside_others_weights(tmp_path, monkeypatch):
    path = tmp_path / "net.xml"
    put_in_place(path, {".bin": b"weights 1", ".xml": b"graph 1"})
    replace = Path.replace

    def dies_after_the_first(self, target):
        if str(target).endswith(".xml"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(path, {".bin": b"weights 2", ".xml": b"graph 2"})
    assert not path.exists()
    assert path.with_suffix(".bin").read_bytes() == b"weights 2"


def test_two_exports_at_once_leave_the_process_as_it_was(exporter):
    from concurrent.futures import ThreadPoolExecutor

    fast_path = torch.backends.mha.get_fastpath_enabled()
    models = [nn.Sequential(nn.Linear(4, n), nn.ReLU()).eval() for n in (3, 5, 7, 9)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(
            pool.map(lambda m: exporter.export_to_onnx(m, f"net{m[0].out_features}"), models)
        )
    for model, path in zip(models, paths, strict=True):
        assert exporter.compare_outputs(model, path, torch.randn(3, 4))["is_close"]
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, p, m: e.benchmark_onnx(p, (1, 8), "a"), "num_iterations must be a whole"),
        (lambda e, p, m: e.benchmark_onnx(p, (1, 8), 0), "num_iterations must be a whole"),
        (lambda e, p, m: e.benchmark_onnx(p, (1, 8), 5, -1), "warmup_iterations must be"),
        (lambda e, p, m: e.benchmark_onnx(p, (1, 8), 5, n_threads=0), "n_threads must be"),
        (lambda e, p, m: e.benchmark_onnx(p, (1, "a"), 5), "input_shape must be whole"),
        (
            lambda e, p, m: e.benchmark_onnx(p, (1, 8), 5, pytorch_model=nn.Linear(7, 7)),
            "pytorch_model .Linear. does not run",
        ),
        (lambda e, p, m: e.compare_outputs(m, p, torch.zeros(1, 8), rtol="a"), "rtol must be"),
        (lambda e, p, m: e.compare_outputs(m, p, torch.zeros(1, 9)), "does not run on test_input"),
        (lambda e, p, m: e.get_model_info(None), "onnx_path must be a path"),
        (lambda e, p, m: e.visualize(3), "onnx_path must be a path"),
        (lambda e, p, m: ModelExporter(None), "output_dir must be a path"),
    ],
)
def test_wrong_arguments_of_what_reads_files_are_named(exporter, model, call, message):
    path = exporter.export_to_onnx(model, "net", (1, 8), optimize=False)
    with pytest.raises((ConfigError, InputError), match=message):
        call(exporter, path, model)


class Difference(nn.Module):
    def forward(self, a, b):
        return a - 2 * b


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inputs_by_name_may_come_in_any_order(exporter):
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    exported = exporter.export(
        Difference(), "net", example_input={"a": x, "b": y}, validation_data=[{"b": y, "a": x}]
    )
    assert exporter.compare_outputs(Difference(), exported.path, {"b": y, "a": x})["is_close"]
    script = torch.jit.script(Difference())
    exporter.export(script, "script", "torchscript", example_input={"b": y, "a": x})


def test_an_example_is_not_changed_by_a_model_that_writes_into_it(exporter):
    class Writes(nn.Module):
        def forward(self, x):
            x += 1
            return x * 2

    x = torch.zeros(2, 3)
    path = exporter.export_to_onnx(Writes(), "net", example_input=x)
    exporter.benchmark_onnx(path, None, 5, pytorch_model=Writes(), example_input=x)
    exporter.compare_outputs(Writes(), path, x)
    assert torch.equal(x, torch.zeros(2, 3))


def test_missing_values_may_be_in_samples_of_a_model_that_sees_to_them(exporter):
    class FillsIn(nn.Module):
        def forward(self, x):
            return torch.nan_to_num(x, nan=0.5) * 2

    data = torch.randn(64, 3)
    data[::3] = torch.nan
    exported = exporter.export(
        FillsIn(), "net", example_input=torch.zeros(2, 3), validation_data=data
    )
    assert "given" in exported.verification.kinds


def test_writers_of_several_files_never_mix_them(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "net.xml"

    def write(n):
        put_in_place(path, {".bin": b"%d" % n, ".xml": b"%d" % n})

    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            list(pool.map(write, range(8)))
            assert path.read_bytes() == path.with_suffix(".bin").read_bytes()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_smaller_numbers_start_from_float32(exporter, model, precision):
    with pytest.raises(ConfigError, match=r"starts from a float32 model.*float64"):
        exporter.export(
            copy.deepcopy(model).double(),
            "net",
            example_input=torch.randn(2, 8).double(),
            precision=precision,
        )


def test_openvino_says_what_it_computes_in(exporter, model):
    double = copy.deepcopy(model).double()
    with pytest.raises(ConversionError, match="OpenVINO computes in float32"):
        exporter.export(double, "net", "openvino", example_input=torch.randn(2, 8).double())


@pytest.mark.slow
def test_openvino_refuses_whole_numbers_it_cannot_hold(exporter):
    class Minutes(nn.Module):
        def forward(self, x):
            return (x - x // 60000 * 60000).float()

    with pytest.raises(ConversionError, match="as OpenVINO is not the module"):
        exporter.export(
            Minutes(),
            "net",
            "openvino",
            example_input=torch.arange(8).reshape(2, 4),
            opset_version=18,
        )


def test_options_of_an_onnx_module_that_mean_nothing_are_refused(exporter, model):
    from modelyard.torchtools.onnx_module import OnnxModule

    path = exporter.export_to_onnx(model, "net", (1, 8))
    module = OnnxModule(Path(path).read_bytes())
    for options in ({"dynamic_axes": {}}, {"input_names": ["x"]}, {"output_names": ["x"]}):
        with pytest.raises(ConfigError, match="exported as the graph it is"):
            exporter.export(module, "again", **options)


def test_lazy_modules_are_refused_before_they_are_run(exporter):
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ConversionError, match="has no shape yet"):
        exporter.export(lazy, "net", input_shape=(2, 8))
    assert type(lazy[0]) is nn.LazyLinear


def test_arrays_are_taken_as_inputs(exporter, model):
    example = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    path = exporter.export_to_onnx(model, "net", example_input=example)
    assert exporter.compare_outputs(model, path, example)["is_close"]
