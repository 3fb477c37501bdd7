"""The stages in their order, for any model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
from modelyard.storage import Store
from modelyard.update_strategy import (
    UpdateDecision,
    UpdateStrategy,
    UpdateTrigger,
    rollout_history,
)
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
        base_dir: Folder of the registry; not one that something serves from: rollouts on the
            sped-up clock move its production, and a faulty version is saved in it.
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
    original = versions[f"{first.source.name} original"]
    operation = _in_production(registry, first.source, versions, stream, settings, progress, clock)
    try:
        with progress.stage("Watch production"):
            watch, update = operation.watch(original)
        with progress.stage("Roll out, and roll back"):
            promoted = operation.update(update, original)
            faulty, undone = operation.update_with_faulty(original)
    finally:
        operation.end()
    return LifecycleResult(
        registry=registry,
        versions={**versions, f"{first.source.name} faulty": faulty},
        compressed=compressed,
        served=served,
        experiment=experiment,
        watch=watch,
        update=update,
        rollouts=[promoted, undone],
        history=operation.strategy.get_update_history(),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Operation:
    """The first model in production: what serves it, watches it and updates it."""

    source: ModelSource
    stream: Stream
    registry: ModelVersionManager
    monitor: ModelMonitor
    deployment: Deployment
    strategy: UpdateStrategy
    clock: ManualClock
    progress: Progress

    def watch(self, original: str) -> tuple[WatchOutcome, tuple[str, UpdateDecision] | None]:
        """Send the stream past the monitor; also the first decision to update, and when."""
        decisions: list[tuple[str, UpdateDecision]] = []

        def ask(when: str) -> None:
            self.clock.advance(60.0)
            if not decisions:
                found = self.strategy.should_update()
                if found["should_update"]:
                    decisions.append((when, found))

        optimizer = InferenceOptimizer(self.source.model, device="cpu", cache_size=0)
        outcome = watch_stream(
            self.stream, optimizer, self.monitor, self.progress, at_window_end=ask
        )
        self.registry.attach(original, "baseline", self.monitor.baseline_state())
        return outcome, decisions[0] if decisions else None

    def update(self, update: tuple[str, UpdateDecision] | None, original: str) -> RolloutOutcome:
        """Roll out the candidate, for the reason that was given or by hand."""
        trigger = UpdateTrigger.MANUAL
        if update is None:
            self.progress.line("no window asked for an update; started by hand")
        else:
            when, found = update
            self.progress.line(f"should_update said yes on {when}: {'; '.join(found['reasons'])}")
            trigger = UpdateTrigger(found["triggers"][0])
        best = self.registry.get_by_alias(self.source.name, _CANDIDATE)["version_id"]
        self.strategy.update_model(best, trigger=trigger)
        return self._rolled_out("the compressed version", [original, best])

    def update_with_faulty(self, original: str) -> tuple[str, RolloutOutcome]:
        """Begin to roll out a version that is slow and fails; its id, and how that ended."""
        production = self.registry.get_by_alias(self.source.name)["version_id"]
        faulty = self.registry.save_model(
            FaultyModel(self.source.model),
            self.source.name,
            description="slow and failing on purpose",
            tags=["faulty"],
            parents=[(original, "retrained")],
            example_input=self.source.held_out_inputs[:1],
        )
        # One that has been paused, or that no request brought to its end, is in nobody's way.
        self.strategy.update_model(faulty, supersede=True)
        return faulty, self._rolled_out("a faulty version", [production, faulty])

    def end(self) -> None:
        """Leave nothing behind that stops the next run, after Ctrl-C either."""
        self.strategy.abort(reason="the run has ended")
        self.strategy.close()

    def _rolled_out(self, title: str, versions: Sequence[str]) -> RolloutOutcome:
        return roll_out(
            title,
            self.strategy,
            self.deployment,
            self.stream.inputs,
            self.clock,
            self.progress,
            versions=versions,
        )


def _in_production(
    registry: ModelVersionManager,
    source: ModelSource,
    versions: Mapping[str, str],
    stream: Stream,
    settings: LifecycleSettings,
    progress: Progress,
    clock: Clock,
) -> _Operation:
    """Put the original into production, with the compressed version as the candidate."""
    fast = ManualClock(start=_begin_at(registry.store, source.name, clock.now()))
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
    # An earlier run may have left a production, and one that was killed a rollout.
    strategy.update_model(
        versions[f"{source.name} original"], smooth_transition=False, supersede=True
    )
    strategy.promote(
        reason="the stream begins"
    )  # after an earlier run's it would be watched first
    registry.set_alias(source.name, _CANDIDATE, versions[f"{source.name} compressed"])
    # The cooldown after putting the first version into production is over when the stream begins.
    fast.advance(3600.0 * strategy.settings.cooldown_hours + 1.0)
    return _Operation(
        source=source,
        stream=stream,
        registry=registry,
        monitor=monitor,
        deployment=deployment,
        strategy=strategy,
        clock=fast,
        progress=progress,
    )


def _begin_at(store: Store, model_name: str, now: datetime) -> datetime:
    """When the sped-up clock begins: not before an earlier run's has come to its end."""
    last = [
        datetime.fromisoformat(event["at"])
        for record in rollout_history(store, model_name, 1)
        for event in record["events"]
    ]
    return max([now, *last])


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
