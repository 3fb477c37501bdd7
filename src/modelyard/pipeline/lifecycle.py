"""The stages in their order, for any model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from modelyard._core.clock import Clock, ManualClock, SystemClock
from modelyard.deployment import Deployment
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.monitor import ModelMonitor
from modelyard.pipeline.compress import Compressed, CompressionPlan, compress_source
from modelyard.pipeline.experiment import ExperimentOutcome, compare_paired
from modelyard.pipeline.progress import Progress
from modelyard.pipeline.rollout import FaultyModel, RolloutOutcome, roll_out
from modelyard.pipeline.serve import Served, export_and_optimize
from modelyard.pipeline.source import ModelSource, Stream
from modelyard.pipeline.watch import WatchOutcome, watch_stream
from modelyard.update_strategy import UpdateDecision, UpdateStrategy, UpdateTrigger
from modelyard.version_manager import ModelVersionManager

_CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True)
class LifecycleSettings:
    """What the stages are told.

    Attributes:
        compression: Of the compression.
        inference: Arguments of `InferenceOptimizer`.
        confidence_level, min_samples: Of the A/B test.
        window_size, alert_thresholds, log_dir: Of the monitor.
        update: Settings of `UpdateStrategy`.
        auto_cleanup, keep_best_n: Of the registry.
    """

    compression: CompressionPlan = field(default_factory=CompressionPlan)
    inference: Mapping[str, Any] = field(default_factory=dict)
    confidence_level: float = 0.95
    min_samples: int = 100
    window_size: int = 1000
    alert_thresholds: Mapping[str, float | None] | None = None
    log_dir: str | None = None
    update: Mapping[str, Any] = field(default_factory=dict)
    auto_cleanup: bool = False
    keep_best_n: int = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class LifecycleResult:
    """What came of every stage.

    Attributes:
        registry: The version manager.
        versions: Version ids by label, such as `policy original`.
        compressed: One entry a model.
        served: One entry an exported file.
        experiment: Original against compressed.
        watch: What the monitor saw.
        update: The decision that began the rollout, and when, or None if no window asked for one.
        rollouts: The staged rollout, and the one that was undone.
        history: The update strategy's own account.
    """

    registry: ModelVersionManager
    versions: Mapping[str, str]
    compressed: Sequence[Compressed]
    served: Sequence[Served]
    experiment: ExperimentOutcome
    watch: WatchOutcome
    update: tuple[str, UpdateDecision] | None
    rollouts: Sequence[RolloutOutcome]
    history: Sequence[Any]


def run_lifecycle(
    sources: Sequence[ModelSource],
    stream: Stream,
    settings: LifecycleSettings,
    base_dir: Path,
    progress: Progress,
    *,
    others: Mapping[str, tuple[nn.Module, Mapping[str, Any], Mapping[str, float]]] | None = None,
    onnx_dir: Path | None = None,
    clock: Clock | None = None,
) -> LifecycleResult:
    """Compress, save, export, serve, compare, watch and roll out.

    Args:
        sources: Models to compress; the first one is tested, watched and rolled out.
        stream: What the first model sees in production.
        settings: Of the stages.
        base_dir: Folder of the registry.
        progress: What a person sees.
        others: Further models to save only: name to (module, config, metrics).
        onnx_dir: Folder of the ONNX files; `onnx` in the registry's by default.
        clock: Where the time comes from; rollouts run on a sped-up clock that starts with it.
    """
    clock = clock or SystemClock()
    registry = ModelVersionManager(
        base_dir,
        auto_cleanup=settings.auto_cleanup,
        keep_best_n=settings.keep_best_n,
        clock=clock,
    )
    with progress.stage("Compress"):
        compressed = [compress_source(s, settings.compression, progress) for s in sources]
    with progress.stage("Save versions"):
        versions = _save(registry, compressed, others or {}, progress)
    with progress.stage("Export to ONNX and measure backends"):
        served = _serve(compressed, versions, onnx_dir or base_dir / "onnx", settings, progress)
    first = compressed[0]
    with progress.stage("A/B test: original against compressed, paired"):
        experiment = compare_paired(
            first.source,
            first.model,
            progress,
            test_name=f"{first.source.name}-{versions[f'{first.source.name} original']}",
            store=registry.store,
            clock=clock,
            confidence_level=settings.confidence_level,
            min_samples=settings.min_samples,
        )
    return _operate(
        registry, compressed, versions, served, experiment, stream, settings, progress, clock
    )


def _operate(
    registry: ModelVersionManager,
    compressed: Sequence[Compressed],
    versions: Mapping[str, str],
    served: Sequence[Served],
    experiment: ExperimentOutcome,
    stream: Stream,
    settings: LifecycleSettings,
    progress: Progress,
    clock: Clock,
) -> LifecycleResult:
    """Watch the first model, update it when the monitor says so, undo a bad update."""
    source = compressed[0].source
    original = versions[f"{source.name} original"]
    candidate = versions[f"{source.name} compressed"]
    fast = ManualClock(start=clock.now())
    monitor = ModelMonitor(
        source.name,
        window_size=settings.window_size,
        alert_thresholds=settings.alert_thresholds,
        log_dir=settings.log_dir,
        feature_names=stream.feature_names,
        store=registry.store,
        clock=fast,
    )
    deployment = Deployment(registry, source.name, clock=fast, seed=settings.compression.seed)
    strategy = UpdateStrategy(
        registry, monitor, settings.update, deployment=deployment, clock=fast
    )
    strategy.update_model(original)  # nothing is production yet: direct
    registry.set_alias(source.name, _CANDIDATE, candidate)
    decision: list[tuple[str, UpdateDecision]] = []
    # The cooldown after putting the first version into production is over when the stream begins.
    fast.advance(3600.0 * strategy.settings.cooldown_hours + 1.0)

    def ask(when: str) -> None:
        fast.advance(60.0)
        if not decision:
            found = strategy.should_update()
            if found["should_update"]:
                decision.append((when, found))

    with progress.stage("Watch production"):
        optimizer = InferenceOptimizer(source.model, device="cpu", cache_size=0)
        watch = watch_stream(stream, optimizer, monitor, progress, at_window_end=ask)
        registry.attach(original, "baseline", monitor.baseline_state())
    rollouts = []
    with progress.stage("Roll out, and roll back"):
        if decision:
            when, found = decision[0]
            progress.line(f"should_update said yes on {when}: {'; '.join(found['reasons'])}")
            trigger = UpdateTrigger(found["triggers"][0])
        else:
            progress.line("no window asked for an update; started by hand")
            trigger = UpdateTrigger.MANUAL
        best = registry.get_by_alias(source.name, _CANDIDATE)["version_id"]
        strategy.update_model(best, trigger=trigger)
        rollouts.append(
            roll_out(
                "the compressed version",
                strategy,
                deployment,
                stream.inputs,
                fast,
                progress,
                versions=[original, best],
            )
        )
        faulty = registry.save_model(
            FaultyModel(source.model),
            source.name,
            description="slow and failing on purpose",
            tags=["faulty"],
            parents=[(original, "retrained")],
            example_input=source.held_out_inputs[:1],
        )
        strategy.update_model(faulty)
        rollouts.append(
            roll_out(
                "a faulty version",
                strategy,
                deployment,
                stream.inputs,
                fast,
                progress,
                versions=[best, faulty],
            )
        )
    return LifecycleResult(
        registry=registry,
        versions={**versions, f"{source.name} faulty": faulty},
        compressed=compressed,
        served=served,
        experiment=experiment,
        watch=watch,
        update=decision[0] if decision else None,
        rollouts=rollouts,
        history=strategy.get_update_history(),
    )


def _save(
    registry: ModelVersionManager,
    compressed: Sequence[Compressed],
    others: Mapping[str, tuple[nn.Module, Mapping[str, Any], Mapping[str, float]]],
    progress: Progress,
) -> dict[str, str]:
    versions = {}
    for name, (model, config, metrics) in others.items():
        versions[name] = registry.save_model(model, name, metrics=metrics, config=config)
    for one in compressed:
        source = one.source
        original = registry.save_model(
            source.model,
            source.name,
            metrics=one.rows[0]["metrics"],
            config=source.config,
            description="as trained",
            tags=["original"],
            example_input=source.held_out_inputs[:2],
        )
        small = registry.save_model(
            one.model,
            source.name,
            metrics=one.metrics,
            config=source.config,
            description="pruned, distilled, int8" if not one.note else "pruned and distilled",
            tags=["compressed"],
            parents=[(original, one.kind)],
            example_input=source.held_out_inputs[:2],
        )
        registry.attach(small, "compression", one.compressor.get_compression_stats())
        versions[f"{source.name} original"] = original
        versions[f"{source.name} compressed"] = small
    progress.line(f"{len(versions)} versions in {registry.base_dir}")
    return versions


def _serve(
    compressed: Sequence[Compressed],
    versions: Mapping[str, str],
    folder: Path,
    settings: LifecycleSettings,
    progress: Progress,
) -> list[Served]:
    served = []
    for one in compressed:
        name = one.source.name
        served += export_and_optimize(
            one.source,
            {f"{name}_original": one.source.model, f"{name}_compressed": one.model},
            folder,
            progress,
            metadata={"version_id": versions[f"{name} original"]},
            options=settings.inference,
        )
    return served
