"""The loop under distillation and fine-tuning: chance, validation, interruptions, faults."""

import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from modelyard._core.errors import ConfigError, InputError, IntegrityError
from modelyard.compression.training import (
    DistillationPlan,
    TrainingPlan,
    distil_,
    fine_tune_,
    history_figure,
    history_table,
)
from modelyard.compression.training.validation import is_better


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = normal(48, 4)
Y = X[:, :1].sin() + 0.1 * normal(48, 1, seed=1)
DATA = TensorDataset(X, Y)


def student(*, seed=0, width=6):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 1)
        )


def shuffled(**options):
    return DataLoader(DATA, batch_size=16, shuffle=True, **options)


def plan(**options):
    return TrainingPlan(**{"epochs": 5, "learning_rate": 0.02, **options})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one | two)


def stop_after(epoch):
    def stop(record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


# ── chance ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"generator": lambda: torch.Generator().manual_seed(1)},
        {"sampler": lambda: RandomSampler(DATA, generator=torch.Generator().manual_seed(1))},
    ],
    ids=["global", "own", "sampler's"],
)
def test_same_seed_gives_the_same_weights_whatever_was_drawn_before(options):
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        model = student()
        made = {name: make() for name, make in options.items()}
        loader = DataLoader(DATA, batch_size=16, shuffle="sampler" not in made, **made)
        state = torch.get_rng_state()
        fine_tune_(model, loader, plan(seed=3))
        assert torch.equal(torch.get_rng_state(), state)
        runs.append(weights(model))
    assert is_same(*runs)
    other = student()
    fine_tune_(other, shuffled(), plan(seed=4))
    assert not is_same(runs[0], weights(other))


@pytest.mark.slow
def test_worker_processes_change_nothing_in_what_is_reproducible():
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)
        model = student()
        fine_tune_(model, shuffled(num_workers=2), plan(epochs=2))
        runs.append(weights(model))
    assert is_same(*runs)


def test_data_may_draw_from_python_and_numpy_too():
    def noisy():
        class Noisy:
            def __iter__(self):
                yield X + random.random() + float(np.random.rand()), Y  # noqa: NPY002, S311

        model = student()
        states = random.getstate(), np.random.get_state()  # noqa: NPY002
        fine_tune_(model, Noisy(), plan(epochs=2))
        assert random.getstate() == states[0]
        assert np.array_equal(np.random.get_state()[1], states[1][1])  # noqa: NPY002
        random.random()  # noqa: S311 - the next run starts elsewhere
        return weights(model)

    assert is_same(noisy(), noisy())


def test_every_epoch_has_its_own_order():
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    fine_tune_(Watching(4, 1), shuffled(), plan(epochs=2))
    assert not torch.equal(seen[0], seen[3])
    assert torch.equal(torch.cat(seen[:3]).sort(0)[0], torch.cat(seen[3:]).sort(0)[0])


# ── rate ────────────────────────────────────────────────────────────────────────────────────


def test_the_rate_warms_up_and_falls_as_a_cosine():
    told = plan(schedule="cosine", warmup_epochs=1, epochs=5, learning_rate=1.0)
    assert told.learning_rate_at(0.0, 0.25) == 0.25
    assert told.learning_rate_at(0.75, 1.0) == 1.0
    assert told.learning_rate_at(1.0, 1.25) == 1.0
    assert told.learning_rate_at(3.0, 3.25) == pytest.approx(0.5)
    assert told.learning_rate_at(4.75, 5.0) == pytest.approx(
        (1 + math.cos(math.pi * 3.75 / 4)) / 2
    )
    assert plan(learning_rate=1.0).learning_rate_at(4.0, 5.0) == 1.0


@pytest.mark.parametrize("is_length_known", [True, False])
def test_the_rate_is_that_of_the_plan(is_length_known):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(DATA)

    options = plan(schedule="cosine", epochs=4, warmup_epochs=1)
    loader = shuffled() if is_length_known else DataLoader(Stream(), batch_size=16)
    history = fine_tune_(student(), loader, options)
    rates = [record["learning_rate"] for record in history]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == options.learning_rate
    assert 0 < rates[-1] < rates[-2]


