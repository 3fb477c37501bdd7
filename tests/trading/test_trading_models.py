"""The three networks: shapes, sizes, losses, and that they can be traced."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from modelyard._core.errors import InputError
from modelyard.trading import (
    Architecture,
    ForecastHead,
    MarketTransformer,
    PolicyNetwork,
    TS2Vec,
    build_models,
    presets,
    transformer_task_error,
)
from modelyard.trading.rows import forecast_targets
from modelyard.trading.settings import TransformerSize
from modelyard.trading.transformer_training import TransformerTraining, train_transformer
from modelyard.trading.ts2vec_training import (
    TS2VecTraining,
    contrast,
    draw_crops,
    hierarchical_contrastive_loss,
    train_ts2vec,
)

SHAPES = {"ts2vec": ((256, 4), 128), "transformer": ((64, 155), 256), "policy": ((263,), 4)}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("batch", [1, 3])
def test_each_model_gives_the_documents_shape(name, batch):
    inside, outside = SHAPES[name]
    model = getattr(build_models(presets.small().architecture, seed=0), name)
    assert model(torch.randn(batch, *inside)).shape == (batch, outside)


@pytest.mark.parametrize(
    ("name", "size_mb"), [("policy", 50), ("transformer", 200), ("ts2vec", 150)]
)
def test_the_document_preset_has_the_documents_sizes(name, size_mb):
    with torch.device("meta"):
        models = build_models(presets.document(), seed=0)
        model = getattr(models, name)
        inside, outside = SHAPES[name]
        assert model(torch.empty(1, *inside)).shape == (1, outside)
    weights = sum(weight.numel() for weight in model.state_dict().values())
    assert 4 * weights / 1e6 == pytest.approx(size_mb, rel=0.03)


@pytest.mark.parametrize("name", SHAPES)
def test_each_model_can_be_exported_as_one_graph(name):
    model = getattr(build_models(presets.quick().architecture, seed=0), name)
    x = torch.randn(2, *SHAPES[name][0])
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), atol=1e-5)


def test_the_same_seed_builds_the_same_weights_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    first, second = (build_models(Architecture(), seed=3).policy for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_layers_of_the_transformer_start_out_different():
    layers = MarketTransformer(n_layers=2).encoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)
    assert not torch.equal(layers[0].self_attn.in_proj_weight, layers[1].self_attn.in_proj_weight)


def test_masked_timestamps_do_not_reach_the_representation():
    model = TS2Vec(hidden_size=4, depth=1).eval()
    bars = torch.randn(1, 32, 4)
    keep = torch.ones(1, 32, dtype=torch.bool)
    keep[0, 10] = False
    changed = bars.clone()
    changed[0, 10] += 5.0
    original = bars.clone()
    same = model.representations(changed, keep=keep)
    assert torch.equal(model.representations(bars, keep=keep), same)
    assert not torch.equal(model.representations(bars), model.representations(changed))
    assert torch.equal(bars, original)


def test_the_deployed_vector_is_the_maximum_over_time():
    model = TS2Vec(hidden_size=4, depth=1).eval()
    bars = torch.randn(2, 32, 4)
    assert torch.equal(model(bars), model.representations(bars).max(dim=1).values)


def literal_temporal_loss(z1, z2):
    """Equation 1 of the paper, term by term."""
    total = []
    for i in range(z1.shape[0]):
        for a, b in ((z1[i], z2[i]), (z2[i], z1[i])):
            for t in range(len(a)):
                others = [a[t] @ b[u] for u in range(len(a))]
                others += [a[t] @ a[u] for u in range(len(a)) if u != t]
                total.append(torch.logsumexp(torch.stack(others), 0) - a[t] @ b[t])
    return torch.stack(total).mean()


def test_the_contrast_is_the_papers_equation():
    z1, z2 = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert contrast(z1, z2).item() == pytest.approx(literal_temporal_loss(z1, z2).item(), rel=1e-5)
    instances = literal_temporal_loss(z1.transpose(0, 1), z2.transpose(0, 1))
    found = contrast(z1.transpose(0, 1), z2.transpose(0, 1))
    assert found.item() == pytest.approx(instances.item(), rel=1e-5)


def test_the_hierarchical_loss_is_the_mean_over_scales():
    z1, z2 = torch.randn(2, 2, 5), torch.randn(2, 2, 5)
    fine = (contrast(z1, z2) + contrast(z1.transpose(0, 1), z2.transpose(0, 1))) / 2
    pooled = [functional.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (z1, z2)]
    coarse = contrast(*(z.transpose(0, 1) for z in pooled)) / 2
    expected = ((fine + coarse) / 2).item()
    assert hierarchical_contrastive_loss(z1, z2).item() == pytest.approx(expected, rel=1e-5)


def test_crops_overlap_and_stay_inside_the_window():
    rng = np.random.default_rng(0)
    for _ in range(200):
        crops = draw_crops(256, grid=32, rng=rng)
        assert 0 <= crops.outer_start <= crops.start < crops.stop <= crops.outer_stop <= 256


def test_ts2vec_learns_and_is_left_ready_for_use():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = TS2Vec(hidden_size=8, depth=2)
    series = [rng.normal(size=(200, 4)).astype(np.float32)]
    training = TS2VecTraining(n_iterations=30, batch_size=4, crop_grid=16)
    losses = train_ts2vec(model, series, window=64, training=training, rng=rng)
    assert losses[-5:].mean() < losses[:5].mean()
    assert not model.training


def test_series_shorter_than_a_window_are_refused():
    series = [np.zeros((10, 4), dtype=np.float32)]
    with pytest.raises(InputError, match="64 bars"):
        train_ts2vec(
            TS2Vec(), series, window=64, training=TS2VecTraining(), rng=np.random.default_rng(0)
        )


def test_training_without_a_day_is_refused(tiny_chain):
    rows = [tiny_chain.rows["ONE"]]
    with pytest.raises(InputError, match="No day"):
        train_transformer(
            tiny_chain.models.transformer,
            tiny_chain.models.head,
            rows,
            [np.array([], dtype=np.intp)],
            training=TransformerTraining(),
            rng=np.random.default_rng(0),
        )
    assert not tiny_chain.models.transformer.training


def test_the_task_error_is_the_mean_squared_error_whatever_the_batches():
    model = MarketTransformer(n_inputs=155, **vars(TransformerSize(n_layers=1))).eval()
    head = ForecastHead().eval()
    sequences, targets = torch.randn(70, 64, 155), torch.randn(70, 3)
    with torch.inference_mode():
        expected = ((head(model(sequences)) - targets) ** 2).mean().item()
    found = transformer_task_error(model, head, sequences, targets)
    assert found == pytest.approx(expected, rel=1e-4)


def test_targets_are_what_came_later_in_units_of_the_past():
    close = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 60)))
    targets = forecast_targets(close)
    log_returns = np.diff(np.log(close))
    past = np.sqrt(np.mean(log_returns[9:30] ** 2))
    ahead = log_returns[30:35]
    assert targets[30, 0] == pytest.approx(ahead[0] / past)
    assert targets[30, 1] == pytest.approx(ahead.sum() / (past * np.sqrt(5)))
    assert targets[30, 2] == pytest.approx(np.log(np.sqrt(np.mean(ahead**2))))
    assert np.isnan(targets[:21]).all()
    assert np.isnan(targets[-5:, 1:]).all()


def test_policy_layers_follow_the_sizes_given():
    network = PolicyNetwork(hidden_sizes=[16, 8], n_inputs=10, n_actions=3)
    assert network(torch.zeros(2, 10)).shape == (2, 3)
