"""The lifecycle for a user's own model: a configuration, a model and a data file."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from modelyard._core.clock import SystemClock
from modelyard._core.config import ModelIntegrationConfig, load_config
from modelyard._core.errors import ConfigError, InputError
from modelyard._core.files import write_text
from modelyard.pipeline.compress import CompressionPlan
from modelyard.pipeline.lifecycle import LifecycleResult, LifecycleSettings, run_lifecycle
from modelyard.pipeline.loading import load_user_model
from modelyard.pipeline.progress import Progress, RichProgress
from modelyard.pipeline.report import headline, lifecycle_sections
from modelyard.pipeline.samples import UserData, load_user_data, out_of_order
from modelyard.pipeline.source import ModelSource, Stream
from modelyard.reporting import Report, Section, render
from modelyard.torchtools.inputs import call
from modelyard.torchtools.parity import flat_outputs
from modelyard.version_manager import ModelVersionManager

_TRAINING_PART = 0.7
_FEWEST_SAMPLES = 100
_FEWEST_IN_WINDOW = 200


@dataclass(frozen=True, eq=False)
class _Judge:
    """Scores a module on held-out samples: against targets, or against the original's answers."""

    inputs: Tensor
    targets: Tensor
    is_classification: bool
    has_targets: bool

    @property
    def metric(self) -> str:
        """What one sample's score is called."""
        if not self.has_targets:
            return "distance_to_original"
        return "is_correct" if self.is_classification else "squared_error"

    def unit_scores(self, model: nn.Module) -> NDArray[np.float64]:
        """One score a sample, shape (n,)."""
        output = flat_outputs(call(model, self.inputs))[0].double()
        if self.is_classification:
            found = output.argmax(dim=-1).reshape(self.targets.shape)
            shares: NDArray[np.float64] = (
                (found == self.targets).double().reshape(len(found), -1).mean(dim=1).numpy()
            )
            return shares
        gap = (output.reshape(len(output), -1) - self.targets.reshape(len(output), -1)) ** 2
        scores: NDArray[np.float64] = gap.mean(dim=1).numpy()
        return scores

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The mean score."""
        return {self.summary: float(self.unit_scores(model).mean())}

    @property
    def summary(self) -> str:
        """What the mean score is called."""
        names = {"is_correct": "accuracy", "squared_error": "mean_squared_error"}
        return names.get(self.metric, self.metric)


def run_from_files(
    config_path: Path,
    model: str | None,
    data: Path | None,
    out: Path,
    *,
    seed: int,
    console: Console,
    target: str | None = None,
    base_dir: Path | None = None,
) -> Path:
    """Take a user's model through compress, save, export, serve, test, watch and roll out.

    The first 70 % of the samples calibrate and are the monitor's baseline; the rest, in their
    order, are what production sees. Without targets, models are judged by their distance from the
    original. Production is played on a clock that is sped up, in a registry of its own: nothing
    that serves is touched.

    Args:
        config_path: The configuration file.
        model: `package.module:factory` or a file; None for the file's section `model`.
        data: Samples; None for the file's section `data`.
        out: Folder for report, ONNX files, logs and the registry of the run.
        seed: Of everything left to chance.
        console: Where progress is written.
        target: The column or array of the data that is to be predicted; None for the file's
            `data: target:`.
        base_dir: A registry that gets the original and the compressed version besides; its
            aliases, rollouts and monitors stay as they are.

    Returns:
        Path of the HTML report.

    Raises:
        ConfigError: A mistake in the file, or no model or data named.
        InputError: Data the model does not run on, or too few samples.
    """
    config = load_config(config_path)
    spec, path, target = _what(config, model, data, target)
    progress = RichProgress(console)
    kept_in = None if base_dir is None else ModelVersionManager(base_dir)
    with progress.stage("Load model and data"):
        module = load_user_model(spec)
        samples = load_user_data(path, target=target)
        source, stream = _prepared(module, samples, name=_name_of(spec))
        progress.line(f"{len(samples.inputs)} samples of shape {tuple(samples.inputs.shape[1:])}")
    clock = SystemClock()
    result = run_lifecycle(
        [source],
        stream,
        replace(
            settings_from(config, n_stream=len(stream.inputs), seed=seed),
            log_dir=str(out / "logs"),
        ),
        out / "registry",
        progress,
        onnx_dir=out / "onnx",
        clock=clock,
    )
    if kept_in is not None:
        _keep(result, source.name, kept_in, progress)
    report = Report(
        title=f"Lifecycle of {source.name}",
        subtitle=f"{spec} on {path.name}, configured by {config_path.name}",
        generated_at=clock.now(),
        sections=[
            Section("In short", "", [headline(result)]),
            *lifecycle_sections(result, stream),
        ],
    )
    written = out / "report.html"
    write_text(written, render(report))
    return written


def settings_from(
    config: ModelIntegrationConfig, *, n_stream: int, seed: int
) -> LifecycleSettings:
    """What a configuration file asks of the stages.

    A window larger than a fifth of the stream would close too seldom to show anything; it is
    made smaller, and the samples an update waits for with it.
    """
    window = min(config.monitoring.window_size, max(_FEWEST_IN_WINDOW, n_stream // 5))
    update = config.update_strategy.options()
    update["min_samples"] = min(update["min_samples"], window)
    monitoring, quantization = config.monitoring.options(), config.compression.quantization
    return LifecycleSettings(
        compression=CompressionPlan(
            amount=config.compression.pruning.amount,
            method=config.compression.pruning.method,
            dtype=getattr(torch, quantization.dtype),
            backend=quantization.backend,
            temperature=config.compression.distillation.temperature,
            epochs=config.compression.distillation.epochs,
            seed=seed,
        ),
        inference={**config.inference_optimization.options(), "seed": seed},
        confidence_level=config.ab_testing.confidence_level,
        min_samples=config.ab_testing.min_samples,
        window_size=window,
        alert_thresholds=monitoring["alert_thresholds"],
        log_dir=config.monitoring.log_dir,
        update=update,
        auto_cleanup=config.version_management.auto_cleanup,
        keep_best_n=config.version_management.keep_best_n,
    )


def _keep(
    result: LifecycleResult, name: str, registry: ModelVersionManager, progress: Progress
) -> None:
    """Take the original and the compressed version into another registry."""
    wanted = [result.versions[f"{name} {form}"] for form in ("original", "compressed")]
    with TemporaryDirectory() as folder:
        bundle = result.registry.export_bundle(wanted, Path(folder) / "versions.tar")
        kept = registry.import_bundle(bundle, rename=True)
    progress.line(f"{', '.join(kept.values())} saved in {registry.base_dir} too")


def _what(
    config: ModelIntegrationConfig, model: str | None, data: Path | None, target: str | None
) -> tuple[str, Path, str | None]:
    """Model, data file and target: from the command, else from the file."""
    section = config.model
    spec = model or (section and (section.factory or section.file))
    path = data or (Path(config.data.file) if config.data else None)
    if not spec or path is None:
        missing = " and ".join(
            name for name, value in (("--model", spec), ("--data", path)) if not value
        )
        raise ConfigError(
            f"{missing} missing: name them in the command or as sections `model:` and `data:` of "
            "the file. To see everything on real market data without either, run: modelyard demo"
        )
    return spec, path, target or (config.data.target if config.data else None)


def _name_of(spec: str) -> str:
    name = spec.rpartition(":")[2] if ":" in spec else Path(spec).stem
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip("._-") or "model"


def _prepared(model: nn.Module, data: UserData, *, name: str) -> tuple[ModelSource, Stream]:
    n = len(data.inputs)
    if n < _FEWEST_SAMPLES:
        raise InputError(f"The data file holds {n} samples; {_FEWEST_SAMPLES} are the least.")
    _check_order(data.times)
    cut = int(n * _TRAINING_PART)
    train, held_out = data.inputs[:cut], data.inputs[cut:]
    judge = _judge(model, held_out, None if data.targets is None else data.targets[cut:])
    source = ModelSource(
        name=name,
        model=model,
        config={},
        train_inputs=train,
        held_out_inputs=held_out,
        evaluate=judge.evaluate,
        primary_metric=judge.summary,
        is_lower_better=not judge.is_classification,
        unit_scores=judge.unit_scores,
        unit_metric=judge.metric,
    )
    stream = Stream(
        reference_inputs=train,
        reference_features=_columns(train),
        inputs=held_out,
        features=_columns(held_out),
        times=data.times[cut:] if data.times else [str(i) for i in range(cut, n)],
        feature_names=_column_names(train, data.names),
        reference_label=f"the first {cut} samples",
    )
    return source, stream


def _check_order(times: list[str] | None) -> None:
    try:
        position = out_of_order(times or [])
    except ValueError as error:
        raise InputError(
            f"The column of dates cannot be read: {error}. Write them in ISO 8601, as 2023-11-20."
        ) from error
    if times and position is not None:
        raise InputError(
            f"The samples must be in order of time: {times[position]} comes after "
            f"{times[position - 1]}. Sort the file by its dates."
        )


def _judge(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> _Judge:
    try:
        output = flat_outputs(call(model, inputs[:2]))[0]
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"{type(model).__name__} does not run on samples of shape "
            f"{tuple(inputs.shape[1:])}: {error}. If a column of the file is the target, name it "
            "with --target, or under data: target: in the configuration."
        ) from error
    if targets is None:
        answers = flat_outputs(call(model, inputs))[0].double()
        return _Judge(inputs, answers, is_classification=False, has_targets=False)
    n_answers, n_targets = output[0].numel(), targets[0].numel()
    n_classes = output.shape[-1] if output.ndim > 1 else 1
    is_classes = not targets.is_floating_point() and n_answers == n_targets * n_classes > n_targets
    if is_classes and not 0 <= int(targets.min()) <= int(targets.max()) < n_classes:
        raise InputError(
            f"The targets are whole numbers from {int(targets.min())} to {int(targets.max())}; of "
            f"{n_classes} classes, as the model tells apart, they go from 0 to {n_classes - 1}."
        )
    if not is_classes and n_answers != n_targets:
        raise InputError(
            f"The model gives {n_answers} numbers for a sample, and the targets have {n_targets}."
        )
    if not is_classes:
        targets = targets.float()
    return _Judge(inputs, targets, is_classification=is_classes, has_targets=True)


def _columns(inputs: Tensor) -> NDArray[np.float32]:
    """What is watched of the inputs: every number of a sample, or of a sequence's last step."""
    last = inputs if inputs.ndim <= 2 else inputs[:, -1]  # noqa: PLR2004 - (sample, column)
    columns: NDArray[np.float32] = last.reshape(len(inputs), -1).float().numpy()
    return columns


def _column_names(inputs: Tensor, names: list[str] | None) -> list[str]:
    n = _columns(inputs[:1]).shape[1]
    return names if names is not None and len(names) == n else [f"input_{i}" for i in range(n)]