def test_weight_decay_pulls_on_matrices_and_not_on_biases():
    model = nn.Linear(4, 1)
    before = weights(model)

    def nothing(outputs, targets):
        return 0.0 * outputs.sum()

    fine_tune_(model, [(X, Y)], plan(epochs=1, weight_decay=0.5), loss_fn=nothing)
    torch.testing.assert_close(model.weight.data, before["weight"] * (1 - 0.02 * 0.5))
    assert torch.equal(model.bias.data, before["bias"])


def test_gradients_are_scaled_down_to_the_norm():
    def norm_of(max_grad_norm):
        model = nn.Linear(4, 1)
        options = plan(epochs=1, max_grad_norm=max_grad_norm)
        fine_tune_(model, [(100 * X, 100 * Y)], options)
        return float(torch.cat([p.grad.reshape(-1) for p in model.parameters()]).norm())

    assert norm_of(0.5) == pytest.approx(0.5, rel=1e-4)
    assert norm_of(math.inf) > 10


# ── validation ──────────────────────────────────────────────────────────────────────────────


class Scripted:
    """A metric that gives values in turn, and remembers the weights they were given for."""

    def __init__(self, *values):
        self.values = list(values)
        self.seen = []

    def __call__(self, model, loader):
        assert not model.training
        self.seen.append(weights(model))
        return self.values[len(self.seen) - 1]


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "best", "n_epochs"),
    [
        ([0.0, 0.1, 0.3, 0.2, 0.3, 0.0], {}, 2, 5),
        ([0.4, 0.1, 0.3, 0.2, 0.0, 0.3], {"maximize": False}, 4, 5),
        ([0.0, 0.1, 0.3, 0.2, 0.3, 9.0], {"patience": 2}, 2, 4),
        ([NAN, NAN, 0.3, NAN, NAN, 0.2], {}, 2, 5),
        ([NAN, NAN, NAN, NAN], {"patience": 3}, None, 3),
        ([NAN, math.inf, 0.1, 0.2], {"epochs": 3}, 3, 3),
        # The start, number 0, is the first best: of equals, too, and for patience.
        ([0.4, 0.1, 0.3, 0.4, 0.2, 0.3], {}, 0, 5),
        ([0.0, 0.1, 0.3, 0.2, 0.1, 0.3], {"maximize": False}, 0, 5),
        ([0.4, 0.1, 0.3, 9.0], {"patience": 2}, 0, 2),
        ([0.4, NAN, 0.5, 0.3, NAN, 9.0], {"patience": 2}, 2, 4),
    ],
)
def test_weights_of_the_best_epoch_or_of_the_start_are_kept(values, options, best, n_epochs):
    model, metric = student(), Scripted(*values)
    history = fine_tune_(
        model, shuffled(), plan(**options), validation_loader=[(X, Y)], metric_fn=metric
    )
    assert len(history) == n_epochs
    assert len(metric.seen) == n_epochs + 1
    kept = metric.seen[-1 if best is None else best]
    assert is_same(weights(model), kept)
    starred = [record["epoch"] for record in history if record["is_best"]]
    assert (starred[-1] if starred else None) == (best or None)
    assert not model.training
    json.dumps(history, allow_nan=False)


def test_validation_loss_is_a_mean_over_samples_in_eval_mode():
    model = student()
    loader = [(X[:32], Y[:32]), (X[32:], Y[32:])]
    history = fine_tune_(model, shuffled(), plan(epochs=1), validation_loader=loader)
    with torch.no_grad():
        want = nn.functional.mse_loss(model(X), Y)
    assert history[0]["validation_loss"] == pytest.approx(float(want), rel=1e-5)
    assert history[0]["is_best"] is True


def test_judging_changes_nothing_in_the_training():
    one, two = student(), student()
    fine_tune_(one, shuffled(), plan())
    metric = Scripted(0, 1, 2, 3, 4, 5)
    fine_tune_(two, shuffled(), plan(), validation_loader=shuffled(), metric_fn=metric)
    assert is_same(weights(one), weights(two))


