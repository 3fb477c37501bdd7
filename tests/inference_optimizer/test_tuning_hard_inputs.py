"""What is rare in the example and not in years of use: no engine may answer it in its own way."""

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.inference_optimizer.tuning import TuningRecord, chosen

CPU = torch.device("cpu")


class ReplacesNaN(nn.Module):
    """Looks at values before it decides."""

    def forward(self, x):
        if not x.isfinite().all():
            x = x.nan_to_num()
        return x * 2


class SwitchesWhenLarge(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        return self.large(x) if x.abs().max() > 100 else self.small(x)


class Doubles(nn.Module):
    def forward(self, t):
        return t * 2


class Roots(nn.Sequential):
    def forward(self, x):
        return super().forward(x.sum(1, keepdim=True).abs().add(x).sqrt()).relu()


def rows(n=2):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))


def reasons(model, example, **options):
    choice = chosen(model.eval(), example, CPU, budget_s=0.3, batch_sizes=(1, 4), **options)
    return choice, {row["name"]: row for row in choice.candidates}


@pytest.mark.slow
@pytest.mark.parametrize("model", [ReplacesNaN(), SwitchesWhenLarge()])
def test_a_branch_on_values_is_never_frozen(model):
    choice, by_name = reasons(model, rows())
    assert {backend.name for backend in choice.by_batch.values()} == {"eager"}
    assert by_name["torchscript"]["latency_ms"] == {}
    assert "could not run" in by_name["torchscript"]["reason"]


def test_nan_never_becomes_an_ordinary_number():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    choice, by_name = reasons(model, rows(), asked="openvino")
    assert (
        "inputs with NaN, infinity or more than 1e+06 go to eager"
        in (by_name["openvino"]["reason"])
    )
    for backend in choice.made:
        assert backend.run(torch.full((2, 8), float("nan"))).isnan().all()


def test_an_engine_that_loses_nan_does_not_serve_what_can_make_it():
    model = Roots(nn.Linear(8, 4))
    with pytest.raises(ConfigError, match="NaN or infinity"):
        reasons(model, rows(), asked="openvino")


def test_an_index_outside_its_table_is_refused_by_whoever_serves():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 2))
    choice, by_name = reasons(model, torch.tensor([[1, 2], [3, 4]]))
    assert {backend.name for backend in choice.by_batch.values()} <= {"eager", "torchscript"}
    assert by_name["onnxruntime"]["reason"] == "answers an input that eager refuses"
    for backend in choice.by_batch.values():
        with pytest.raises(Exception, match="index out of range"):
            backend.run(torch.tensor([[-1, 2]]))


def test_whole_numbers_beyond_32_bits_stay_what_they_are():
    with pytest.raises(ConfigError, match="differs from eager"):
        reasons(Doubles(), torch.tensor([[1, 2], [3, 4]]), asked="openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": (0,)}, "batch_sizes are whole numbers"),
        ({"batch_sizes": (True,)}, "batch_sizes are whole numbers"),
        ({"batch_sizes": ("a",)}, "batch_sizes are whole numbers"),
        ({"batch_sizes": (2.5,)}, "batch_sizes are whole numbers"),
        ({"batch_sizes": ()}, "batch_sizes are whole numbers"),
        ({"budget_s": -1.0}, "seconds above 0"),
        ({"budget_s": float("nan")}, "seconds above 0"),
        ({"probe_timeout_s": 0.0}, "seconds above 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        chosen(nn.Linear(8, 2), rows(), CPU, **options)


def test_an_example_without_a_sample_is_refused():
    with pytest.raises(InputError, match="holds no sample"):
        chosen(nn.Linear(8, 2), rows(0), CPU)


def test_the_difference_told_is_that_of_ordinary_inputs():
    """Rounding of a value of a million is no measure of what a backend is off by in use."""
    model = nn.Sequential(
        nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4)
    )
    _, by_name = reasons(model, rows())
    assert by_name["onnxruntime"]["max_abs_diff"] < 1e-4
    _, by_name = reasons(nn.Linear(8, 4), rows(), use_amp=True)
    assert by_name["bfloat16"]["max_abs_diff"] < 1.0


def test_a_record_without_a_duration_is_damaged():
    choice, _ = reasons(nn.Linear(8, 2), rows())
    plain = choice.record.to_dict()
    next(iter(plain["winners"].values()))["latency_ms"] = 0
    with pytest.raises(ConfigError, match="a latency is a number above 0"):
        TuningRecord.from_dict(plain)


def test_batch_sizes_may_be_numpys_numbers():
    found = chosen(nn.Linear(8, 2), rows(), CPU, budget_s=0.2, batch_sizes=(1, 4, np.int64(2)))
    assert found.record.batch_sizes == (1, 2, 4)
