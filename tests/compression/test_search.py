"""The search: what is best, what is left out, what is applied."""

import json
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modelyard import ModelCompressor
from modelyard._core.errors import CompressionError, ConfigError, InputError
from modelyard.compression.search.candidates import (
    Candidate,
    SearchLimits,
    best_of,
    broken_limits,
    metric_drop,
    pareto_front,
)
from modelyard.torchtools.onnx_module import OnnxModule


@st.composite
def candidates(draw):
    number = st.floats(0.1, 10).map(lambda value: round(value, 1))
    rows = draw(st.lists(st.tuples(number, number, number, st.booleans()), max_size=8))
    return [
        Candidate(
            pruned=0.0,
            recipe=str(i),
            metric=1.0 - drop,
            drop=drop,
            size_mb=size,
            latency_ms=latency,
            speedup=10 / latency,
            reason="" if is_allowed else "not allowed",
        )
        for i, (drop, size, latency, is_allowed) in enumerate(rows)
    ]


def is_at_least_as_good(a, b):
    return a.drop <= b.drop and a.size_mb <= b.size_mb and a.latency_ms <= b.latency_ms


@given(candidates())
def test_front_covers_all_and_nothing_on_it_is_beaten(rows):
    front = pareto_front(rows)
    assert all(any(is_at_least_as_good(one, other) for one in front) for other in rows)
    for one in front:
        for other in front:
            if one is not other and is_at_least_as_good(other, one):
                assert is_at_least_as_good(one, other)  # equals


@given(candidates())
def test_best_keeps_the_limits_and_none_allowed_is_clearly_faster(rows):
    best = best_of(rows)
    allowed = [one for one in rows if not one.reason]
    assert (best is None) == (not allowed)
    if best is not None:
        assert best in allowed
        assert best.speedup >= 0.95 * max(one.speedup for one in allowed)


@pytest.mark.parametrize(
    ("original", "metric", "is_maximized", "drop"),
    [
        (0.8, 0.72, True, 0.1),
        (0.8, 0.88, True, -0.1),
        (2.0, 2.2, False, 0.1),
        (-0.5, -0.6, True, 0.2),  # a Sharpe ratio below zero
        (0.0, -0.3, True, 0.3),  # in its own unit
    ],
)
def test_drop_is_relative_to_the_size_of_the_metric(original, metric, is_maximized, drop):
    assert metric_drop(original, metric, is_maximized=is_maximized) == pytest.approx(drop)


def test_every_broken_limit_is_named_and_nan_breaks():
    limits = SearchLimits(max_metric_drop=0.01, target_size_mb=1.0, min_speedup=2.0)
    bad = Candidate(pruned=0, recipe="a", drop=0.05, size_mb=2.0, speedup=1.5)
    assert broken_limits(bad, limits) == [
        "loses 5.00% of the metric",
        "2 MB is over 1",
        "1.5 times as fast, not 2",
    ]
    nan = Candidate(pruned=0, recipe="a", drop=float("nan"), size_mb=0.5, speedup=3.0)
    assert len(broken_limits(nan, limits)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_metric_drop": -0.1}, "0.01 means 1 %"),
        ({"target_size_mb": 0}, "target_size_mb must be above 0"),
        ({"min_speedup": -1}, "min_speedup must be above 0"),
        ({"progress": "loud"}, "progress must be None"),
    ],
)
def test_wrong_options_are_named(compressor, accuracy, options, message):
    with pytest.raises(ConfigError, match=message):
        compressor.search(accuracy, **options)