def test_a_student_that_learns_nothing_keeps_the_weights_it_started_with(tmp_path):
    model, teacher = student(), student()
    before = weights(model)
    told = DistillationPlan(epochs=3, alpha=1.0, learning_rate=0.5, patience=2)
    history = distil_(model, teacher, [X], told, validation_loader=[X], checkpoint=tmp_path / "c")
    assert [record["is_best"] for record in history] == [False, False]
    assert is_same(weights(model), before)
    again = distil_(model, teacher, [X], told, validation_loader=[X], checkpoint=tmp_path / "c")
    assert again == history
    assert is_same(weights(model), before)
    assert "*" not in history_table(history)


def test_the_start_is_the_first_best_after_an_interruption_too(tmp_path):
    options = {"validation_loader": [(X, Y)], "checkpoint": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        fine_tune_(
            student(),
            shuffled(),
            plan(),
            **options,
            metric_fn=Scripted(0.9, 0.1),
            progress=stop_after(1),
        )
    model, metric = student(), Scripted(0.2, 0.3, 0.4, 0.5)  # judged no more before it goes on
    history = fine_tune_(model, shuffled(), plan(), **options, metric_fn=metric)
    assert [record["is_best"] for record in history] == [False] * 5
    assert is_same(weights(model), weights(student()))


def test_a_validation_loader_that_is_read_once_is_not_enough():
    with pytest.raises(InputError, match=r"validation_loader is a generator.*not 2 times"):
        fine_tune_(student(), shuffled(), plan(epochs=1), validation_loader=(b for b in [(X, Y)]))


def test_metric_of_outputs_and_targets():
    def error(outputs, targets):
        return float((outputs - targets).abs().max())

    model = student()
    history = fine_tune_(
        model,
        shuffled(),
        plan(epochs=2, maximize=False),
        validation_loader=[(X[:32], Y[:32]), (X[32:], Y[32:])],
        metric_fn=error,
    )
    best = min(record["validation_metric"] for record in history)
    assert float((model(X) - Y).detach().abs().max()) == pytest.approx(best, rel=1e-5)


def test_options_without_validation_data_are_refused():
    with pytest.raises(ConfigError, match="patience needs validation_loader"):
        fine_tune_(student(), shuffled(), plan(patience=1))
    with pytest.raises(ConfigError, match="metric_fn needs validation_loader"):
        fine_tune_(student(), shuffled(), plan(), metric_fn=Scripted(1.0))
    with pytest.raises(InputError, match="must return a number, got a str"):
        fine_tune_(
            student(),
            shuffled(),
            plan(),
            validation_loader=[(X, Y)],
            metric_fn=lambda model, loader: "good",
        )


@given(st.floats(), st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)))
def test_what_is_not_finite_is_never_better(new, best):
    for maximize in (True, False):
        found = is_better(new, best, maximize=maximize)
        if not math.isfinite(new):
            assert not found
        elif best is not None:
            assert found == (new > best if maximize else new < best)
            assert not (found and is_better(best, new, maximize=maximize))
        else:
            assert found


# ── interruption and checkpoint ─────────────────────────────────────────────────────────────


class Teaching:
    """The same training, as fine-tuning or as distillation with features."""

    def __init__(self, kind, *, new_loader=shuffled):
        self.kind = kind
        self.new_loader = new_loader

    def run(self, model, **options):
        judged = {"validation_loader": [(X, Y)]} if self.kind != "plain" else {}
        if self.kind == "distillation":
            told = DistillationPlan(
                epochs=5,
                learning_rate=0.02,
                features={"0": "0"},
                schedule="cosine",
                weight_decay=0.01,
            )
            teacher = student(seed=9, width=7)
            return distil_(model, teacher, self.new_loader(), told, **judged, **options)
        return fine_tune_(model, self.new_loader(), plan(), **judged, **options)


