"""The whole choice: what is tried, what loses and why, what is kept and used again."""

import dataclasses
import json
import os
import sys
from functools import partial

import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, MissingDependencyError
from modelyard.compression import ModelCompressor
from modelyard.inference_optimizer.backends import Backend
from modelyard.inference_optimizer.tuning import (
    TuningRecord,
    Winner,
    chosen,
    explain,
    probing,
    sizes_that_matter,
)
from modelyard.inference_optimizer.tuning import choosing as choosing_module
from modelyard.inference_optimizer.tuning.contenders import Contender

CPU = torch.device("cpu")
CRASHES = "import sys, os, signal; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)"
HANGS = "import sys, threading; sys.stdin.readline(); threading.Event().wait()"


class Noisy(nn.Module):
    """Gives another answer at every call."""

    def forward(self, x):
        return x + torch.rand(x.shape)


class FixedBatch(nn.Module):
    """Runs at one batch size only."""

    def forward(self, x):
        return x.reshape(2, 4) * 2.0


def rows(n, width=8):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


choose = partial(chosen, device=CPU, budget_s=1.0)


@pytest.fixture
def other_prober(monkeypatch):
    """A function that has another command asked, as this process's prober."""
    made = []

    def use(code):
        made.append(probing.Prober([sys.executable, "-c", code]))
        monkeypatch.setitem(probing._PROBERS, os.getpid(), made[-1])

    yield use
    for prober in made:
        prober.close()


@pytest.fixture
def contender(monkeypatch):
    """A function that puts a made-up backend among torch's own."""

    def put(run, name="torchscript"):
        one = Contender(name=name, make=lambda: Backend(name=name, run=run))
        monkeypatch.setattr(choosing_module, "torch_contenders", lambda *_: [one])

    return put


def row_of(choice, name):
    return next(row for row in choice.candidates if row["name"] == name)


def test_every_winner_answers_as_the_module(mlp):
    choice = choose(mlp, rows(2))
    assert set(choice.by_batch) == {1, 8, 32}
    for n, backend in choice.by_batch.items():
        torch.testing.assert_close(backend.run(rows(n)), mlp(rows(n)), rtol=1e-5, atol=1e-5)
    assert choice.chunk_size in choice.by_batch
    assert choice.reason == ""
    assert not choice.is_reused


def test_rows_tell_name_settings_figures_and_reason(mlp):
    optimization = choose(mlp, rows(2)).to_optimization()
    json.dumps(optimization, allow_nan=False)
    rows_by_name = {row["name"]: row for row in optimization["candidates"]}
    assert set(rows_by_name) == {"eager", "torchscript", "onnxruntime", "openvino"}
    assert all(row["reason"] for row in optimization["candidates"])
    settings = [r["settings"] for r in optimization["candidates"] if r["name"] == "onnxruntime"]
    assert sorted(s["graph_level"] for s in settings) == ["all", "basic", "raw"]
    assert {s["threads"] for s in settings} == {1}  # the graph is small
    assert set(rows_by_name["eager"]["latency_ms"]) == {"1", "8", "32"}
    chosen_names = {r["name"] for r in optimization["candidates"] if r["is_chosen"]}
    assert chosen_names == set(optimization["backend_by_batch"].values())


def test_hardware_and_chunk_are_told(mlp):
    optimization = choose(mlp, rows(2)).to_optimization()
    assert optimization["hardware"]["torch_threads"] == str(torch.get_num_threads())
    assert optimization["chunk_size"] in (1, 8, 32)


@pytest.mark.parametrize(("most", "want"), [(1, (1,)), (4, (1, 4)), (8, (1, 8)), (64, (1, 8, 64))])
def test_sizes_that_matter(most, want):
    assert sizes_that_matter(most) == want


# ── reduced precision ───────────────────────────────────────────────────────────────────────

REDUCED = {"bfloat16", "autocast", "openvino_bfloat16"}


@pytest.mark.parametrize(
    ("options", "is_tried"),
    [
        ({}, False),
        ({"tolerance": 1e-4}, False),
        ({"tolerance": 0.1}, True),
        ({"use_amp": True}, True),
    ],
)
def test_reduced_precision_is_tried_only_where_admitted(mlp, options, is_tried):
    names = {row["name"] for row in choose(mlp, rows(2), **options).candidates}
    assert names >= REDUCED if is_tried else not names & REDUCED


def test_reduced_precision_beyond_the_tolerance_loses_with_its_error(mlp):
    row = row_of(choose(mlp, rows(2), tolerance=1.1e-3), "bfloat16")
    assert "differs from eager by" in row["reason"]
    assert "the tolerance is 0.0011" in row["reason"]
    assert row["max_abs_diff"] > 1e-3
    assert row["latency_ms"] == {}


