"""Which weights are pruned: every projection of attention, recurrent layers, each weight once."""

import copy

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.pruning import gradual_shares


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.GRU(8, 16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.body(x)[0][:, -1])


def test_attention_of_other_widths_is_pruned_in_every_projection():
    layer = nn.MultiheadAttention(16, 2, kdim=8, vdim=12, batch_first=True)
    stats = ModelCompressor(layer).prune_model(0.5)
    assert set(stats["per_layer"]) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert stats["actual_sparsity"] == pytest.approx(0.5, abs=0.01)


def test_recurrent_layers_are_pruned():
    model = Recurrent()
    stats = ModelCompressor(model).prune_model(0.3)
    assert {"body.weight_ih_l0", "body.weight_hh_l1", "out"} <= set(stats["per_layer"])
    assert stats["model_sparsity"] > 0.25
    named = ModelCompressor(model).prune_model(0.3, layers_to_prune=["body"])
    assert all(name.startswith("body.") for name in named["per_layer"])


class Stepping(nn.Module):
    """A recurrent cell that is called step by step."""

    def __init__(self, cell):
        super().__init__()
        self.before, self.cell = nn.Linear(8, 32), cell(32, 16)
        self.middle, self.out = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(self.before(step).relu(), state)
        hidden = state[0] if isinstance(state, tuple) else state
        return self.out(self.middle(hidden).relu())


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_recurrent_cells_are_pruned_as_recurrent_layers_are(cell):
    torch.manual_seed(0)
    compressor = ModelCompressor(Stepping(cell).eval(), example_input=torch.zeros(2, 5, 8))
    stats = compressor.prune_model(0.3)
    assert {"cell.weight_ih", "cell.weight_hh", "before", "out"} <= set(stats["per_layer"])
    assert stats["model_sparsity"] > 0.25
    assert compressor.model(torch.zeros(3, 5, 8)).shape == (3, 2)
    with pytest.raises(ConfigError, match="recurrent layers cannot be removed: cell"):
        compressor.prune_model(0.3, "structured")


@pytest.mark.parametrize(
    ("layer", "method", "unit"),
    [
        (nn.Linear(8, 1), "ln_structured", "channel"),
        (nn.Linear(2, 2), "l1_unstructured", "weight"),
    ],
)
def test_an_amount_that_takes_nothing_is_told(layer, method, unit, caplog):
    stats = ModelCompressor(nn.Sequential(layer)).prune_model(0.1, method)
    assert stats["pruned_params"] == 0
    assert f"took nothing: that is less than half of one {unit}" in caplog.text


def test_an_amount_of_nothing_is_not_told(caplog):
    ModelCompressor(nn.Sequential(nn.Linear(2, 2))).prune_model(0.0)
    assert caplog.text == ""


def test_embeddings_are_pruned_only_by_name():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4))
    assert set(ModelCompressor(model).prune_model(0.5)["per_layer"]) == {"1"}
    named = ModelCompressor(model).prune_model(0.5, layers_to_prune=["0"])
    assert set(named["per_layer"]) == {"0"}


def test_a_weight_that_layers_share_counts_once():
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    compressor = ModelCompressor(nn.Sequential(first, nn.ReLU(), second))
    stats = compressor.prune_model(0.5)
    assert stats["targeted_params"] == 64
    assert compressor.model[0].weight is compressor.model[2].weight


def test_shares_follow_the_cubic_schedule():
    assert gradual_shares(0.8, 4) == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    assert gradual_shares(0.5, 1) == [0.5]


