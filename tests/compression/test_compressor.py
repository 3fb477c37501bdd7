"""The compressor: every call, in any order, the original untouched."""

import copy
import json

import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from modelyard._core.errors import (
    ConfigError,
    ExampleInputRequiredError,
    InputError,
    NotReadyError,
    QuantizationError,
)
from modelyard.compression import ModelCompressor
from modelyard.export import ModelExporter
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.quantization.layers import quantizable_nodes


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 16, 3, padding=1)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean(-1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 16), nn.Linear(4, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, left, right):
        return self.out(torch.relu(self.left(left) + self.right(right)))


@pytest.fixture
def model(new_mlp):
    return new_mlp(8, 64, 4)


@pytest.fixture
def compressor(model):
    return ModelCompressor(model)


def rows(n, *, seed=0):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


def loader(n=64, batch_size=16):
    x = rows(n)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True).expand(-1, 4)), batch_size)


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bits(model, before):
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


# ── the order of the design document ────────────────────────────────────────────────────────


def test_documents_order_works_and_the_original_stays_bit_for_bit(new_mlp):
    model = new_mlp(8, 256, 4)
    before = bits(model)
    model.train()
    compressor = ModelCompressor(model)
    assert compressor.original_size == pytest.approx(sum(t.nbytes for t in before.values()) / 1e6)
    compressor.prune_model(amount=0.3, method="l1_unstructured")
    compressor.make_pruning_permanent()
    dynamic = compressor.dynamic_quantization(dtype=torch.qint8)
    assert isinstance(compressor.model, OnnxModule)
    planned = compressor.quantize_model(dtype=torch.qint8, backend="fbgemm")
    assert planned["status"] == "awaiting_calibration"
    assert isinstance(compressor.model, nn.Sequential)  # float until calibrated
    static = compressor.calibrate_quantization(loader())
    assert compressor.model.recipe == "static_int8"
    for stats in (dynamic, static):
        assert stats["max_error"] < stats["error_limit"]
        assert stats["quantized_size_mb"] < stats["original_size_mb"]
    student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    trained = compressor.knowledge_distillation(model, student, loader(), 3.0, 0.5, 2)
    assert trained is student
    assert isinstance(compressor.model, OnnxModule)  # adopt=False changes nothing
    found = compressor.get_compression_stats()
    assert [step["step"] for step in found["steps"]] == [
        "prune",
        "make_pruning_permanent",
        "quantize",
        "quantize",
        "quantize",
        "distil",
    ]
    json.dumps(found, allow_nan=False)
    compressor.evaluate_compressed_model(loader(), lambda m, data: 1.0)
    assert_same_bits(model, before)
    assert all(module.training for module in model.modules())
    assert compressor.original_model is model


def test_quantizing_again_starts_from_the_float_model(compressor):
    first = compressor.dynamic_quantization()
    again = compressor.dynamic_quantization()
    assert again["original_size_mb"] == first["original_size_mb"]
    assert again["max_error"] == first["max_error"]


def test_pruning_drops_an_earlier_quantized_result(compressor):
    compressor.dynamic_quantization()
    compressor.prune_model(0.5)
    assert isinstance(compressor.model, nn.Sequential)
    assert not compressor.get_compression_stats()["is_quantized"]


def test_calibrating_before_planning_says_what_to_call(compressor):
    with pytest.raises(NotReadyError, match=r"quantize_model\(\) before"):
        compressor.calibrate_quantization(rows(64))


def test_what_is_no_module_is_refused():
    with pytest.raises(ConfigError, match=r"must be an nn\.Module, got dict"):
        ModelCompressor({})


# ── pruning ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.9])
def test_magnitude_masks_agree_with_torch(model, amount):
    compressor = ModelCompressor(model)
    stats = compressor.prune_model(amount)
    reference = copy.deepcopy(model)
    for layer in (reference[0], reference[2]):
        prune.l1_unstructured(layer, "weight", amount=amount)
        prune.remove(layer, "weight")
    for i in (0, 2):
        assert torch.equal(compressor.model[i].weight, reference[i].weight)
    assert stats["actual_sparsity"] == pytest.approx(amount, abs=0.01)


