"""The sections of a report that every lifecycle has."""

from collections.abc import Sequence

from modelyard.pipeline.compress import Compressed
from modelyard.pipeline.experiment import ExperimentOutcome
from modelyard.pipeline.lifecycle import LifecycleResult
from modelyard.pipeline.rollout import RolloutOutcome
from modelyard.pipeline.serve import Served
from modelyard.pipeline.source import Stream
from modelyard.pipeline.watch import WatchOutcome
from modelyard.reporting import (
    Block,
    Chart,
    KeyFigures,
    Note,
    Section,
    Table,
    backend_latencies,
    compression_overview,
    drift_over_time,
    interval_over_time,
    traffic_shares,
)


def lifecycle_sections(result: LifecycleResult, stream: Stream) -> list[Section]:
    """Every stage as a section, in the order in which they ran."""
    return [
        compression_section(result.compressed),
        serving_section(result.served),
        experiment_section(result.experiment),
        watch_section(result.watch, stream),
        rollout_section(result),
        registry_section(result),
    ]


def headline(result: LifecycleResult) -> KeyFigures:
    """The few numbers a reader must see first."""
    figures = []
    for one in result.compressed:
        before, after = one.rows[0], one.rows[-1]
        figures.append(
            (
                f"{one.source.name}: size",
                f"{after['size_mb'] / before['size_mb'] - 1.0:+.0%}",
                f"{before['size_mb']:.2f} → {after['size_mb']:.2f} MB",
            )
        )
        figures.append(
            (
                f"{one.source.name}: speed",
                f"{before['latency_ms'] / after['latency_ms']:.1f} x",
                "one sample, against eager in the same run",
            )
        )
    promoted = sum(rollout.status == "promoted" for rollout in result.rollouts)
    undone = sum(rollout.status == "rolled_back" for rollout in result.rollouts)
    figures.append(("rollouts", f"{promoted} promoted, {undone} undone", "on a sped-up clock"))
    return KeyFigures(figures)


def compression_section(compressed: Sequence[Compressed]) -> Section:
    """What each step of the compression cost and gave."""
    rows = [row for one in compressed for row in one.rows]
    blocks: list[Block] = [Chart(compression_overview(rows), "Lower is better in every panel.")]
    for one in compressed:
        metrics = list(one.rows[0]["metrics"])
        first = one.rows[0]
        blocks.append(
            Table(
                ["step", "size (MB)", "latency (ms)", "speed-up", "relative error", *metrics],
                [
                    [
                        row["step"],
                        row["size_mb"],
                        row["latency_ms"],
                        first["latency_ms"] / row["latency_ms"],
                        row["error"],
                        *(row["metrics"][name] for name in metrics),
                    ]
                    for row in one.rows
                ],
                caption=f"`{one.source.name}`: one sample at a time, all steps timed in turns; "
                "error of the outputs on held-out inputs; metrics on held-out data.",
                highlight=[len(one.rows) - 1],
                formats={
                    "size (MB)": ".3f",
                    "latency (ms)": ".4f",
                    "speed-up": ".2f",
                    "relative error": ".4f",
                    **dict.fromkeys(metrics, ".3f"),
                },
            )
        )
        if one.note:
            blocks.append(Note("warning", f"`{one.source.name}` stayed in float: {one.note}"))
    text = (
        "Weights are pruned, the pruned model learns the original's answers back, and the result "
        "becomes an int8 ONNX graph. Zeroed weights alone change neither size nor speed; "
        "int8 does. A step whose error is over the limit is refused."
    )
    return Section("Compression", text, blocks)


def serving_section(served: Sequence[Served]) -> Section:
    """Exported files and what each backend gave."""
    files = Table(
        ["file", "size (MB)", "opset", "operators", "largest difference", "chosen (batch 1)"],
        [
            [
                f"{one.label}.onnx",
                one.info["file_size_mb"],
                one.info["opset_version"],
                one.info["node_count"],
                one.comparison["max_abs_diff"],
                one.optimization["backend"],
            ]
            for one in served
        ],
        caption="Each file was run beside its module at several batch sizes before it appeared.",
        formats={"size (MB)": ".3f", "largest difference": ".1e"},
    )
    rows = [row for one in served for row in one.backend_rows()]
    chart = Chart(
        backend_latencies(rows),
        "Time of one call. An int8 graph runs in ONNX Runtime as it is, so it has one backend.",
    )
    return Section(
        "Export and inference",
        "A backend is used only if its answers equal eager's within the tolerance, and only where "
        "it was measured to be faster.",
        [files, chart],
    )


