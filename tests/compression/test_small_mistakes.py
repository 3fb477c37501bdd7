"""Mistakes of callers that are named, and trainings that take turns."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.training import seeding
from modelyard.torchtools.samples import batches_of


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Frame:
    """As a data frame: iterated over it gives the names of its columns."""

    def __iter__(self):
        return iter([0, 1])

    def to_numpy(self, dtype=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Frame(), r"A Frame is no tensor of samples: pass data\.to_numpy\(dtype='float32'\)"),
        ([[1.0, 2.0], [3.0, 4.0]], r"pass numpy\.array\(data, dtype='float32'\)"),
        ([1.0, 2.0], r"pass numpy\.array\(data, dtype='float32'\)"),
    ],
)
def test_tables_are_named_with_what_to_pass(data, told):
    with pytest.raises(InputError, match=told):
        batches_of(data)


@pytest.mark.parametrize("max_error", ["0.1", None, math.nan, 0.0])
def test_a_limit_that_is_no_number_is_named(mlp, max_error):
    with pytest.raises(ConfigError, match="max_error must be a number above 0"):
        ModelCompressor(mlp).dynamic_quantization(max_error=max_error)


def test_a_search_refuses_what_cannot_be_before_it_begins(mlp):
    compressor = ModelCompressor(mlp)
    loader = [(normal(8, 8), normal(8, 4))]
    with pytest.raises(ConfigError, match="epochs must be 1 or more"):
        compressor.search(lambda model: 1.0, epochs=0, train_loader=loader)
    for amounts in (0.3, "0.3"):
        with pytest.raises(ConfigError, match="amounts must be several shares"):
            compressor.search(lambda model: 1.0, amounts=amounts)


def test_layers_of_the_compressed_model_may_be_kept_in_float(new_mlp):
    compressor = ModelCompressor(new_mlp(16, 64, 4), validation_data=normal(64, 16))
    layer = compressor.model[0]
    stats = compressor.dynamic_quantization(layers_to_keep_float=[layer])
    assert stats["layers_kept_float"] == ["0"]


def test_a_finished_checkpoint_says_that_nothing_is_left_to_train(new_mlp, tmp_path, caplog):
    teacher, student = new_mlp(), new_mlp(seed=1)
    compressor = ModelCompressor(teacher)
    path = tmp_path / "student.ckpt"

    def train(seed):
        caplog.clear()
        compressor.knowledge_distillation(
            teacher,
            student,
            [normal(8, 8, seed=seed)],
            alpha=1.0,
            epochs=2,
            checkpoint=path,
            progress=False,
        )
        return [record.getMessage() for record in caplog.records]

    assert not any("nothing is left to train" in told for told in train(0))
    assert any("student.ckpt holds a training that is finished" in told for told in train(1))


DATA = [(normal(8, 8, seed=i), normal(8, 1, seed=i)) for i in range(30)]


def new_compressor(seed):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    return ModelCompressor(model, seed=seed)


def fine_tuned(compressor):
    compressor.fine_tune(DATA, 4, progress=False)
    return compressor.model[0].weight.detach().clone()


def test_the_same_seed_gives_the_same_weights_beside_another_training():
    alone = [fine_tuned(new_compressor(seed)) for seed in (0, 1)]
    compressors = [new_compressor(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(fine_tuned, compressors))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_epochs_of_two_threads_take_turns():
    def draws(seed):
        with seeding.seeded_epoch(seed, 1, []):
            return [float(torch.rand(())) for _ in range(2000)]

    wanted = [draws(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draws, range(4))) == wanted