# ── what loses ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda x: x * 1.01, "differs from eager by"),
        (lambda x: x.double(), "answers with torch.float64; eager's is torch.float32"),
        (lambda x: (x,), "answers with a tuple of another structure"),
        (lambda x: x[:1], "differs from eager in shape"),
        (lambda x: x * float("nan"), "differs from eager in shape, or by NaN"),
        (lambda x: x.boom, "could not run: 'Tensor' object has no attribute 'boom'"),
        # Right at every size but one that nobody serves.
        (lambda x: x if len(x) != 3 else -x, "differs from eager by"),
        # Right on usual values only.
        (lambda x: x.clamp(-6, 6).where(x.abs() <= 40, x), "differs from eager by"),
        # NaN becomes an ordinary answer.
        (lambda x: x.nan_to_num(0.5), "differs from eager in shape, or by NaN"),
    ],
)
def test_backend_that_answers_otherwise_loses_with_the_reason(contender, run, reason):
    contender(run)
    choice = choose(nn.Identity(), rows(2))
    row = row_of(choice, "torchscript")
    assert row["reason"].startswith(reason)
    assert not row["is_chosen"]
    json.dumps(row, allow_nan=False)


def test_model_with_two_answers_to_one_input_keeps_eager():
    choice = choose(nn.Sequential(nn.Linear(8, 8), Noisy()), rows(2))
    assert {backend.name for backend in choice.by_batch.values()} == {"eager"}
    assert "two answers" in row_of(choice, "onnxruntime")["reason"]


def test_size_at_which_the_module_does_not_run_is_told():
    choice = choose(FixedBatch(), rows(2, 4), batch_sizes=(1, 2, 8))
    assert set(choice.by_batch) == {2}
    assert "batch 1 was not measured: the module does not run" in choice.reason
    choice = choose(FixedBatch(), rows(2, 4), batch_sizes=(1, 8))
    assert set(choice.by_batch) == {2}


@pytest.mark.parametrize(
    ("code", "timeout_s", "reason"),
    [(CRASHES, 60.0, "crashed with SIGSEGV"), (HANGS, 0.1, "did not answer within 0.1 s")],
)
def test_engine_that_crashes_or_hangs_is_a_row(mlp, other_prober, code, timeout_s, reason):
    other_prober(code)
    choice = choose(mlp, rows(2), probe_timeout_s=timeout_s)
    lost = [row for row in choice.candidates if row["name"] in {"onnxruntime", "openvino"}]
    assert [row["reason"] for row in lost] == [reason] * 4
    assert {backend.name for backend in choice.by_batch.values()} <= {"eager", "torchscript"}


def test_without_a_second_process_engines_of_graphs_are_not_used(mlp, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert "cannot be probed here" in row_of(choose(mlp, rows(2)), "onnxruntime")["reason"]


def test_openvino_that_is_not_installed_is_no_candidate(mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'modelyard\[openvino\]'"):
        choose(mlp, rows(2), asked="openvino")
    assert "openvino" not in {row["name"] for row in choose(mlp, rows(2)).candidates}


# ── one backend asked for ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("asked", ["eager", "torchscript", "onnxruntime", "openvino"])
def test_backend_asked_for_serves_every_size(asked):
    smooth = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    choice = choose(smooth, rows(2), asked=asked)
    assert {backend.name for backend in choice.by_batch.values()} == {asked}
    assert {row["name"] for row in choice.candidates} == {"eager", asked}


def test_compile_is_tried_only_where_asked_for(mlp):
    assert "compile" not in {row["name"] for row in choose(mlp, rows(2)).candidates}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("bfloat16", "'bfloat16' cannot serve this model: differs from eager by"),
        ("cuda_graph", "Sequential on cpu runs with eager, torchscript, onnxruntime"),
    ],
)
def test_backend_that_cannot_serve_is_refused_with_the_reason(mlp, asked, message):
    with pytest.raises(ConfigError, match=message):
        choose(mlp, rows(2), asked=asked)


def test_backend_asked_for_that_crashes_is_refused_with_the_reason(mlp, other_prober):
    other_prober(CRASHES)
    with pytest.raises(ConfigError, match="'onnxruntime' cannot serve this model: crashed with"):
        choose(mlp, rows(2), asked="onnxruntime")


# ── graphs that run as they are ─────────────────────────────────────────────────────────────


def test_quantized_graph_is_tried_with_other_settings_and_never_converted(new_mlp, monkeypatch):
    compressor = ModelCompressor(new_mlp(8, 64, 4))
    compressor.dynamic_quantization()
    choice = choose(compressor.model, rows(2))
    assert {row["name"] for row in choice.candidates} == {"eager", "onnxruntime", "openvino"}
    for n, backend in choice.by_batch.items():
        torch.testing.assert_close(
            backend.run(rows(n)), compressor.model(rows(n)), rtol=1e-5, atol=1e-5
        )


