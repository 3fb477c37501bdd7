"""Parts of serving: which backend for how many, whose memory an answer is, who may be joined."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import Backend, usual_only
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.joining import item_of, lean_rows
from modelyard.inference_optimizer.kept import from_kept, kept
from modelyard.inference_optimizer.serving import Reach, Serving, form_of


def backend(name, **options):
    return Backend(name=name, run=lambda inputs: inputs, **options)


def serving(*, cache_size=0, form=None, **by_batch):
    return Serving(
        model=nn.Identity(),
        eager=backend("eager"),
        cache=AnswerCache(cache_size),
        by_batch={int(n[1:]): one for n, one in by_batch.items()},
        form=form,
        is_checked=True,
    )


@pytest.mark.parametrize(
    ("n", "name"),
    [(0, "eager"), (1, "small"), (5, "small"), (8, "large"), (9, "large"), (99, "eager")],
)
def test_backend_is_that_of_the_largest_measured_size_up_to_the_batch(n, name):
    one = serving(n1=backend("small"), n8=backend("large"))
    one.reach.compared = 20
    assert one.backend_for(n).name == name


def test_backend_of_the_smallest_size_serves_what_is_smaller_still():
    assert serving(n4=backend("only")).backend_for(1).name == "only"


def test_engines_are_not_asked_about_no_samples(mlp):
    engine = backend("engine", run_array=lambda array: array)
    x = torch.zeros(0, 8)
    answers = serving(form=form_of(x), n1=engine)
    assert answers.lean(np.zeros((0, 8), np.float32)) is None
    assert answers._chosen(x).name == "eager"
    ids = torch.zeros(0, dtype=torch.long)
    assert serving(form=form_of(ids), n1=engine)._chosen(ids).name == "eager"
    pair = (torch.zeros(2, 8), x)
    assert serving(form=form_of(pair), n1=engine)._chosen(pair).name == "eager"
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=0)
    assert optimizer.predict(x).shape == (0, 4)


@pytest.mark.parametrize("odd", [float("nan"), 2e6])
def test_what_eager_answers_itself_proves_nothing_of_a_backend(odd):
    other = Backend(name="other", run=lambda inputs: inputs + 1.0)
    x = torch.zeros(20, 4)
    answers = serving(form=form_of(x), n1=usual_only(other, backend("eager")))
    unusual = x.clone()
    unusual[3, 1] = odd
    answers.run(unusual)
    assert answers.reach == Reach()
    assert torch.equal(answers.run(x), x)
    assert answers.reach == Reach(differing=20)


@pytest.mark.parametrize(
    ("size", "own_errors", "is_alike"),
    [
        (1e-3, [1e-8], True),
        (1e-3, [2e-9], False),
        (1e-3, [], False),
        (1.0, [], True),
    ],
)
def test_large_batches_of_small_answers_may_be_off_by_what_eager_is(size, own_errors, is_alike):
    x = torch.full((20, 4), size)
    other = Backend(name="other", run=lambda inputs: inputs + 2e-8)
    answers = replace(serving(form=form_of(x), n1=other), own_errors=own_errors)
    answers.run(x)
    assert answers.reach == (Reach(compared=20) if is_alike else Reach(differing=20))


class Scaled(nn.Linear):
    def __init__(self, size):
        super().__init__(8, 2)
        self.size = size

    def forward(self, x):
        return self.size * super().forward(x).tanh()


@pytest.mark.parametrize(("size", "n_errors"), [(1e-3, 1), (1.0, 0)])
def test_what_eager_is_off_by_is_kept_for_small_answers(size, n_errors):
    model = Scaled(size)
    optimizer = InferenceOptimizer(model, device="cpu", backend="torchscript", cache_size=0)
    optimizer.optimize_for_inference(torch.ones(2, 8), batch_sizes=[1], budget_s=0.01)
    own_errors = optimizer._serving.own_errors
    assert len(own_errors) == n_errors
    assert all(0 < error < 1e-6 * size for error in own_errors)


def test_inputs_that_wait_are_copies():
    one = serving(
        form=form_of(torch.zeros(1, 4)), n1=backend("array", run_array=lambda array: array)
    )
    x = np.zeros((1, 4), np.float32)
    assert not np.shares_memory(item_of(x, one, is_copied=True).inputs, x)
    assert np.shares_memory(item_of(x, one, is_copied=False).inputs, x)
    tensor = torch.zeros(1, 4)
    assert item_of(tensor, one, is_copied=True).inputs.data_ptr() != tensor.data_ptr()


def test_rows_for_the_engine_are_copies(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="onnxruntime", cache_size=0)
    optimizer.optimize_for_inference(torch.zeros(2, 8))
    x = np.zeros((1, 8), np.float32)
    assert not np.shares_memory(optimizer._prepared(x), x)


def test_what_is_kept_and_what_is_given_share_no_memory():
    array = np.zeros((1, 4), np.float32)
    assert not np.shares_memory(kept(array), array)
    assert not np.shares_memory(from_kept(array, torch.zeros(1), as_arrays=True), array)
    given = from_kept(array, torch.zeros(1), as_arrays=False)
    assert not np.shares_memory(given.numpy(), array)


@pytest.mark.parametrize(("width", "is_view"), [(4, True), (50_000, False)])
def test_rows_of_large_answers_keep_no_other_row_in_memory(width, is_view):
    form = form_of(torch.zeros(1, width))
    one = serving(form=form, n1=backend("array", run_array=lambda array: array * 2))
    one.joinable[form] = True
    one.reach.compared = 3
    rows = lean_rows(one, [np.full((1, width), float(i), np.float32) for i in range(3)])
    assert [float(row[0, 0]) for row in rows] == [0.0, 2.0, 4.0]
    assert all((row.base is not None) == is_view for row in rows)


def test_arrays_of_several_forms_have_no_shortest_way_together():
    form = form_of(torch.zeros(1, 4))
    one = serving(form=form, n1=backend("array", run_array=lambda array: array))
    one.joinable[form] = True
    x = np.zeros((1, 4), np.float32)
    assert lean_rows(one, [x, np.zeros((1, 5), np.float32)]) is None
    assert lean_rows(one, [x, np.zeros((1, 4), np.int64)]) is None
    assert lean_rows(one, [x, np.zeros((2, 4), np.float32)]) is None


class ScalesByTheLargest(nn.Module):
    """Only values beyond what normal inputs have show that the batch shares something."""

    def forward(self, x):
        return x / max(1.0, float(x.abs().max()) / 8)


def test_what_only_a_large_neighbour_shows_is_found():
    optimizer = InferenceOptimizer(ScalesByTheLargest(), device="cpu", cache_size=0)
    small = [torch.full((1, 4), 0.1), torch.full((1, 4), 0.2)]
    assert not optimizer._can_join(optimizer._serving, small)


@pytest.mark.parametrize("largest", [6e4, 1e30])
def test_samples_of_different_size_are_joined(largest, new_mlp):
    model = new_mlp()
    optimizer = InferenceOptimizer(model, device="cpu", cache_size=0)
    sizes = torch.tensor([[largest], [0.1]])
    pair = torch.rand(2, 1, 8, generator=torch.Generator().manual_seed(0)) * sizes[:, None]
    assert optimizer._can_join(optimizer._serving, [*pair])