def test_global_masks_agree_with_torch(model):
    compressor = ModelCompressor(model)
    compressor.prune_model(0.4, scope="global")
    reference = copy.deepcopy(model)
    prune.global_unstructured(
        [(reference[0], "weight"), (reference[2], "weight")], prune.L1Unstructured, amount=0.4
    )
    for i in (0, 2):
        assert torch.equal(compressor.model[i].weight, reference[i].weight)


def test_channel_masks_agree_with_torch(model):
    compressor = ModelCompressor(model)
    compressor.prune_model(0.25, "ln_structured")
    reference = copy.deepcopy(model[0])
    prune.ln_structured(reference, "weight", amount=0.25, n=2, dim=0)
    assert torch.equal(compressor.model[0].weight, reference.weight)


def test_amount_counts_what_earlier_steps_took(compressor):
    compressor.prune_model(0.3)
    assert compressor.prune_model(0.5)["actual_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert compressor.prune_model(0.6, "random_unstructured")["actual_sparsity"] == pytest.approx(
        0.6, abs=0.01
    )


def test_statistics_of_pruning_add_up(compressor, model):
    stats = compressor.prune_model(0.5, layers_to_prune=["0"])
    assert stats["per_layer"] == {"0": 0.5}
    assert stats["pruned_params"] == stats["targeted_params"] // 2 == 8 * 64 // 2
    assert stats["total_params"] == sum(p.numel() for p in model.parameters())
    assert stats["model_sparsity"] == pytest.approx(256 / stats["total_params"])
    assert torch.equal(compressor.model[2].weight, model[2].weight)


def test_layers_may_be_named_by_module_and_pattern(model):
    for layers in ([model[2]], ["2"], ["[2]"], model[2]):
        stats = ModelCompressor(model).prune_model(0.5, layers_to_prune=layers)
        assert stats["per_layer"].keys() == {"2"}


def test_attention_projections_are_pruned_too():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    stats = ModelCompressor(layer).prune_model(0.5)
    assert "self_attn.in_proj" in stats["per_layer"]
    assert stats["actual_sparsity"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("amount", [0.2, 0.4])
def test_channels_are_removed_for_good(model, amount):
    compressor = ModelCompressor(model)
    stats = compressor.prune_model(amount, "structured")
    assert stats["actual_sparsity"] == pytest.approx(amount, abs=0.05)
    found = compressor.get_compression_stats()
    assert found["compressed_size_mb"] == pytest.approx(
        found["original_size_mb"] * (1 - stats["actual_sparsity"]), rel=1e-6
    )
    assert compressor.model(rows(3)).shape == (3, 4)


def test_recurrent_layers_cannot_shrink_and_say_what_can():
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 8, batch_first=True), "out": nn.Linear(8, 2)})
    model.forward = lambda x: model["out"](model["lstm"](x)[0])
    with pytest.raises(ConfigError, match=r"removed: lstm\. Use .*l1_unstructured.*distil"):
        ModelCompressor(model, example_input=torch.zeros(2, 3, 4)).prune_model(0.3, "structured")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 1.0}, r"\[0, 1\), got 1\.0"),
        ({"amount": 30}, "0.3 means 30 %"),
        ({"method": "magic"}, "'magic' is not one of l1_unstructured"),
        ({"scope": "room"}, "'room' is not one of layer, global"),
        ({"layers_to_prune": ["head"]}, "No layer 'head'.*Layers there are: 0, 2"),
        ({"layers_to_prune": [nn.Linear(1, 1)]}, "no layer of the model"),
        ({"method": "ln_structured", "scope": "global"}, "use scope='layer'"),
    ],
)
def test_wrong_pruning_is_named_and_changes_nothing(compressor, model, options, message):
    with pytest.raises(ConfigError, match=message):
        compressor.prune_model(**options)
    assert torch.equal(compressor.model[0].weight, model[0].weight)


def test_fine_tuning_the_pruned_model_keeps_its_zeros_until_permanent(compressor, model):
    compressor.prune_model(0.5)
    zeros = compressor.model[0].weight == 0
    compressor.knowledge_distillation(model, compressor.model, loader(), epochs=2)
    assert (compressor.model[0].weight[zeros] == 0).all()
    compressor.make_pruning_permanent()
    compressor.knowledge_distillation(model, compressor.model, loader(), epochs=1)
    assert not (compressor.model[0].weight[zeros] == 0).all()


