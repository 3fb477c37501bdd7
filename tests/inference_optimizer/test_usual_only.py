"""A backend for usual numbers only: who answers what, and that nobody notices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import LARGEST, Backend, is_usual, usual_only

ODD = [float("nan"), float("inf"), float("-inf"), 2 * LARGEST, -2 * LARGEST]


def named(name):
    """A backend whose answers say whose they are."""
    value = {"engine": 1.0, "eager": 2.0}[name]
    return Backend(
        name=name,
        run=lambda inputs: torch.tensor([value]),
        run_array=lambda array: np.array([value]),
    )


PAIR = usual_only(named("engine"), named("eager"))


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_unusual_numbers_go_to_eager(odd, dtype):
    usual, unusual = torch.zeros(2, 3, dtype=dtype), torch.zeros(2, 3, dtype=dtype)
    unusual[1, 2] = odd
    assert float(PAIR.run(usual)) == 1.0
    assert float(PAIR.run(unusual)) == 2.0
    assert float(PAIR.run({"a": usual, "b": unusual})) == 2.0
    if dtype is torch.float32:
        assert float(PAIR.run_array(usual.numpy())[0]) == 1.0
        assert float(PAIR.run_array(unusual.numpy())[0]) == 2.0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_infinity_of_a_type_that_ends_below_the_limit_is_unusual(odd):
    largest = torch.tensor([65_504.0, 1.0], dtype=torch.float16)
    unusual = torch.tensor([1.0, odd], dtype=torch.float16)
    for usual, want in ((largest, True), (unusual, False)):
        assert is_usual(usual) == want
        assert float(PAIR.run_array(usual.numpy())[0]) == (1.0 if want else 2.0)


def test_the_imaginary_part_of_a_conjugate_is_usual():
    part = torch.complex(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])).conj().imag
    assert part.is_neg()
    assert float(PAIR.run(part)) == 1.0
    part[1] = torch.nan
    assert float(PAIR.run(part)) == 2.0


@given(
    st.lists(st.one_of(st.floats(width=32), st.sampled_from([LARGEST, -LARGEST, 9e5])), max_size=9)
)
def test_usual_is_what_each_number_is(values):
    want = all(abs(value) <= LARGEST for value in values)
    for dtype in (torch.float32, torch.float64):
        assert is_usual(torch.tensor(values, dtype=dtype)) == want


def test_whole_numbers_and_layouts_are_no_matter():
    assert is_usual(torch.tensor([2**40]))
    assert is_usual(torch.tensor([True]))
    array = np.zeros((4, 6), np.float32)
    array[3, 5] = np.nan
    array.flags.writeable = False
    assert float(PAIR.run_array(array[:, :5])[0]) == 1.0
    assert float(PAIR.run_array(array[::-1, ::-2])[0]) == 2.0


@pytest.mark.slow
def test_whoever_asks_gets_the_modules_own_answer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    optimizer = InferenceOptimizer(model, backend="openvino", cache_size=0)
    optimizer.optimize_for_inference(torch.randn(2, 8), budget_s=0.3)
    inputs = torch.randn(6, 8)
    inputs[2, 3], inputs[3, 0], inputs[4] = float("nan"), float("inf"), 1e7
    want = model(inputs).detach()
    for answer in (
        optimizer.predict(inputs),
        torch.from_numpy(optimizer.predict(inputs.numpy())),
        optimizer.predict_batch(inputs),
        torch.cat(optimizer.predict_streaming([row[None] for row in inputs])),
    ):
        torch.testing.assert_close(answer, want, rtol=1e-5, atol=1e-5, equal_nan=True)
    record = optimizer.tuning_record()
    again = InferenceOptimizer(model, backend="openvino", cache_size=0)
    again.optimize_for_inference(torch.randn(2, 8), reuse=record)
    assert "go to eager" in again.explain()
    assert again.predict(inputs)[2].isnan().all()