def experiment_section(outcome: ExperimentOutcome) -> Section:
    """The verdict on original against compressed."""
    statistics, result = outcome.comparison["statistics"], outcome.comparison["result"]
    chart = interval_over_time(
        [n / 2 for n in outcome.history["n"]],  # counts both sides of a pair
        outcome.history["difference"],
        outcome.history["lower"],
        outcome.history["upper"],
        f"difference in {outcome.metric}",
        x_title=f"{outcome.unit}s",
    )
    table = Table(
        ["figure", "value"],
        [
            [f"mean, {outcome.names[0]}", statistics["mean_a"]],
            [f"mean, {outcome.names[1]}", statistics["mean_b"]],
            ["p-value that may be looked at any time", statistics["p_value_always_valid"]],
            ["p-value of one t-test", statistics["p_value"]],
            ["Cohen's d", statistics["cohens_d"]],
            ["smallest difference this test can see", statistics["minimum_detectable_effect"]],
        ],
        caption=f"{statistics['n_a']} paired {outcome.unit}s. Winner: {outcome.winner or 'none'}.",
    )
    caption = (
        "Both models on the same units. The interval holds at every look at once; while zero is "
        "in it, there is no winner."
    )
    return Section("A/B test", result["recommendation"], [Chart(chart, caption), table])


def watch_section(outcome: WatchOutcome, stream: Stream) -> Section:
    """Drift over time."""
    chart = drift_over_time(
        outcome.times,
        {"features": outcome.feature_scores, "predictions": outcome.prediction_scores},
        outcome.threshold,
        stream.shaded,
    )
    calibrated = (
        "calibrated on windows of that period" if outcome.is_calibrated else "uncalibrated"
    )
    caption = (
        f"Largest distance of a column from {stream.reference_label}, a point a window. The "
        f"threshold of the features is {calibrated}; predictions have one of their own."
    )
    text = (
        f"First alarm: {outcome.first_alarm or 'none'}. At the worst window these had moved most: "
        f"{', '.join(outcome.top_features) or 'none'}."
    )
    blocks: list[Block] = [Chart(chart, caption)]
    if outcome.alerts:
        columns = ["name", "severity", "count", "message"]
        rows = [[alert[column] for column in columns] for alert in outcome.alerts]
        blocks.append(Table(columns, rows, caption="Alerts, each once however often it was seen."))
    return Section("Monitoring", text, blocks)


def rollout_section(result: LifecycleResult) -> Section:
    """Both rollouts."""
    if result.update is None:
        text = "No window asked for an update, so the rollout was started by hand."
    else:
        when, decision = result.update
        text = f"`should_update` said yes on {when}: {'; '.join(decision['reasons'])}."
    blocks = [block for rollout in result.rollouts for block in _rollout_blocks(rollout)]
    return Section("Rollouts", text, blocks)


def registry_section(result: LifecycleResult) -> Section:
    """What is in the registry now."""
    versions = result.registry.list_versions()
    rows = [
        [
            version["version_id"],
            ", ".join(version["tags"]),
            version["size_bytes"] / 1e6,
            ", ".join(version["aliases"]),
            ", ".join(version["parents"]),
        ]
        for version in versions
    ]
    table = Table(
        ["version", "tags", "size (MB)", "aliases", "made from"],
        rows,
        caption=f"`modelyard versions list --base-dir {result.registry.base_dir}` shows the same.",
        formats={"size (MB)": ".3f"},
    )
    return Section("Registry", "Every model of this run, with what it was made from.", [table])


def _rollout_blocks(outcome: RolloutOutcome) -> list[Block]:
    chart = traffic_shares(
        outcome.times_min,
        outcome.shares,
        outcome.events,
        title=f"Traffic: {outcome.title}",
    )
    caption = (
        f"{outcome.status.replace('_', ' ')} after {outcome.duration_min:.1f} minutes and "
        f"{outcome.n_requests} requests: {outcome.reason}. {outcome.n_rescued} requests were "
        f"answered by the stable version because the candidate failed, {outcome.n_failed} by "
        "nobody."
    )
    return [Chart(chart, caption)]
