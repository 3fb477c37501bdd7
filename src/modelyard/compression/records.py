"""The shapes of what the compressor tells. Sizes are in MB of 10^6 bytes of weights."""

from typing import Any, TypedDict


class PruningStats(TypedDict):
    """What a pruning step did.

    Attributes:
        method: Name of the method.
        actual_sparsity: Share of the targeted weights that are zero now; for `structured`, the
            share of parameters that were removed.
        model_sparsity: Share of all parameters of the model that are zero.
        pruned_params: Number of targeted weights that are zero (or were removed).
        targeted_params: Number of weights the step looked at.
        total_params: Parameters of the model before the step.
        per_layer: Share of zeros (or of removed parameters) by layer.
    """

    method: str
    actual_sparsity: float
    model_sparsity: float
    pruned_params: int
    targeted_params: int
    total_params: int
    per_layer: dict[str, float]


class LayerTold(TypedDict):
    """What became of a layer in a quantization.

    Attributes:
        layer: Name of the module.
        decision: "quantized"; "float"; or "weights only": computed in float from weights stored in
            8 bits.
        reason: Why it is float: "asked", "breaks the limit", "not of a kind the recipe acts on".
        error_alone: Relative error where this layer alone is quantized; None where the layers
            did not have to be ranked, as the whole was under the limit.
    """

    layer: str
    decision: str
    reason: str
    error_alone: float | None


class QuantizationStats(TypedDict):
    """What a quantization did.

    Attributes:
        recipe: "dynamic_int8", "static_int8" (with the calibration method behind it where that
            is not "minmax"), "weight_only_int8", "bf16_weights", "block_int8" or "block_int4".
        dtype: Of the weights.
        backend: As asked for; ONNX Runtime runs the result whichever it was.
        original_size_mb: Weights of the float model it started from, perhaps pruned.
        quantized_size_mb: The graph with its int8 weights.
        compression_ratio: The first over the second.
        speedup: Time of the float module over that of the quantized one, a batch of one, in
            turns on this machine.
        max_error: Largest relative error of an output: norm of the difference over that of the
            float output about its mean over the samples; where validated on synthetic inputs,
            over that of the output itself.
        error_to_original: The same against the model before any step, pruning included; None
            where it is infinite.
        error_limit: What `max_error` had to stay under.
        validated_on: "validation_data", "calibration_data", or "synthetic" where no data was
            given, or fewer than 8 samples, or all the same.
        n_samples: How many samples that were, at most 2,048 from all of the data.
        layers_kept_float: Layers computed in float, because asked or because they broke the limit.
        layers: Every layer that has weights.
        attempts: Every recipe tried: `recipe`, `error` (None where it failed), `outcome`.
        depends_on_batch: Whether an answer depends on the others computed with it, as under
            dynamic ranges.
        portable: Whether the graph uses standard ONNX operators alone.
    """

    recipe: str
    dtype: str
    backend: str
    original_size_mb: float
    quantized_size_mb: float
    compression_ratio: float
    speedup: float
    max_error: float
    error_to_original: float | None
    error_limit: float
    validated_on: str
    n_samples: int
    layers_kept_float: list[str]
    layers: list[LayerTold]
    attempts: list[dict[str, Any]]
    depends_on_batch: bool
    portable: bool


class DistillationEpoch(TypedDict):
    """One pass over the training data; None where there is no such figure or it is not finite.

    Attributes:
        epoch: From 1.
        loss: What was made small, as a mean over the samples of the epoch while it was trained.
        distillation_loss: The part of it that is the distance from the teacher's answers.
        task_loss: The part that is the distance from the targets.
        feature_loss: The part that is the distance from the teacher's features.
        validation_loss: The loss on the validation data after the epoch, features left out.
        validation_metric: What the metric function gave for it.
        learning_rate: Of the epoch's last step.
        is_best: Whether the weights were the best so far, those before the first epoch included;
            those of the last epoch that was are the model's at the end, or the ones it began
            with. None without validation: the last weights are kept.
    """

    epoch: int
    loss: float
    distillation_loss: float | None
    task_loss: float | None
    feature_loss: float | None
    validation_loss: float | None
    validation_metric: float | None
    learning_rate: float
    is_best: bool | None


class CandidateTold(TypedDict):
    """One way to compress that a search looked at; None where it was not measured.

    Attributes:
        name: In words, as "30 % pruned, dynamic_int8".
        pruned: Share of the parameters that were to be removed.
        recipe: Of quantization; "float" for none.
        metric: What `eval_fn` gave.
        metric_drop: Loss of it, as a share of the original's size (in its own unit where that is
            0); below 0 is a gain.
        size_mb: Of the weights.
        latency_ms: Of one sample.
        speedup: The original's time over this one's, in turns in one run.
        error: Relative error that quantizing added.
        is_allowed: Whether it keeps every limit.
        is_on_front: Whether no other is at least as good in drop, size and latency.
        reason: Why it is not allowed or was left out; empty otherwise.
    """

    name: str
    pruned: float
    recipe: str
    metric: float | None
    metric_drop: float | None
    size_mb: float | None
    latency_ms: float | None
    speedup: float | None
    error: float | None
    is_allowed: bool
    is_on_front: bool
    reason: str


class SearchResult(TypedDict):
    """What a search found.

    Attributes:
        best: Name of the candidate that was applied.
        original_metric: What `eval_fn` gave for the original.
        candidates: Every one looked at, in order.
        front: Names of those that no other beats in drop, size and latency.
        elapsed_s: How long it took.
        is_complete: Whether everything was looked at; False where the time was up.
    """

    best: str
    original_metric: float
    candidates: list[CandidateTold]
    front: list[str]
    elapsed_s: float
    is_complete: bool


class CompressionStats(TypedDict):
    """The whole way from the original to the present model.

    Attributes:
        original_size_mb: Weights of the original.
        compressed_size_mb: Weights of `compressor.model`.
        compression_ratio: The first over the second.
        original_params: Parameters of the original.
        compressed_params: Of the float model: fewer after structured pruning.
        sparsity: Share of zeros among the parameters of the float model.
        is_quantized: Whether `compressor.model` is a quantized graph.
        quantization: What that quantization did; None where there is none, or a search did it.
        steps: Every step taken, oldest first: its name under "step" and what it returned.
    """

    original_size_mb: float
    compressed_size_mb: float
    compression_ratio: float
    original_params: int
    compressed_params: int
    sparsity: float
    is_quantized: bool
    quantization: QuantizationStats | None
    steps: list[dict[str, Any]]


class Evaluation(TypedDict):
    """Original and compressed model measured side by side in one run.

    Attributes:
        lower_is_better: Whether less of the metric is better.
        original_metric, compressed_metric: What the metric function gave; None where that is NaN
            or infinite.
        metric_drop: By how much the compressed one is worse, in the metric's unit: the first minus
            the second, or for an error the second minus the first; below 0 it is better.
        relative_drop: The drop over the absolute original; None where that is 0.
        non_finite_metrics: Which of the two metrics were NaN or infinite.
        original_size_mb, compressed_size_mb: Weights.
        compression_ratio: The first over the second.
        original_latency_ms, compressed_latency_ms: Median of one call, timed in turns.
        speedup: The first over the second.
        batch_size: Samples a timed call computed.
    """

    lower_is_better: bool
    original_metric: float | None
    compressed_metric: float | None
    metric_drop: float | None
    relative_drop: float | None
    non_finite_metrics: list[str]
    original_size_mb: float
    compressed_size_mb: float
    compression_ratio: float
    original_latency_ms: float
    compressed_latency_ms: float
    speedup: float
    batch_size: int
