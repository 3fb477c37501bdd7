"""What compressing trained models costs and gives, and what the peers make of the same models.

Writes two tables between the markers in `docs/benchmarks.md`: each technique on models with a
real task, and modelyard's recipes beside torch's own quantization, torchao, NNCF, Intel Neural
Compressor and ONNX Runtime's defaults. One thread; all contenders of a model are timed in blocks
that take turns in one run, at a batch of one.

    python benchmarks/compression.py                        # both tables, all tasks
    python benchmarks/compression.py techniques digits_cnn  # one table, one task
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _compression_peers import (
    PACKAGES,
    PeerFailure,
    PeerResult,
    block_medians,
    peers_of,
    relative_error,
    silenced,
    version,
)
from _compression_tasks import TASKS, Task, tasks_named
from _tables import machine, table, write
from torch import nn

from modelyard._core.errors import ModelyardError
from modelyard.compression import ModelCompressor
from modelyard.torchtools.inputs import answer_of
from modelyard.torchtools.layers import size_mb

Made = nn.Module | str
"""A model, or why there is none."""

# Of each step: passes over the data, but no fewer than so many batches for a small model.
_EPOCHS = 8
_BATCHES_OF_SMALL = 400
_SMALL_MB = 1.0
_LEARNING_RATE = 1e-3
# Removed by structured pruning before int8; what is left is about an eighth of the size.
_COMBINED_AMOUNT = 0.5
_MAX_ERROR = 0.1
_SKIPPED = {"policy_sharpe": "the policy again, by a noisier metric"}

_TECHNIQUES = ["task", "technique", "#size", "#metric", "#drop", "#speed-up"]
_PEERS = ["task", "how", "#size", "#error", "#metric", "#speed-up"]


def main(arguments: list[str]) -> None:
    """Measure the tables and tasks named and write the page."""
    torch.set_num_threads(1)
    tables = {"techniques": (techniques, _TECHNIQUES), "peers": (peers, _PEERS)}
    wanted = [name for name in arguments if name in tables] or [*tables]
    names = [name for name in arguments if name not in tables]
    tasks = list(tasks_named(names or [name for name in TASKS if name not in _SKIPPED]))
    for name in wanted:
        measure, columns = tables[name]
        lines = []
        for task in tasks:
            own = list(measure(task))
            print(table(columns, own), flush=True)
            lines += own
        if not names:
            text = f"Measured on {_where(name)}, one thread.\n\n{table(columns, lines)}"
            write(f"compression_{name}", text)


def _where(name: str) -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES[1:])
    return f"{machine()}, {packages}" if name == "peers" else machine()


# ── techniques ──────────────────────────────────────────────────────────────────────────────────


def techniques(task: Task) -> Iterator[list[str]]:
    """A line a technique: size, metric, drop and speed-up against the trained model."""
    made: dict[str, Made] = {
        "original": task.model,
        "30 % of the channels' weights removed": _tried(pruned, task, 0.3),
        "int8": _tried(quantized, task, task.model),
        "distilled, half the size": _tried(distilled, task),
    }
    smaller = _tried(pruned, task, _COMBINED_AMOUNT)
    how = f"{_COMBINED_AMOUNT:.0%} removed"
    if isinstance(smaller, str):
        smaller, how = made["distilled, half the size"], "distilled"
    made[f"{how}, int8"] = (
        smaller if isinstance(smaller, str) else _tried(quantized, task, smaller)
    )
    models = {name: model for name, model in made.items() if isinstance(model, nn.Module)}
    runs = {name: _running(model) for name, model in models.items()}
    one = task.example[:1]
    seconds = block_medians({name: (lambda run=run: run(one)) for name, run in runs.items()})
    metrics = {name: task.metric_fn(run, task.test_loader) for name, run in runs.items()}
    sign = 1 if task.larger_is_better else -1
    first = metrics["original"]
    for name, model in made.items():
        if isinstance(model, str):
            yield [task.name, name, "-", "-", "-", model]
            continue
        drop = sign * (first - metrics[name]) / abs(first)
        yield [
            task.name,
            name,
            f"{size_mb(model) / size_mb(task.model):.1%}",
            f"{metrics[name]:.4f}",
            f"{drop:+.2%}",
            f"{seconds['original'] / seconds[name]:.1f} x",
        ]


def pruned(task: Task, amount: float) -> nn.Module:
    """Channels removed, and the original's answers learnt back."""
    compressor = _compressor(task, task.model)
    compressor.prune_gradually(
        amount,
        task.train_loader,
        steps=2,
        method="structured",
        epochs_per_step=_epochs(task),
        task=task.distillation_task,
        alpha=1.0,
        learning_rate=_LEARNING_RATE,
        schedule="cosine",
        validation_loader=task.validation_loader,
        progress=False,
    )
    return compressor.model