# ── quantization ────────────────────────────────────────────────────────────────────────────

KEYS = {
    "recipe",
    "dtype",
    "backend",
    "original_size_mb",
    "quantized_size_mb",
    "compression_ratio",
    "max_error",
    "error_limit",
    "validated_on",
    "layers_kept_float",
    "layers",
    "attempts",
    "speedup",
    "error_to_original",
    "n_samples",
    "depends_on_batch",
    "portable",
}


def test_quantization_tells_its_error_and_what_it_was_measured_on(model):
    assert ModelCompressor(model).dynamic_quantization()["validated_on"] == "synthetic"
    stats = ModelCompressor(model, validation_data=loader()).dynamic_quantization()
    assert stats.keys() == KEYS
    assert stats["validated_on"] == "validation_data"
    json.dumps(stats, allow_nan=False)


def test_convolutions_get_fixed_ranges():
    stats = ModelCompressor(Convolutional()).dynamic_quantization()
    assert stats["recipe"] == "static_int8"
    assert stats["max_error"] < 0.1


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8])
def test_weights_may_be_signed_or_unsigned(compressor, dtype):
    assert compressor.dynamic_quantization(dtype)["dtype"] == str(dtype)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.dynamic_quantization(torch.float16), "qint8 or torch.quint8"),
        (lambda c: c.quantize_model(backend="abacus"), "'abacus' is not one of fbgemm"),
        (lambda c: c.dynamic_quantization(max_error=0), "max_error must be a number above 0"),
        (lambda c: c.dynamic_quantization(layers_to_keep_float=["x"]), "No layer 'x' to keep"),
    ],
)
def test_wrong_quantization_is_named(compressor, call, message):
    with pytest.raises(ConfigError, match=message):
        call(compressor)


def test_error_over_the_limit_is_refused_and_the_model_stays_float(compressor):
    with pytest.raises(
        QuantizationError, match=r"came closest with .*dynamic_int8: .*Nothing was changed"
    ):
        compressor.dynamic_quantization(max_error=1e-9)
    assert isinstance(compressor.model, nn.Sequential)


