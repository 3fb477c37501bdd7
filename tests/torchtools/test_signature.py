"""Signatures: what a model takes, learnt from an example, and inputs that do not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from modelyard import InferenceOptimizer, ModelExporter, ModelVersionManager
from modelyard._core.errors import ConfigError, InputError
from modelyard.torchtools.signature import check_input, note_signature, signature_of


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layer = nn.Linear(3, 4)

    def forward(self, ids, x):
        return self.embed(ids).mean(1) + self.layer(x), ids


def shapes(described):
    return [item["shape"] for item in described]


def test_sizes_the_model_takes_otherwise_too_are_free(mlp):
    assert shapes(signature_of(mlp, None, torch.zeros(2, 8))["inputs"]) == [[None, 8]]
    lstm = nn.LSTM(5, 6, batch_first=True)
    assert shapes(signature_of(lstm, None, torch.zeros(2, 7, 5))["inputs"]) == [[None, None, 5]]
    conv = nn.Conv1d(3, 2, 3)
    assert shapes(signature_of(conv, None, torch.zeros(2, 3, 9))["inputs"]) == [[None, 3, None]]


def test_names_types_and_outputs_are_told():
    example = {"ids": torch.zeros(2, 5, dtype=torch.long), "x": torch.zeros(2, 3)}
    assert signature_of(TwoInputs(), None, example) == {
        "inputs": [
            {"name": "ids", "shape": [None, None], "dtype": "int64"},
            {"name": "x", "shape": [None, 3], "dtype": "float32"},
        ],
        "outputs": [
            {"name": "output_0", "shape": [None, 4], "dtype": "float32"},
            {"name": "output_1", "shape": [None, 5], "dtype": "int64"},
        ],
    }


def test_example_the_model_does_not_take_gives_a_warning_and_no_signature(mlp, caplog):
    assert signature_of(mlp, None, torch.zeros(2, 9)) is None
    assert "does not run on the example input" in caplog.text


def test_looking_changes_nothing_of_the_model():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n_calls", torch.zeros(()))

        def forward(self, x):
            self.n_calls += 1
            return x

    model = Counting()
    assert signature_of(model, None, torch.zeros(2, 3)) is not None
    assert model.n_calls == 0


def test_given_signature_is_taken_as_it_is_or_refused(mlp):
    given = {"inputs": [{"name": "state", "shape": (None, 8), "dtype": "float32"}]}
    assert shapes(signature_of(mlp, given, None)["inputs"]) == [[None, 8]]
    for wrong in ({}, {"inputs": ["x"]}, {"inputs": [{"name": "x", "shape": [None]}]}):
        with pytest.raises(ConfigError, match="signature must be"):
            signature_of(mlp, wrong, None)


SIGNATURE = {
    "inputs": [
        {"name": "ids", "shape": [None, None], "dtype": "int64"},
        {"name": "x", "shape": [None, 3], "dtype": "float32"},
    ]
}


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.zeros(1, 5, dtype=torch.int32), torch.zeros(1, 3)),
        {"x": torch.zeros(7, 3, dtype=torch.float64), "ids": torch.zeros(7, 1, dtype=torch.long)},
    ],
)
def test_fitting_inputs_pass(inputs):
    check_input(SIGNATURE, inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(1, 3),
        (torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 4)),
        (torch.zeros(1, 5), torch.zeros(1, 3)),
        (torch.zeros(1, 5, dtype=torch.long), torch.zeros(3)),
        {"ids": torch.zeros(1, 5, dtype=torch.long), "y": torch.zeros(1, 3)},
    ],
)
def test_inputs_that_do_not_fit_say_what_was_expected_and_what_came(inputs):
    with pytest.raises(InputError, match=r"expects ids \(any, any\) int64, x \(any, 3\) float32"):
        check_input(SIGNATURE, inputs)


def test_loaded_version_is_checked_wherever_it_is_used(tmp_path, mlp):
    registry = ModelVersionManager(tmp_path / "models")
    version_id = registry.save_model(mlp, "ppo", example_input=torch.zeros(2, 8))
    model = registry.load_model(version_id)
    optimizer = InferenceOptimizer(model)
    assert optimizer.predict(torch.zeros(3, 8)).shape == (3, 4)
    assert optimizer.predict(np.zeros((3, 8))).shape == (3, 4)
    for wrong in (torch.zeros(1, 9), torch.zeros(1, 8, dtype=torch.long), torch.zeros(8)):
        with pytest.raises(InputError, match=r"signature expects input \(any, 8\) float32"):
            optimizer.predict(wrong)
        with pytest.raises(InputError, match="signature expects"):
            optimizer.predict_batch(wrong)
    with pytest.raises(InputError):
        ModelExporter(tmp_path / "onnx").export_to_onnx(model, "ppo", example_input=torch.zeros(8))
    again = registry.save_model(model, "ppo")  # what it was loaded with goes on with it
    assert (
        registry.get_version(again)["signature"] == registry.get_version(version_id)["signature"]
    )
    registry.store.close()


def test_model_without_a_signature_is_not_checked(mlp):
    note_signature(mlp, None)
    assert InferenceOptimizer(mlp).predict(torch.zeros(8)).shape == (4,)
