"""A kept choice: written, read, refused when damaged, compared."""

import dataclasses
import json

import pytest
import torch

from modelyard._core.errors import ConfigError
from modelyard.inference_optimizer.tuning import TuningRecord, Winner, hardware_of
from modelyard.inference_optimizer.tuning.record import form_of


@pytest.fixture
def record():
    winner = Winner(
        name="onnxruntime",
        settings={"graph_level": "all", "threads": 1},
        latency_ms=0.5,
        eager_latency_ms=1.0,
    )
    return TuningRecord(
        hardware=hardware_of(torch.device("cpu")),
        form=form_of({"x": torch.zeros(2, 8), "ids": torch.zeros(2, dtype=torch.int64)}),
        device="cpu",
        tolerance=1e-5,
        is_reduced_admitted=False,
        asked="auto",
        batch_sizes=(1, 8),
        winners={1: winner, 8: winner},
        chunk_size=8,
    )


def test_record_survives_json(record):
    assert TuningRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_form_leaves_out_the_batch():
    assert form_of(torch.zeros(2, 8)) == form_of(torch.zeros(5, 8))
    assert form_of(torch.zeros(2, 8)) != form_of(torch.zeros(2, 9))
    assert form_of(torch.zeros(2, 8)) != form_of(torch.zeros(2, 8).double())
    assert form_of((torch.zeros(2, 8),)) == form_of(torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("form"), "lacks 'form'"),
        (lambda d: d["winners"]["1"].pop("settings"), "lacks 'settings'"),
        (lambda d: d.update(format=2), r"format 2 cannot be read, only of 1"),
        (lambda d: d.update(winners={}), "names no winner"),
        (lambda d: d.update(winners={"x": {}}), "damaged: invalid literal"),
        (lambda d: d.update(hardware=[1]), "damaged"),
        (lambda d: d.update(chunk_size=0), "batch sizes are 1 or more"),
        (lambda d: d["winners"]["1"].update(settings={"threads": [1]}), "texts and whole numbers"),
    ],
)
def test_damaged_record_is_refused_with_what_is_wrong(record, change, message):
    value = record.to_dict()
    change(value)
    with pytest.raises(ConfigError, match=message):
        TuningRecord.from_dict(value)


def test_what_is_no_record_is_refused():
    with pytest.raises(ConfigError, match="is a dict, got list"):
        TuningRecord.from_dict([1])


def test_differences_name_what_changed(record):
    other = dataclasses.replace(
        record,
        hardware={**record.hardware, "torch": "9.9", "gpu": "A"},
        batch_sizes=(1, 32),
    )
    assert record.differences(record) == []
    told = "; ".join(record.differences(other))
    assert "torch was" in told
    assert "is '9.9'" in told
    assert "gpu was '' and is 'A'" in told
    assert "batch sizes was (1, 8) and is (1, 32)" in told


def test_winners_and_figures_are_no_differences(record):
    other = dataclasses.replace(record, winners={}, chunk_size=1)
    assert record.differences(other) == []


def test_hardware_names_versions_and_threads():
    found = hardware_of(torch.device("cpu"))
    assert found["torch"].startswith("2.")
    assert found["torch_threads"] == str(torch.get_num_threads())
    assert found["processor"]