@pytest.mark.parametrize("is_same_object", [True, False], ids=["same object", "new object"])
@pytest.mark.parametrize("kind", ["plain", "fine-tuning", "distillation"])
@pytest.mark.parametrize(
    "new_loader",
    [shuffled, lambda: shuffled(generator=torch.Generator().manual_seed(5))],
    ids=["global", "own"],
)
def test_an_interrupted_training_ends_with_the_same_bits(
    tmp_path, kind, new_loader, is_same_object
):
    teaching, path = Teaching(kind, new_loader=new_loader), tmp_path / "deep" / "run.ckpt"
    whole = student()
    want = teaching.run(whole)
    interrupted = student()
    with pytest.raises(KeyboardInterrupt):
        teaching.run(interrupted, checkpoint=path, progress=stop_after(2))
    assert not interrupted.training
    resumed, told = (interrupted if is_same_object else student()), []
    state = torch.get_rng_state()
    history = teaching.run(resumed, checkpoint=path, progress=told.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert is_same(weights(whole), weights(resumed))
    assert history == want
    assert [record["epoch"] for record in told] == [3, 4, 5]
    # Finished: the same call again is over at once.
    again = resumed if is_same_object else student()
    assert teaching.run(again, checkpoint=path, progress=stop_after(1)) == want
    assert is_same(weights(whole), weights(again))
    assert not again.training
    assert [item.name for item in path.parent.iterdir()] == ["run.ckpt"]


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "run.ckpt"
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_training_loop as t
def kill(record):
    if record["epoch"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
t.Teaching("fine-tuning").run(t.student(), checkpoint={str(path)!r}, progress=kill)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    whole, resumed = student(), student()
    want = Teaching("fine-tuning").run(whole)
    assert Teaching("fine-tuning").run(resumed, checkpoint=path) == want
    assert is_same(weights(whole), weights(resumed))


def test_interrupted_within_an_epoch_it_goes_on_from_the_last_whole_one(tmp_path):
    class Breaking:
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            for batch in [(X[:24], Y[:24]), (X[24:], Y[24:])]:
                self.n -= 1
                if self.n == 0:
                    raise KeyboardInterrupt
                yield batch

    whole, resumed = student(), student()
    fine_tune_(whole, Breaking(-1), plan())
    with pytest.raises(KeyboardInterrupt):
        fine_tune_(resumed, Breaking(6), plan(), checkpoint=tmp_path / "c")
    fine_tune_(resumed, Breaking(-1), plan(), checkpoint=tmp_path / "c")
    assert is_same(weights(whole), weights(resumed))


def test_interrupted_while_it_is_written_it_goes_on(tmp_path, monkeypatch):
    from modelyard.compression.training import checkpoint

    write, n_written = checkpoint.write_bytes, []

    def interrupted(path, data):
        n_written.append(1)
        if len(n_written) == 3:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(checkpoint, "write_bytes", interrupted)
    whole, resumed = student(), student()
    fine_tune_(whole, shuffled(), plan())
    with pytest.raises(KeyboardInterrupt):
        fine_tune_(resumed, shuffled(), plan(), checkpoint=tmp_path / "c")
    fine_tune_(resumed, shuffled(), plan(), checkpoint=tmp_path / "c")
    assert is_same(weights(whole), weights(resumed))


def test_interrupted_twice_it_still_goes_on_from_where_it_started(tmp_path):
    teaching, path = Teaching("fine-tuning"), tmp_path / "c"
    whole, same, new = student(), student(), student()
    want = teaching.run(whole)
    for epoch in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            teaching.run(same, checkpoint=path, progress=stop_after(epoch))
    assert teaching.run(new, checkpoint=path) == want
    assert is_same(weights(whole), weights(new))


def test_options_of_other_number_and_mapping_types_are_read_back(tmp_path):
    told = DistillationPlan(
        epochs=2,
        alpha=np.float64(1.0),
        learning_rate=np.float64(0.01),
        weight_decay=np.float32(0.5),
        features=MappingProxyType({"0": "0"}),
    )
    runs = [
        distil_(student(), student(seed=1), [X], told, checkpoint=tmp_path / "c") for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_without_a_checkpoint_ctrl_c_leaves_the_best_weights():
    model, metric = student(), Scripted(0.0, 0.1, 0.9, 0.2)
    with pytest.raises(KeyboardInterrupt):
        fine_tune_(
            model,
            shuffled(),
            plan(),
            validation_loader=[(X, Y)],
            metric_fn=metric,
            progress=stop_after(3),
        )
    assert is_same(weights(model), metric.seen[2])
    assert not model.training
    one, two = student(), student()  # without validation: as trained so far
    with pytest.raises(KeyboardInterrupt):
        fine_tune_(one, shuffled(), plan(), progress=stop_after(3))
    fine_tune_(two, shuffled(), plan(epochs=3))
    assert is_same(weights(one), weights(two))


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run.ckpt"
    Teaching("distillation").run(student(), checkpoint=path)
    return path


def test_checkpoint_of_another_training_is_refused_by_what_differs(finished):
    told = {"epochs": 5, "learning_rate": 0.02, "features": {"0": "0"}}
    told |= {"schedule": "cosine", "weight_decay": 0.01}
    given = {"student": student(), "teacher": student(seed=9, width=7), "loader": shuffled()}

    def run(validation_loader=((X, Y),), loss_fn=None, **changes):
        made = given | {name: changes.pop(name) for name in set(changes) & set(given)}
        options = DistillationPlan(**told | changes)
        data = None if validation_loader is None else list(validation_loader)
        distil_(
            made["student"],
            made["teacher"],
            made["loader"],
            options,
            validation_loader=data,
            loss_fn=loss_fn,
            checkpoint=finished,
        )

    run()
    cases = [
        ({"epochs": 6}, "epochs is 5 there, 6 here"),
        ({"alpha": 0.6, "seed": 1}, r"seed is 0 there, 1 here; alpha is 0\.5 there, 0\.6 here"),
        ({"student": student(width=5)}, r"model\.0\.weight is .*\(6, 4\), trained' there"),
        ({"teacher": student(seed=8, width=7)}, "the teacher's weights differ"),
        ({"validation_loader": None}, "has_validation_loader is True there, False here"),
        ({"loss_fn": nn.functional.mse_loss}, "has_loss_fn is False there, True here"),
        (
            {"loader": shuffled(generator=torch.Generator())},
            "had 0 generators of its own, this one has 1",
        ),
        ({"loader": [(X, Y)]}, "had 3 batches, this one has 1"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            run(**changes)
    with pytest.raises(ConfigError, match="other weights than those it started from or left"):
        run(student=student(seed=7))
    frozen = student()
    frozen[0].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"model\.0\.weight .*trained"):
        run(student=frozen)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_damaged_checkpoint_is_refused_and_the_model_left_alone(finished, damage):
    data = bytearray(finished.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    damaged = {"cut": data[:-40], "flipped": data, "other": b"PK" + data, "empty": b""}[damage]
    finished.write_bytes(bytes(damaged))
    model = student()
    before = weights(model)
    with pytest.raises(IntegrityError, match=r"cannot be read.*Delete it"):
        Teaching("distillation").run(model, checkpoint=finished)
    assert is_same(before, weights(model))


def test_checkpoint_runs_no_code(tmp_path):
    import io

    from blake3 import blake3

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    buffer = io.BytesIO()
    torch.save({"identity": Evil()}, buffer)
    data = buffer.getvalue()
    path = tmp_path / "run.ckpt"
    path.write_bytes(b"modelyard training 1\n" + blake3(data).digest() + data)
    with pytest.raises(IntegrityError, match="cannot be read"):
        fine_tune_(student(), shuffled(), plan(), checkpoint=path)
    assert not (tmp_path / "evil").exists()


# ── deadline ────────────────────────────────────────────────────────────────────────────────


class Deadline:
    """Has come once it was asked so often; trainings here have 3 batches an epoch."""

    def __init__(self, n_asked):
        self.n_left = n_asked

    def __call__(self):
        self.n_left -= 1
        return self.n_left < 0


@pytest.mark.parametrize("is_judged", [True, False])
def test_training_stops_when_the_deadline_comes_and_keeps_whole_epochs(is_judged):
    judged = {"validation_loader": [(X, Y)]} if is_judged else {}
    n_whole = 2
    for n_more in (0, 2):  # between epochs, and within the third
        cut, want, told = student(), student(), []
        asked = 1 + 4 * n_whole + n_more  # before all, each epoch and its batches
        history = fine_tune_(
            cut, shuffled(), plan(), **judged, deadline=Deadline(asked), progress=told.append
        )
        assert len(history) == n_whole
        assert told == history
        assert history == fine_tune_(want, shuffled(), plan(epochs=n_whole), **judged)
        assert is_same(weights(cut), weights(want))
        assert not cut.training


def test_a_first_epoch_cut_short_counts_but_is_not_written(tmp_path):
    model, path = student(), tmp_path / "c"
    history = fine_tune_(
        model,
        shuffled(),
        plan(),
        deadline=Deadline(4),
        checkpoint=path,
        validation_loader=[(X, Y)],
    )
    assert [record["epoch"] for record in history] == [1]
    assert history[0]["validation_loss"] is not None
    assert model[1].num_batches_tracked == 2
    assert not path.exists()


@pytest.mark.parametrize("n_asked", [0, 1, 2])
def test_a_deadline_before_the_first_batch_changes_nothing(n_asked):
    model = student()
    assert fine_tune_(model, shuffled(), plan(), deadline=Deadline(n_asked)) == []
    assert is_same(weights(model), weights(student()))
    assert not model.training


def test_training_goes_on_after_a_deadline_to_the_same_bits(tmp_path):
    whole, resumed = student(), student()
    teaching = Teaching("distillation")
    want = teaching.run(whole)
    teaching.run(resumed, checkpoint=tmp_path / "c", deadline=Deadline(1 + 4 * 2 + 2))
    assert teaching.run(resumed, checkpoint=tmp_path / "c") == want
    assert is_same(weights(whole), weights(resumed))


# ── faults ──────────────────────────────────────────────────────────────────────────────────


def batches_with(n_good, bad, *, epoch):
    """Batches that are good until in one epoch, after `n_good`, a bad one comes."""

    class Data:
        n_passes = 0

        def __iter__(self):
            self.n_passes += 1
            yield from [(X, Y)] * n_good
            if self.n_passes == epoch:
                yield bad

    return Data()


@pytest.mark.parametrize("is_judged", [True, False])
def test_loss_that_is_not_finite_is_named_and_the_last_good_weights_are_back(is_judged):
    judged = {"validation_loader": [(X, Y)]} if is_judged else {}
    model, want = student(), student()
    bad = (torch.full_like(X, NAN), Y)
    with pytest.raises(InputError, match=r"loss is nan in epoch 3, batch 3.*learning_rate"):
        fine_tune_(model, batches_with(2, bad, epoch=3), plan(), **judged)
    fine_tune_(want, batches_with(2, bad, epoch=99), plan(epochs=2), **judged)
    assert is_same(weights(model), weights(want))
    assert not model.training


def test_gradient_that_is_not_finite_is_named():
    def loss_fn(outputs, targets):
        return (outputs * 0).abs().sqrt().sum()  # finite, with an infinite slope

    model = student()
    before = weights(model)
    with pytest.raises(InputError, match=r"gradient's norm is (nan|inf) in epoch 1, batch 1"):
        fine_tune_(model, [(X, Y)], plan(), loss_fn=loss_fn)
    assert is_same(weights(model), before)


def test_lazy_layers_are_named():
    lazy = nn.Sequential(nn.LazyLinear(3), nn.LazyLinear(1))
    with pytest.raises(ConfigError, match="run it once on an example"):
        fine_tune_(lazy, [(X, Y)], plan())
    with pytest.raises(ConfigError, match="run it once on an example"):
        distil_(lazy, student(), [X], DistillationPlan(epochs=1, alpha=1.0))


def test_loss_that_depends_on_nothing_is_named():
    with pytest.raises(InputError, match="depends on no trained parameter"):
        fine_tune_(student(), [(X, Y)], plan(), loss_fn=lambda outputs, targets: targets.sum())


class Once:
    """Can be read only once, though it is no generator."""

    def __init__(self, items):
        self.items = iter(items)

    def __iter__(self):
        return self.items


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (list, "train_loader yields no batch"),
        (
            lambda: (pair for pair in [(X, Y)]),
            "is a generator, which can be read only once, not 5",
        ),
        (lambda: Once([(X, Y)]), "no batch in epoch 2: it can be read only once"),
        (lambda: [X], "inputs without targets"),
        (lambda: [("text", Y)], "must be a tensor or array"),
        (lambda: [(X, "text")], "Targets must be a tensor or array"),
        (lambda: 7, "must yield batches, got a int"),
    ],
)
def test_data_that_cannot_be_used_is_refused(loader, message):
    with pytest.raises(InputError, match=message):
        fine_tune_(student(), loader(), plan())


def test_one_pass_is_enough_for_one_epoch_and_an_error_keeps_whole_epochs():
    want, model = student(), student()
    fine_tune_(want, (pair for pair in [(X, Y)]), plan(epochs=1))
    with pytest.raises(InputError, match="no batch in epoch 2"):
        fine_tune_(model, Once([(X, Y)]), plan())
    assert is_same(weights(want), weights(model))


def test_one_batch_need_not_be_wrapped():
    runs = []
    for loader in ((X, Y), [(X, Y)], [[X, Y]]):
        model = student()
        fine_tune_(model, loader, plan())
        runs.append(weights(model))
    assert is_same(runs[0], runs[1])
    assert is_same(runs[0], runs[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"epochs": 2.5}, "a whole number"),
        ({"task": "magic"}, "'magic' is not one of auto"),
        ({"schedule": "step"}, "'step' is not one of constant"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": NAN}, "learning_rate must be above 0"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"warmup_epochs": 5}, r"must be less than epochs \(5\)"),
        ({"max_grad_norm": 0}, "max_grad_norm must be above 0"),
        ({"patience": 0}, "patience must be 1 or more"),
        ({"amp": "fp16"}, "amp must be True, False or 'auto'"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        plan(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"alpha": NAN}, r"alpha must be in \[0, 1\]"),
        ({"feature_weight": 0}, "feature_weight must be above 0"),
        ({"features": ["0"]}, "features must map"),
    ],
)
def test_wrong_options_of_distillation_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        DistillationPlan(epochs=1, **options)


# ── what is shown ───────────────────────────────────────────────────────────────────────────


def test_progress_is_a_bar_only_in_a_terminal(capsys, monkeypatch):
    for progress in (None, False):
        fine_tune_(student(), shuffled(), plan(), progress=progress)
    found = capsys.readouterr()
    assert found.out + found.err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    fine_tune_(student(), shuffled(), plan(), validation_loader=[(X, Y)])
    found = capsys.readouterr()
    assert found.out == ""
    assert "epoch 5, loss" in found.err
    assert "validation" in found.err
    fine_tune_(student(), shuffled(), plan(), progress=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="progress must be None"):
        fine_tune_(student(), shuffled(), plan(), progress=True)


def test_history_as_a_table_and_as_a_figure():
    history = fine_tune_(student(), shuffled(), plan(epochs=12), validation_loader=[(X, Y)])
    lines = history_table(history).splitlines()
    assert len(lines) == 14
    assert len({len(line) for line in lines}) == 1
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads == ["epoch", "loss", "task loss", "validation loss", "learning rate", "best"]
    assert sum("*" in line for line in lines[2:]) == sum(r["is_best"] for r in history)
    figure = history_figure(history, title="Mended")
    assert len(figure["data"]) == 3
    json.dumps(figure, allow_nan=False)
    assert history_table([]).startswith("| epoch | best |")
