"""Pruning in several steps, of layers with recomputed or shared weights, and without some."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError


def mlp(width=16):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)).eval()


def zeros(weight):
    return float((weight == 0).float().mean())


@pytest.mark.parametrize("method", ["l1_unstructured", "random_unstructured"])
def test_what_a_larger_step_took_stays_gone_after_a_smaller_one(method):
    compressor = ModelCompressor(mlp())
    compressor.prune_model(0.5)
    compressor.prune_model(0.3, method)
    compressor.fine_tune([(torch.randn(32, 8), torch.randn(32, 4))], 2, progress=False)
    assert zeros(compressor.model[0].weight) == pytest.approx(0.5, abs=0.01)


def with_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def with_mask(layer):
    prune.l1_unstructured(layer, "weight", amount=0.25)
    return layer


@pytest.mark.parametrize(
    "recomputed",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.spectral_norm,
        with_weight_norm,
        with_mask,
    ],
)
@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_layers_with_recomputed_weights_are_pruned_and_the_original_stays(recomputed, method):
    model = mlp()
    model[0] = recomputed(model[0])
    model.train()(torch.randn(4, 8))  # leaves a weight with a history behind
    model.eval()
    x = torch.randn(4, 8)
    before, state = model(x), {k: v.clone() for k, v in model.state_dict().items()}
    compressor = ModelCompressor(model, example_input=x)
    torch.testing.assert_close(compressor.model(x), before)
    stats = compressor.prune_model(0.5, method)
    layer = compressor.model[0]
    assert type(layer) is nn.Linear
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.requires_grad
    assert stats["per_layer"]["0"] == pytest.approx(0.5, abs=0.1)
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(model(x), before)


def test_recurrent_layers_with_recomputed_weights_are_folded_too():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = parametrizations.weight_norm(
                nn.GRU(4, 8, batch_first=True), "weight_hh_l0"
            )

        def forward(self, x):
            return self.body(x)[0]

    x = torch.randn(2, 3, 4)
    model = Recurrent().eval()
    compressor = ModelCompressor(model, example_input=x)
    torch.testing.assert_close(compressor.model(x), model(x))
    assert "body.weight_hh_l0" in compressor.prune_model(0.5)["per_layer"]
    assert not torch.allclose(compressor.model(x), model(x))


def test_a_weight_that_cannot_be_folded_is_named():
    class Unlucky(nn.Module):
        def forward(self, weight):
            if getattr(self, "is_registered", False):
                raise RuntimeError("out of luck")
            return weight

    model = mlp()
    unlucky = Unlucky()
    nn.utils.parametrize.register_parametrization(model[2], "weight", unlucky)
    unlucky.is_registered = True
    with pytest.raises(ConfigError, match=r"weights of 2 .*out of luck"):
        ModelCompressor(model)


@pytest.mark.parametrize(
    "method", ["l1_unstructured", "random_unstructured", "ln_structured", "structured"]
)
def test_layers_to_keep_are_kept_by_every_method(method):
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    compressor = ModelCompressor(model)
    compressor.prune_model(0.3, method, layers_to_keep=["0"])
    assert torch.equal(compressor.model[0].weight, model[0].weight)
    assert zeros(compressor.model[2].weight) > 0.2 or compressor.model[2].out_features < 16
    with pytest.raises(ConfigError, match="No layer 'nope'"):
        compressor.prune_model(0.3, method, layers_to_keep=["nope"])


def test_keeping_everything_leaves_nothing_to_prune():
    with pytest.raises(ConfigError, match="leaves nothing to prune of 0, 2"):
        ModelCompressor(mlp()).prune_model(0.3, layers_to_keep=["*"])


def test_a_scope_makes_no_sense_for_structured():
    with pytest.raises(ConfigError, match="takes 'layer' alone"):
        ModelCompressor(mlp()).prune_model(0.3, "structured", scope="global")


def test_a_layer_that_is_wiped_out_is_named(caplog):
    model = mlp()
    with torch.no_grad():
        model[2].weight *= 1e-6
    with caplog.at_level(logging.WARNING, "modelyard"):
        ModelCompressor(model).prune_model(0.6, scope="global")
    assert "nothing of 2: answers may be constant" in caplog.text
    caplog.clear()
    ModelCompressor(model).prune_model(0.6)
    assert not caplog.text


def test_channels_that_are_outputs_are_not_zeroed_unless_named():
    compressor = ModelCompressor(mlp())
    assert set(compressor.prune_model(0.5, "ln_structured")["per_layer"]) == {"0"}
    assert set(compressor.prune_model(0.5, "ln_structured", ["2"])["per_layer"]) == {"2"}
    alone = ModelCompressor(nn.Linear(8, 8)).prune_model(0.5, "ln_structured")
    assert alone["actual_sparsity"] == 0.5


def test_output_channels_are_guessed_where_no_input_can_be_inferred():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x, *, scale):
            return self.b(self.a(x["deep"])) * scale

    stats = ModelCompressor(Opaque()).prune_model(0.5, "ln_structured")
    assert set(stats["per_layer"]) == {"a"}


@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_an_amount_may_be_a_number_of_numpy(method):
    stats = ModelCompressor(mlp()).prune_model(np.float32(0.3), method)
    assert stats["actual_sparsity"] == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("method", ["l1_unstructured", "structured"])
def test_layers_may_be_modules_of_the_compressed_model(method):
    model = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    compressor = ModelCompressor(model)
    compressor.prune_model(0.3, "structured")
    stats = compressor.prune_model(0.3, method, [compressor.model[2]], layers_to_keep=[model[0]])
    assert stats["per_layer"]["2"] > 0
    assert stats["per_layer"].get("0", 0) == 0


def test_a_shared_weight_goes_by_each_of_its_names():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.h = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.h.weight = self.e.weight

        def forward(self, x):
            return self.h(self.e(x))

    compressor = ModelCompressor(Tied())
    compressor.prune_model(0.5, layers_to_prune=["h"])
    assert zeros(compressor.model.h.weight) == 0.5
    assert compressor.model.h.weight is compressor.model.e.weight


def test_a_weight_that_a_linear_shares_with_an_embedding_is_pruned_without_being_named():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.h = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.h.weight = self.e.weight

        def forward(self, x):
            return self.h(self.e(x))

    compressor = ModelCompressor(Tied())
    compressor.prune_model(0.5)
    assert zeros(compressor.model.h.weight) == 0.5


def test_removing_channels_keeps_what_was_pruned_before_at_zero():
    layers = nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    compressor = ModelCompressor(nn.Sequential(*layers))
    compressor.prune_model(0.6, layers_to_prune=["2"])
    compressor.prune_model(0.3, "structured")
    pruned = zeros(compressor.model[2].weight)
    assert pruned > 0.3
    compressor.fine_tune([(torch.randn(32, 8), torch.randn(32, 4))], 2, progress=False)
    assert zeros(compressor.model[2].weight) == pruned
    assert zeros(compressor.model[0].weight) == 0.0
    compressor.make_pruning_permanent()
    compressor.fine_tune([(torch.randn(32, 8), torch.randn(32, 4))], 1, progress=False)
    assert zeros(compressor.model[2].weight) < 0.1


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_without_weights_are_no_trouble(scope):
    model = nn.Sequential(nn.Linear(16, 0), nn.Linear(0, 4))
    stats = ModelCompressor(model).prune_model(0.5, scope=scope)
    assert stats["actual_sparsity"] == 0.0
    assert set(stats["per_layer"].values()) == {0.0}