# ── on a real model ─────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained():
    """A classifier far larger than its task, and data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(1200, 16)
        y = (x[:, :4] + 0.3 * torch.randn(1200, 4)).argmax(dim=1)
        model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        model.append(nn.Linear(256, 4))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x[:800]), y[:800])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval(), x, y


@pytest.fixture
def compressor(trained):
    model, x, _ = trained
    return ModelCompressor(model, validation_data=x[:256])


@pytest.fixture
def accuracy(trained):
    _, x, y = trained
    return lambda model: float((model(x[800:]).argmax(dim=1) == y[800:]).float().mean())


@pytest.fixture
def loader(trained):
    _, x, y = trained
    return DataLoader(TensorDataset(x[:800], y[:800]), batch_size=64, shuffle=True)


@pytest.mark.slow
def test_the_best_is_applied_and_every_candidate_was_measured(compressor, accuracy, loader):
    seen = []
    found = compressor.search(
        accuracy, max_metric_drop=0.05, train_loader=loader, amounts=(0.4,), progress=seen.append
    )
    json.dumps(found, allow_nan=False)
    assert [one["name"] for one in seen] == [one["name"] for one in found["candidates"]]
    assert {one["pruned"] for one in found["candidates"]} == {0.0, 0.4}
    assert found["is_complete"]
    best = next(one for one in found["candidates"] if one["name"] == found["best"])
    assert best["is_allowed"]
    assert best["name"] in found["front"] or best["speedup"] > 0
    assert accuracy(compressor.model) == pytest.approx(best["metric"])
    stats = compressor.get_compression_stats()
    assert stats["compressed_size_mb"] == pytest.approx(best["size_mb"])
    assert stats["steps"][-1] == {
        "step": "search",
        "best": found["best"],
        "n_candidates": len(found["candidates"]),
    }


@pytest.mark.slow
def test_a_target_size_leaves_out_what_is_over_it(compressor, accuracy, loader):
    target = 0.25 * compressor.original_size
    found = compressor.search(
        accuracy, max_metric_drop=0.1, target_size_mb=target, train_loader=loader, amounts=(0.4,)
    )
    assert isinstance(compressor.model, OnnxModule)
    assert compressor.get_compression_stats()["compressed_size_mb"] <= target
    left_out = [one for one in found["candidates"] if "MB is over" in one["reason"]]
    assert any(one["metric"] is None for one in left_out)  # never asked for its metric


def test_nothing_changes_when_nothing_keeps_the_limits(compressor, accuracy):
    before = compressor.model
    with pytest.raises(CompressionError, match=r"came closest \(.*but .* not 1e\+03.*Nothing was"):
        compressor.search(accuracy, min_speedup=1000.0)
    assert compressor.model is before
    assert compressor.get_compression_stats()["steps"] == []


@pytest.mark.slow
def test_pruning_that_loses_too_much_is_not_taken_further(compressor, accuracy):
    """One epoch over four samples mends nothing."""
    found = compressor.search(
        accuracy,
        max_metric_drop=0.001,
        train_loader=[torch.zeros(4, 16)],
        amounts=(0.5, 0.7, 0.9),
        epochs=1,
    )
    assert {one["pruned"] for one in found["candidates"]} == {0.0, 0.5}
    assert "loses" in found["candidates"][-1]["reason"]


@pytest.mark.slow
def test_models_whose_channels_cannot_go_are_only_quantized():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.LSTM(4, 64, batch_first=True), nn.Linear(64, 2)

        def forward(self, x):
            return self.out(self.body(x)[0][:, -1])

    x = torch.randn(64, 5, 4, generator=torch.Generator().manual_seed(0))
    compressor = ModelCompressor(Recurrent(), validation_data=x, example_input=x[:2])
    found = compressor.search(
        lambda model: float(model(x).std()), max_metric_drop=0.2, train_loader=[x], amounts=(0.3,)
    )
    left_out = [one for one in found["candidates"] if one["pruned"]]
    assert len(left_out) == 1
    assert "recurrent layers cannot be removed" in left_out[0]["reason"]


def test_no_time_measures_the_original_alone(compressor, accuracy):
    found = compressor.search(accuracy, time_budget_s=1e-9)
    assert [one["name"] for one in found["candidates"] if one["metric"] is not None] == ["float"]
    assert not found["is_complete"]
    assert found["best"] == "float"


def test_a_metric_that_is_no_number_is_refused(compressor):
    with pytest.raises(InputError, match="gives nan for the original"):
        compressor.search(lambda _: float("nan"))
    with pytest.raises(InputError, match="must give a number, it gave a str"):
        compressor.search(lambda _: "high")


@pytest.mark.slow
def test_a_candidate_whose_metric_is_nan_never_wins(compressor, accuracy):
    found = compressor.search(
        lambda model: float("nan") if isinstance(model, OnnxModule) else accuracy(model)
    )
    assert found["best"] == "float"


@pytest.mark.slow
def test_a_smaller_metric_can_be_better(compressor, trained):
    model, x, _ = trained
    with torch.no_grad():
        wanted = model(x)
    found = compressor.search(
        lambda m: 1.0 + float((m(x) - wanted).square().mean()), maximize=False
    )
    assert all(
        one["metric_drop"] >= 0 for one in found["candidates"] if one["metric_drop"] is not None
    )


@pytest.mark.slow
def test_the_original_stays_as_it_was(compressor, accuracy, loader, trained):
    before = [parameter.clone() for parameter in trained[0].parameters()]
    compressor.search(accuracy, train_loader=loader, amounts=(0.3,), epochs=1, max_metric_drop=0.5)
    after = compressor.original_model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# ── the page ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_report_tells_the_whole_story(compressor, accuracy, loader, trained, tmp_path):
    compressor.prune_model(0.3)
    compressor.knowledge_distillation(
        trained[0], compressor.model, loader, epochs=2, progress=False
    )
    compressor.dynamic_quantization()
    page = compressor.report(tmp_path / "reports" / "page.html")
    assert (tmp_path / "reports" / "page.html").read_text() == page
    for told in (
        "Compression of Sequential",
        "l1_unstructured: 30.0%",
        "dynamic_int8",
        "Training",
    ):
        assert told in page
    compressor.search(accuracy, max_metric_drop=0.1)
    assert "What smaller and faster costs" in compressor.report()


def test_the_report_warns_where_nothing_real_was_measured():
    page = ModelCompressor(nn.Linear(8, 8)).report()
    assert "validation_data" in page


# ── mistakes ────────────────────────────────────────────────────────────────────────────────


def test_arguments_are_checked_before_anything_is_tried(compressor, accuracy):
    with pytest.raises(ConfigError, match=r"0\.3 means 30 %"):
        compressor.search(accuracy, amounts=(30,))
    with pytest.raises(InputError, match="can be read only once"):
        compressor.search(accuracy, train_loader=(x for x in [torch.zeros(4, 16)]))
    with pytest.raises(ConfigError, match="time_budget_s must be 0 or more"):
        compressor.search(accuracy, time_budget_s=float("nan"))


def test_a_metric_that_fails_on_a_candidate_leaves_that_one_out(compressor, accuracy):
    def asks_for_parameters(model):
        assert next(model.parameters()) is not None
        return accuracy(model)

    found = compressor.search(asks_for_parameters)
    assert found["best"] == "float"
    reasons = [one["reason"] for one in found["candidates"][1:]]
    assert all("next(model.parameters()) finds nothing" in reason for reason in reasons)


@pytest.mark.slow
def test_training_is_cut_short_when_the_time_is_up(compressor, accuracy, loader):
    started = time.monotonic()
    found = compressor.search(
        accuracy, max_metric_drop=0.9, train_loader=loader, amounts=(0.3,), epochs=100_000,
        time_budget_s=5.0,
    )  # fmt: skip
    assert time.monotonic() - started < 60
    assert not found["is_complete"]
