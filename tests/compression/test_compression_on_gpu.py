"""Models that stand on a GPU, as training leaves them: compressed, exported, stored."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modelyard import ModelCompressor, ModelExporter, ModelVersionManager

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here"
)


def rows(n, *, seed=0):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(new_mlp):
    return new_mlp(16, 64, 4).to("cuda")


@pytest.fixture
def loader(model):
    x = rows(256)
    with torch.inference_mode():
        return DataLoader(TensorDataset(x, model(x.to("cuda")).argmax(1).cpu()), batch_size=64)


def same(got, model, x, *, tolerance):
    with torch.inference_mode():
        want = model(x.to("cuda")).cpu()
    gap = (torch.as_tensor(got).cpu() - want).abs().max() / want.abs().max()
    assert gap < tolerance


@pytest.mark.parametrize("is_said", [True, False])
@pytest.mark.parametrize("how", ["dynamic", "static", "weight_only"])
def test_int8_of_a_model_on_the_gpu(model, how, is_said):
    compressor = ModelCompressor(
        model,
        example_input=rows(2) if is_said else None,
        validation_data=rows(64) if is_said else None,
    )
    if how == "dynamic":
        compressor.dynamic_quantization()
    elif how == "weight_only":
        compressor.weight_only_quantization()
    else:
        compressor.quantize_model()
        compressor.calibrate_quantization(rows(128, seed=1))
    same(compressor.model(rows(8)), model, rows(8), tolerance=0.1)
    assert compressor.model(rows(8).to("cuda")).is_cuda
    assert compressor.get_compression_stats()
    assert next(model.parameters()).is_cuda


@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_pruned_trained_and_compared_on_the_gpu(model, loader, method):
    compressor = ModelCompressor(model, example_input=rows(2), validation_data=rows(64))
    compressor.prune_model(method=method, amount=0.2)
    compressor.fine_tune(loader, epochs=1)
    compressor.make_pruning_permanent()
    assert compressor.error_to_original() < 1.0
    found = compressor.evaluate_compressed_model(
        loader, metric_fn=lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()
    )
    assert found
    assert compressor.report()


def test_search_of_a_model_on_the_gpu(model, loader):
    compressor = ModelCompressor(model, example_input=rows(2), validation_data=rows(64))
    x, targets = rows(256).to("cuda"), torch.cat([labels for _, labels in loader]).to("cuda")

    def accuracy(candidate):
        return (candidate(x).argmax(1) == targets).float().mean()

    found = compressor.search(
        accuracy, max_metric_drop=0.5, train_loader=loader, time_budget_s=20.0, epochs=1
    )
    assert len(found["candidates"]) > 1
    assert accuracy(compressor.model) > 0.5


def test_student_learns_on_the_gpu(model, loader, new_mlp):
    student = new_mlp(16, 8, 4, seed=1).to("cuda")
    compressor = ModelCompressor(copy.deepcopy(model))
    compressor.knowledge_distillation(model, student, loader, epochs=2, validation_loader=loader)
    assert next(student.parameters()).is_cuda


def test_exported_from_the_gpu(model, tmp_path):
    exporter = ModelExporter(tmp_path)
    path = exporter.export_to_onnx(model, "policy", example_input=rows(2))
    assert exporter.compare_outputs(model, path, rows(4))["max_abs_diff"] < 1e-3
    assert exporter.benchmark_onnx(
        path, num_iterations=20, example_input=rows(2), pytorch_model=model
    )
    assert next(model.parameters()).is_cuda


def test_stored_from_the_gpu_is_loaded_on_the_cpu(model, tmp_path):
    registry = ModelVersionManager(tmp_path)
    version_id = registry.save_model(model, "policy", example_input=rows(2).to("cuda"))
    loaded = registry.load_model(version_id)
    assert not next(loaded.parameters()).is_cuda
    same(loaded(rows(4)).detach(), model, rows(4), tolerance=1e-3)


def test_layers_of_many_kinds(loader):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 8, 3, padding=1)
            self.norm = nn.BatchNorm1d(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            x = self.norm(self.conv(x[:, None])).relu().transpose(1, 2)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    model = Mixed().eval().to("cuda")
    compressor = ModelCompressor(model, example_input=rows(2), validation_data=rows(64))
    compressor.prune_model(method="structured", amount=0.2)
    compressor.fine_tune(loader, epochs=1)
    compressor.quantize_model(max_error=0.5)
    compressor.calibrate_quantization(rows(128, seed=1))
    assert torch.isfinite(torch.as_tensor(compressor.model(rows(4)))).all()