# ── a choice used again ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def onnxruntime_choice(mlp):
    return choose(mlp, rows(2), asked="onnxruntime")


def test_choice_is_used_again_without_timing(mlp, onnxruntime_choice, monkeypatch):
    record = TuningRecord.from_dict(json.loads(json.dumps(onnxruntime_choice.record.to_dict())))
    monkeypatch.setattr(choosing_module, "race", None)
    again = choose(mlp, rows(2), asked="onnxruntime", reuse=record)
    assert again.is_reused
    assert again.chunk_size == onnxruntime_choice.chunk_size
    assert again.record == record
    for n, backend in again.by_batch.items():
        before = onnxruntime_choice.by_batch[n]
        assert (backend.name, backend.settings) == (before.name, before.settings)
        torch.testing.assert_close(backend.run(rows(n)), mlp(rows(n)), rtol=1e-5, atol=1e-5)
    row = row_of(again, "onnxruntime")
    assert row["reason"].startswith("chosen before on equal hardware at batch")
    assert row["latency_ms"]
    assert "nothing was timed" in explain(again.to_optimization())


def test_choice_of_another_setting_for_each_size_is_used_again(mlp, onnxruntime_choice):
    levels = ("raw", "basic", "all")
    winners = {
        n: dataclasses.replace(winner, settings={**winner.settings, "graph_level": level})
        for (n, winner), level in zip(
            onnxruntime_choice.record.winners.items(), levels, strict=True
        )
    }
    record = dataclasses.replace(onnxruntime_choice.record, winners=winners)
    again = choose(mlp, rows(2), asked="onnxruntime", reuse=record)
    assert again.is_reused, again.reason
    assert [one.settings["graph_level"] for one in again.by_batch.values()] == list(levels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hardware": {"processor": "abacus"}}, "measured anew: processor was 'abacus' and is"),
        ({"tolerance": 1e-3}, "measured anew: tolerance was 0.001 and is 1e-05"),
        ({"batch_sizes": (1,)}, r"measured anew: batch sizes was (1,) and is (1, 8, 32)"),
        ({"form": (("", "torch.float32", (9,)),)}, "measured anew: input was"),
    ],
)
def test_choice_made_for_something_else_is_measured_anew(mlp, onnxruntime_choice, change, reason):
    record = dataclasses.replace(onnxruntime_choice.record, **change)
    again = choose(mlp, rows(2), asked="onnxruntime", reuse=record)
    assert not again.is_reused
    assert again.reason.startswith(reason)


def test_recorded_backend_that_no_longer_answers_right_is_not_used(contender):
    contender(lambda x: x + 1.0)
    winner = Winner(name="torchscript", settings={}, latency_ms=1.0, eager_latency_ms=2.0)
    record = choose(nn.Identity(), rows(2), batch_sizes=(1,)).record
    record = dataclasses.replace(record, winners={1: winner})
    again = choose(nn.Identity(), rows(2), batch_sizes=(1,), reuse=record)
    assert not again.is_reused
    assert "torchscript was recorded, but differs from eager by" in again.reason
    assert again.by_batch[1].name != "torchscript"


def test_recorded_settings_that_do_not_exist_are_measured_anew(mlp, onnxruntime_choice):
    winner = dataclasses.replace(
        onnxruntime_choice.record.winners[1], settings={"graph_level": "most", "threads": 1}
    )
    record = dataclasses.replace(onnxruntime_choice.record, winners={1: winner})
    again = choose(mlp, rows(2), asked="onnxruntime", reuse=record)
    assert not again.is_reused
    assert "graph_level=most" in again.reason


# ── the table ───────────────────────────────────────────────────────────────────────────────


def test_table_has_a_line_a_backend_and_says_why(mlp):
    text = explain(choose(mlp, rows(2)).to_optimization())
    lines = text.splitlines()
    for word in ("backend", "batch 1", "batch 8", "batch 32", "error", "verdict"):
        assert word in lines[0]
    assert any(line.startswith(("  eager", "* eager")) for line in lines)
    assert sum(line.startswith("* ") for line in lines) >= 1
    assert "tolerance is 1e-05" in text


def test_table_of_nothing_tried_says_why():
    text = explain(
        {
            "backend": "eager",
            "backend_by_batch": {"1": "eager"},
            "candidates": [],
            "reason": "eager is kept: no example",
            "tolerance": 1e-5,
            "device": "cpu",
            "chunk_size": 32,
            "is_reused": False,
            "hardware": {},
        }
    )
    assert "Note: eager is kept: no example." in text