def distilled(task: Task) -> nn.Module:
    """A student of half the size, from random weights."""
    return _compressor(task, task.model).knowledge_distillation(
        task.model,
        task.make_student(),
        task.train_loader,
        alpha=1.0,
        epochs=4 * _epochs(task),
        task=task.distillation_task,
        learning_rate=2 * _LEARNING_RATE,
        schedule="cosine",
        validation_loader=task.validation_loader,
        progress=False,
    )


def _epochs(task: Task) -> int:
    if size_mb(task.model) > _SMALL_MB:
        return _EPOCHS
    return max(_EPOCHS, _BATCHES_OF_SMALL // len(task.train_loader))


def quantized(task: Task, model: nn.Module) -> nn.Module:
    """int8 as `dynamic_quantization` chooses it, under the limit on calibration data."""
    compressor = _compressor(task, model)
    compressor.dynamic_quantization(max_error=_MAX_ERROR)
    return compressor.model


def _compressor(task: Task, model: nn.Module) -> ModelCompressor:
    return ModelCompressor(
        model, example_input=task.example, validation_data=task.calibration, seed=0
    )


def _tried(make: Callable[..., nn.Module], *arguments: Any) -> Made:
    try:
        return make(*arguments)
    except ModelyardError as error:
        return str(error).split(".", 1)[0]


def _running(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: answer_of(model, x)


# ── peers ───────────────────────────────────────────────────────────────────────────────────────


def peers(task: Task) -> Iterator[list[str]]:
    """A line a contender: size, error, metric and speed-up against eager."""
    eager = PeerResult(
        name="eager", run=_running(task.model), size_mb=size_mb(task.model), build_s=0.0
    )
    contenders = [eager, *ours(task), *peers_of(task.model, task.calibration)]
    made = [one for one in contenders if isinstance(one, PeerResult)]
    inputs = torch.cat([batch[0] for batch in task.test_loader])
    one = inputs[:1]
    runs = {peer.name: peer.run for peer in made}
    with silenced():
        seconds = block_medians({name: (lambda run=run: run(one)) for name, run in runs.items()})
        for peer in made:
            error = relative_error(peer.run, task.model, inputs, batch_size=64)
            yield [
                task.name,
                peer.name,
                f"{peer.size_mb / size_mb(task.model):.1%}",
                f"{error:.4f}",
                f"{task.metric_fn(peer.run, task.test_loader):.4f}",
                f"{seconds['eager'] / seconds[peer.name]:.1f} x",
            ]
    for failed in contenders:
        if isinstance(failed, PeerFailure):
            yield [task.name, failed.name, "-", "-", "-", f"fails: {failed.reason[:80]}"]


def ours(task: Task) -> Iterator[PeerResult | PeerFailure]:
    """The recipes of this project on the trained model."""
    for name, call in {
        "modelyard int8": lambda c: c.dynamic_quantization(),
        "modelyard static int8": lambda c: (
            c.quantize_model(),
            c.calibrate_quantization(task.calibration),
        ),
        "modelyard weights int8": lambda c: c.weight_only_quantization(),
        "modelyard blocks int8": lambda c: c.weight_only_quantization("int8_blocks"),
        "modelyard blocks int4": lambda c: c.weight_only_quantization("int4", max_error=0.3),
    }.items():
        compressor = _compressor(task, task.model)
        try:
            call(compressor)
        except ModelyardError as error:
            yield PeerFailure(name=name, reason=str(error).split(".", 1)[0])
            continue
        model = compressor.model
        yield PeerResult(name=name, run=_running(model), size_mb=size_mb(model), build_s=0.0)


if __name__ == "__main__":
    main(sys.argv[1:])