@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_pruning_gradually_ends_at_the_amount_and_mends(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x = torch.randn(512, 8)
    batches = list(x.split(32))

    def error(compressed):
        return float((compressed(x) - model(x)).detach().norm() / model(x).detach().norm())

    at_once = ModelCompressor(model, example_input=x[:2])
    at_once.prune_model(0.6, method)
    gradual = ModelCompressor(model, example_input=x[:2])
    steps = gradual.prune_gradually(
        0.6, batches, steps=3, method=method, epochs_per_step=5, learning_rate=3e-3
    )
    assert len(steps) == 3
    n_zero = sum(int((p == 0).sum()) for p in gradual.model.parameters())
    n_left = sum(p.numel() for p in gradual.model.parameters()) - n_zero
    n_before = sum(p.numel() for p in model.parameters())
    assert 1 - n_left / n_before == pytest.approx(0.6, abs=0.05)
    assert error(gradual.model) < 0.5 * error(at_once.model)
    kinds = [step["step"] for step in gradual.get_compression_stats()["steps"]]
    assert kinds == ["prune", "distil"] * 3


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("steps", [2, 4, 8])
def test_structured_pruning_reaches_the_amount_in_any_number_of_steps(amount, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    model.append(nn.Linear(32, 4))
    compressor = ModelCompressor(model, example_input=torch.randn(2, 8))
    done = compressor.prune_gradually(
        amount, [torch.randn(16, 8)], steps=steps, method="structured", progress=False
    )
    assert 1 <= len(done) <= steps
    n_left = sum(p.numel() for p in compressor.model.parameters())
    n_before = sum(p.numel() for p in model.parameters())
    assert 1 - n_left / n_before == pytest.approx(amount, abs=0.05)
    kinds = [step["step"] for step in compressor.get_compression_stats()["steps"]]
    assert kinds == ["prune", "distil"] * len(done)


def test_structured_pruning_that_removes_nothing_says_why():
    compressor = ModelCompressor(nn.Linear(8, 4), example_input=torch.randn(2, 8))
    with pytest.raises(InputError, match="No channel can be removed"):
        compressor.prune_gradually(0.5, [torch.randn(2, 8)], method="structured")
    assert compressor.get_compression_stats()["steps"] == []


class Stopping:
    """Data for so many trainings of one epoch, and then an error."""

    def __init__(self, n_passes, error):
        self.n_passes, self.error = n_passes, error

    def __iter__(self):
        self.n_passes -= 1
        yield torch.randn(16, 8)
        if self.n_passes < 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_gradual_pruning_that_is_broken_off_leaves_all_as_it_was(method, error):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    compressor = ModelCompressor(model, example_input=torch.randn(2, 8))
    compressor.prune_model(0.2)
    float_model = compressor.model
    compressor.dynamic_quantization(max_error=0.9)
    quantized, before = compressor.model, copy.deepcopy(float_model.state_dict())
    steps = compressor.get_compression_stats()["steps"]
    with pytest.raises(type(error)):
        compressor.prune_gradually(0.6, Stopping(1, error), steps=3, method=method)
    assert compressor.model is quantized
    assert compressor.get_compression_stats()["steps"] == steps
    assert compressor.distillation_history == []
    assert all(torch.equal(before[n], t) for n, t in float_model.state_dict().items())
    # The masks are back, too: training keeps the zeros of the first pruning, and those alone.
    trained = compressor.fine_tune([(torch.randn(16, 8), torch.randn(16, 4))], epochs=1)
    assert trained is float_model
    assert torch.equal(trained[0].weight == 0, before["0.weight"] == 0)


def test_gradual_pruning_can_learn_the_targets():
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    x = torch.randn(64, 8)
    compressor = ModelCompressor(model)
    compressor.prune_gradually(
        0.5, [(x, x.sum(1, keepdim=True))], steps=2, recovery="fine_tune", progress=False
    )
    assert len(compressor.training_history) == 1
    assert (compressor.model.weight == 0).float().mean() == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be 1 or more"),
        ({"recovery": "prayer"}, "'prayer' is not one of distil, fine_tune"),
        ({"checkpoint": "run.ckpt"}, "takes no checkpoint=.*Leave it out"),
        ({"amount": 1.5}, r"amount must be in \[0, 1\), got 1\.5"),
    ],
)
def test_wrong_gradual_pruning_is_named_before_anything_changes(options, message):
    compressor = ModelCompressor(nn.Linear(8, 4))
    with pytest.raises(ConfigError, match=message):
        compressor.prune_gradually(
            **{"amount": 0.5, "train_loader": [torch.zeros(2, 8)], **options}
        )
    assert compressor.get_compression_stats()["steps"] == []


def test_layers_to_keep_float_may_be_modules_and_patterns():
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    compressor = ModelCompressor(model)
    for kept in ([model[2]], ["2"], ["[2]"], model[2]):
        assert compressor.dynamic_quantization(layers_to_keep_float=kept)["layers_kept_float"] == [
            "2"
        ]