class Product(nn.Module):
    """A weight that is no layer's: preparing fuses product and sum, and renames them."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x @ self.weight + self.bias


class Transposing(Convolutional):
    """Uses an operation that only the newer exporter has, which names nodes in its own way."""

    def forward(self, x):
        return super().forward(x.mT)


KEPT_FLOAT = {
    "mlp": lambda: (nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), rows(64)),
    "product": lambda: (nn.Sequential(Product()), rows(64)),
    "encoder": lambda: (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        rows(320).reshape(64, 5, 8),
    ),
    "convolution": lambda: (Convolutional(), rows(256).reshape(64, 4, 8)),
    "newer route": lambda: (Transposing(), rows(256).reshape(64, 4, 8).mT),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT_FLOAT)
@pytest.mark.parametrize("is_static", [False, True])
def test_layers_kept_in_float_really_are(name, is_static):
    model, data = KEPT_FLOAT[name]()
    compressor = ModelCompressor(model, example_input=data[:2], validation_data=data)
    graph = onnx.load_from_string(compressor._source().graph)
    layers = sorted(set(quantizable_nodes(graph.SerializeToString()).values()))
    assert all(layers), layers
    if is_static:
        compressor.quantize_model(layers_to_keep_float=layers)
        stats = compressor.calibrate_quantization(data)
    else:
        stats = compressor.dynamic_quantization(layers_to_keep_float=layers)
    assert stats["layers_kept_float"] == layers
    assert stats["max_error"] < 1e-5
    kinds = {
        node.op_type for node in onnx.load_from_string(compressor.model.graph_bytes).graph.node
    }
    assert not any("Quantize" in kind or "Integer" in kind for kind in kinds)


def test_layer_that_breaks_the_limit_stays_in_float():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 4))
    with torch.no_grad():  # one value among those that go into layer 2 is far larger
        model[0].weight[0] *= 1000.0
        model[2].weight[:, 0] /= 1000.0
    stats = ModelCompressor(model, validation_data=rows(256)).dynamic_quantization()
    assert stats["attempts"][0]["error"] > 0.5
    assert stats["max_error"] <= 0.1
    assert stats["layers_kept_float"] == ["2"]


@pytest.mark.parametrize(
    "data",
    [rows(64), rows(64).numpy(), list(rows(64).split(16)), loader()],
    ids=["tensor", "array", "list", "loader"],
)
def test_calibration_takes_every_form_of_data(model, data):
    compressor = ModelCompressor(model)
    compressor.quantize_model()
    stats = compressor.calibrate_quantization(data)
    assert stats["validated_on"] == "calibration_data"
    assert stats["max_error"] < 0.05


def test_calibration_takes_a_generator(compressor):
    compressor.quantize_model()
    assert compressor.calibrate_quantization(batch for batch in rows(64).split(16))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "holds no samples"),
        (torch.full((40, 8), float("nan")), "NaN or infinity"),
        (torch.zeros(40, 9), "does not run on"),
        (7, "Expected a tensor"),
    ],
)
def test_useless_calibration_data_is_refused(compressor, data, message):
    compressor.quantize_model()
    with pytest.raises(InputError, match=message):
        compressor.calibrate_quantization(data)
    assert isinstance(compressor.model, nn.Sequential)


def test_little_calibration_data_is_warned_of_and_not_judged_by(compressor, caplog):
    compressor.quantize_model(max_error=0.9)
    stats = compressor.calibrate_quantization(rows(4))
    assert "only 4 samples" in caplog.text
    assert stats["validated_on"] == "synthetic"


def test_constant_calibration_data_cannot_pass(compressor, caplog):
    """Judged by itself it would: the answer to it is met exactly."""
    compressor.quantize_model()
    with pytest.raises(QuantizationError, match="the limit is 10 %"):
        compressor.calibrate_quantization(torch.ones(64, 8))
    assert "is constant" in caplog.text


@pytest.mark.slow
def test_all_of_the_data_is_looked_at_not_its_beginning(model):
    data = torch.cat([rows(4000), 100 * rows(4000, seed=1)])
    for given in (data, [(row[None], torch.zeros(1)) for row in data], list(data.split(1000))):
        compressor = ModelCompressor(model, validation_data=given)
        batches, _ = compressor._validation_batches()
        values = torch.cat(batches)
        assert 1024 <= len(values) <= 2048
        assert (values.abs().amax(dim=1) > 20).float().mean() == pytest.approx(0.5, abs=0.05)
        assert max(len(batch) for batch in batches) == 32


def test_validation_data_may_be_a_generator(model):
    compressor = ModelCompressor(model, validation_data=(part for part in rows(64).split(16)))
    compressor.dynamic_quantization()
    assert compressor.weight_only_quantization()["n_samples"] == 64


def test_a_forward_that_writes_into_its_input_harms_nobody():
    class Centring(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(8, 4)

        def forward(self, x):
            x -= x.mean(dim=1, keepdim=True)
            return self.out(x)

    data = rows(64) + 3
    before = data.clone()
    compressor = ModelCompressor(Centring().eval(), validation_data=data, example_input=data[:2])
    stats = compressor.dynamic_quantization()
    compressor.evaluate_compressed_model([(data, rows(64)[:, :4])], mean_of_outputs)
    compressor.report()
    assert torch.equal(data, before)
    assert stats["max_error"] < 0.1


def test_a_tuple_that_the_model_takes_whole_is_its_arguments():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, left, right=None):
            return self.left(left) if right is None else self.left(left) + self.right(right)

    left, right = rows(64), rows(64, seed=1)
    compressor = ModelCompressor(Optional().eval(), validation_data=(left, right))
    compressor.dynamic_quantization()
    wanted = compressor.original_model(left, right).detach()
    assert float((compressor.model(left, right) - wanted).norm() / wanted.norm()) < 0.1


def test_the_error_that_pruning_made_is_told_beside_that_of_quantizing(model, caplog):
    compressor = ModelCompressor(model, validation_data=rows(256))
    first = compressor.dynamic_quantization()
    assert first["error_to_original"] == first["max_error"]
    compressor.prune_model(0.9)
    stats = compressor.dynamic_quantization()
    assert stats["max_error"] < 0.1
    assert stats["error_to_original"] > 0.3
    assert "differ from the original's by" in caplog.text


def by_policy_net(policy_net, daily_loader):
    return mean_of_model(policy_net, daily_loader)


def by_one_letter(a, b):
    return float((a - b).abs().mean())


@pytest.mark.parametrize("metric", [by_policy_net, by_one_letter, nn.MSELoss()])
def test_metric_functions_are_known_by_whole_names(compressor, metric):
    compressor.dynamic_quantization()
    found = compressor.evaluate_compressed_model(loader(), metric)
    assert found["compressed_metric"] == pytest.approx(found["original_metric"], rel=0.2)


def test_a_metric_that_asks_a_graph_for_parameters_is_told_so(compressor):
    compressor.dynamic_quantization()
    with pytest.raises(InputError, match=r"next\(model\.parameters\(\)\) finds nothing"):
        compressor.evaluate_compressed_model(
            loader(), lambda m, data: float(next(m.parameters()).sum())
        )


def test_model_without_a_known_input_asks_for_one():
    with pytest.raises(ExampleInputRequiredError, match="example_input="):
        ModelCompressor(TwoInputs()).dynamic_quantization()


def test_models_of_several_inputs_compress_and_evaluate():
    left, right = rows(64), rows(64, seed=1)[:, :4]
    compressor = ModelCompressor(TwoInputs(), example_input=(left[:2], right[:2]))
    compressor.quantize_model()
    compressor.calibrate_quantization([(left, right)])
    answer = compressor.model(left, right)
    batches = [(left, right, torch.zeros(64, 2))]
    found = compressor.evaluate_compressed_model(
        batches, lambda outputs, targets: float((outputs - targets).square().mean())
    )
    assert answer.shape == (64, 2)
    assert found["compressed_metric"] == pytest.approx(found["original_metric"], rel=0.2)


def test_quantized_model_is_saved_exported_and_served_like_any(compressor, tmp_path):
    from modelyard.version_manager import ModelVersionManager

    compressor.dynamic_quantization()
    model, x = compressor.model, rows(3)
    want = model(x)
    registry = ModelVersionManager(tmp_path / "models")
    version_id = registry.save_model(model, "int8", parents=())
    for options in ({"load_full": True}, {}):
        assert torch.equal(registry.load_model(version_id, **options)(x), want)
    registry.store.close()
    exporter = ModelExporter(tmp_path / "onnx")
    path = exporter.export_to_onnx(model, "int8", input_shape=(1, 8))
    assert exporter.compare_outputs(model, path, x)["max_abs_diff"] == 0.0
    assert exporter.get_model_info(path)["opset_version"] == 14
    optimizer = InferenceOptimizer(model, device="cpu")
    optimizer.optimize_for_inference()
    assert torch.equal(optimizer.predict(x), want)


# ── distillation ────────────────────────────────────────────────────────────────────────────


def test_distillation_learns_and_keeps_its_history(compressor, model, new_mlp):
    student = new_mlp(8, 16, 4, seed=5)
    seen = []
    compressor.knowledge_distillation(
        model, student, loader(256), alpha=1.0, epochs=20, learning_rate=0.01, progress=seen.append
    )
    history = compressor.distillation_history
    assert history == seen
    assert [record["epoch"] for record in history] == list(range(1, 21))
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert history[0]["task_loss"] is None
    assert not student.training


def test_adopted_student_is_what_is_quantized(compressor, model, new_mlp):
    student = new_mlp(8, 16, 4, seed=5)
    compressor.knowledge_distillation(model, student, loader(), epochs=1, adopt=True)
    assert compressor.model is not student  # later pruning must not zero the caller's
    assert_same_bits(compressor.model, bits(student))
    stats = compressor.dynamic_quantization()
    assert stats["original_size_mb"] == pytest.approx((8 * 16 + 16 + 16 * 4 + 4) * 4 / 1e6)


def test_distillation_is_the_same_with_the_same_seed(model, new_mlp):
    runs = []
    for _ in range(2):
        student = new_mlp(seed=5)
        ModelCompressor(model, seed=3).knowledge_distillation(model, student, loader(), epochs=2)
        runs.append(bits(student))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0}, ConfigError, "temperature must be above 0"),
        ({"alpha": 1.5}, ConfigError, r"alpha must be in \[0, 1\]"),
        ({"epochs": 0}, ConfigError, "epochs must be 1"),
        ({"task": "magic"}, ConfigError, "'magic' is not one of auto"),
    ],
)
def test_wrong_distillation_is_named(compressor, model, new_mlp, options, error, message):
    with pytest.raises(error, match=message):
        compressor.knowledge_distillation(model, new_mlp(), loader(), **options)


def test_distillation_data_that_cannot_be_used_is_refused(compressor, model, new_mlp):
    cases = [
        ([], {}, "no batch"),
        ([rows(4)], {"alpha": 0.5}, r"without targets.*alpha=1\.0"),
        ([(rows(4), torch.zeros(4, 3))], {}, "Targets have shape"),
    ]
    for data, options, message in cases:
        with pytest.raises(InputError, match=message):
            compressor.knowledge_distillation(model, new_mlp(), data, epochs=1, **options)
    with pytest.raises(InputError, match="must be equal"):
        compressor.knowledge_distillation(model, new_mlp(8, 16, 5), loader(), epochs=1)
    with pytest.raises(ConfigError, match="no parameters to train"):
        compressor.knowledge_distillation(model, nn.Identity(), loader(), epochs=1)


# ── evaluation ──────────────────────────────────────────────────────────────────────────────


def mean_of_model(model, test_loader):
    return float(torch.cat([model(x) for x, _ in test_loader]).mean())


def by_short_names(m, d):
    return mean_of_model(m, d)


def mean_of_outputs(outputs, targets):
    return float(outputs.mean() + 0 * targets.sum())


def like_torch(input, target):  # noqa: A002 - the names torch's losses have
    return mean_of_outputs(input, target)


@pytest.mark.parametrize("metric", [mean_of_model, by_short_names, mean_of_outputs, like_torch])
def test_metric_functions_of_both_forms(compressor, metric):
    compressor.prune_model(0.5)
    found = compressor.evaluate_compressed_model(loader(), metric)
    with torch.no_grad():
        want = float(compressor.original_model(rows(64)).mean())
        got = float(compressor.model(rows(64)).mean())
    assert found["original_metric"] == pytest.approx(want, rel=1e-5)
    assert found["compressed_metric"] == pytest.approx(got, rel=1e-5)
    assert found["metric_drop"] == pytest.approx(want - got, rel=1e-5)
    assert found["relative_drop"] == pytest.approx((want - got) / abs(want), rel=1e-5)
    assert found["speedup"] == found["original_latency_ms"] / found["compressed_latency_ms"]
    assert found["batch_size"] == 1
    json.dumps(found, allow_nan=False)


def test_metric_of_one_argument_and_one_pass_data_are_refused(compressor):
    with pytest.raises(ConfigError, match=r"must take \(model, test_loader\)"):
        compressor.evaluate_compressed_model(loader(), lambda model: 1.0)
    with pytest.raises(InputError, match="read only once"):
        compressor.evaluate_compressed_model((batch for batch in loader()), mean_of_outputs)


def test_a_metric_that_is_nan_is_named_not_passed_on(compressor):
    found = compressor.evaluate_compressed_model(
        loader(), lambda m, data: float("nan") if m is compressor.model else 1.0
    )
    assert found["compressed_metric"] is None
    assert found["metric_drop"] is None
    assert found["non_finite_metrics"] == ["compressed_metric"]
    json.dumps(found, allow_nan=False)


def test_the_story_says_what_there_is_now(compressor):
    assert compressor.get_compression_stats()["quantization"] is None
    done = compressor.dynamic_quantization()
    assert compressor.get_compression_stats()["quantization"] == done
    compressor.prune_model(0.3, "structured")
    found = compressor.get_compression_stats()
    assert found["quantization"] is None
    assert found["compressed_params"] < 0.8 * found["original_params"]
