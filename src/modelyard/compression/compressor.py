"""`ModelCompressor`: prune, quantize and distil a model, the original always at hand."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, NotReadyError
from modelyard.compression import pruning, quantization, structured
from modelyard.compression.distillation import DistillationPlan, Progress, distil_
from modelyard.compression.evaluation import evaluated
from modelyard.compression.records import (
    CompressionStats,
    DistillationEpoch,
    Evaluation,
    PruningStats,
    QuantizationStats,
)
from modelyard.torchtools.inputs import Inputs, resolve_example, tensors_of
from modelyard.torchtools.layers import n_parameters, size_mb, state_hash, unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.originals import note_original
from modelyard.torchtools.quantization import DEFAULT_MAX_ERROR, Source
from modelyard.torchtools.samples import batches_of, synthetic_batches


class ModelCompressor:
    """Makes a smaller copy of a model, step by step.

    The model given is never changed. Quantizing always starts from the float (perhaps pruned)
    model, so steps may come in any order and again. Not thread-safe.

    Args:
        model: The trained module.
        example_input: Tensor, or tuple or dict of tensors, batch first. Needed where none can be
            inferred from the layers.
        validation_data: What errors are measured on: a tensor of samples, or an iterable of
            batches. Without it, seeded normal inputs stand in and results say "synthetic".
        store: Taken as every class with state takes it; a compressed model is stored by saving it.
        clock: Taken likewise; nothing here depends on the time.
        seed: Of random pruning, synthetic inputs and distillation.

    Attributes:
        original_model: The module given, untouched.
        original_size: Its weights in MB (10^6 bytes).
        model: The compressed one so far.
        distillation_history: One entry an epoch of the last distillation.

    Raises:
        ConfigError: `model` is no module.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        example_input: Any = None,
        validation_data: Any = None,
        store: Any = None,  # noqa: ARG002 - see the docstring
        clock: Any = None,  # noqa: ARG002 - see the docstring
        seed: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}.")
        self.original_model = model
        self.original_size = size_mb(model)
        self.distillation_history: list[DistillationEpoch] = []
        self._example = example_input
        self._validation_data = validation_data
        self._seed = seed or 0
        self._float_model = copy.deepcopy(unwrapped(model)).eval()
        self._quantized: OnnxModule | None = None
        self._masks: dict[str, pruning.Mask] = {}
        self._static_plan: quantization.QuantizationPlan | None = None
        self._converted: tuple[str, Source] | None = None
        self._steps: list[dict[str, Any]] = []

    @property
    def model(self) -> nn.Module:
        """The compressed model: the int8 graph if there is one, else the float module."""
        return self._quantized if self._quantized is not None else self._float_model

    # ── pruning ─────────────────────────────────────────────────────────────────────────────

    def prune_model(
        self,
        amount: float = 0.3,
        method: str = "l1_unstructured",
        layers_to_prune: Sequence[Any] | None = None,
        *,
        scope: str = "layer",
        layers_to_keep: Sequence[Any] | None = None,
    ) -> PruningStats:
        """Take weights away. Drops an earlier quantized result.

        Args:
            amount: Share of the targeted weights that are zero afterwards; for `structured` the
                share of the model's parameters removed.
            method: `l1_unstructured`, `random_unstructured`, `ln_structured` (weights become
                zero, sizes stay) or `structured` (channels are removed, size and time shrink;
                fine-tune or distil afterwards).
            layers_to_prune: Names, patterns such as `encoder.*`, or modules; None for every
                Linear, Conv and attention projection.
            scope: "layer" takes the share in each layer, "global" over all together.
            layers_to_keep: For `structured`: layers that keep their width, besides the last.

        Raises:
            ConfigError: A value out of range, an unknown method or layer.
            ExampleInputRequiredError: `structured` needs an input and none can be inferred.
            InputError: `structured`: the model does not run with fewer channels.
        """
        wanted = pruning.layer_names(self.original_model, layers_to_prune)
        if method == "structured":
            kept = pruning.layer_names(self.original_model, layers_to_keep)
            self._float_model, stats = structured.pruned(
                self._float_model, self._inputs(), amount=amount, wanted=wanted, keep=kept or []
            )
            self._masks = {}
        else:
            masks, stats = pruning.prune_(
                self._float_model,
                wanted,
                method=method,
                amount=amount,
                scope=scope,
                seed=self._seed,
            )
            self._masks |= masks
        self._quantized = None
        self._note("prune", stats)
        return stats

    def make_pruning_permanent(self) -> None:
        """Fold the masks in: the zeros stay, later training may change them."""
        self._masks = {}
        self._note("make_pruning_permanent", {})

    # ── quantization ────────────────────────────────────────────────────────────────────────

    def dynamic_quantization(
        self,
        dtype: Any = torch.qint8,
        *,
        max_error: float = DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[Any] = (),
    ) -> QuantizationStats:
        """int8 weights, activations quantized as they come; `.model` becomes the int8 graph.

        Dynamic int8 slows convolutions down several times, so a model that has any is quantized
        with fixed ranges instead, taken from the validation data. Where int8 arithmetic changes
        the outputs too much, as it does in some recurrent networks, the weights alone are stored
        in 8 bits. `recipe` and `attempts` say which it was and why; a warning too.

        Args:
            dtype: `torch.qint8` or `torch.quint8`, of the weights.
            max_error: Largest relative error of an output allowed: the norm of the difference
                over that of the float output about its mean over the samples. 0.1 means that a
                hundredth of the output's variance is lost.
            layers_to_keep_float: Layers that stay in float, by name, pattern or module.

        Raises:
            QuantizationError: The error is over the limit even with half the layers in float.
            ConversionError: The model has no faithful ONNX graph.
            ExampleInputRequiredError: No input can be inferred.
            ConfigError: Another dtype, or an unknown layer.
        """
        plan = self._plan(dtype, max_error, layers_to_keep_float)
        quantization.check_int8(dtype)
        batches, validated_on = self._validation_batches()
        choices = quantization.dynamic_choices(self._source().graph, plan, batches)
        return self._quantize(choices, plan, batches, validated_on)

    def weight_only_quantization(
        self,
        dtype: Any = torch.qint8,
        *,
        max_error: float = DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[Any] = (),
    ) -> QuantizationStats:
        """Weights in fewer bits, computed with in float32: for what int8 arithmetic breaks.

        Recurrent networks above all. The size shrinks; the time hardly does, but for the blocks.

        Args:
            dtype: `torch.qint8` (a scale a channel, any layer), `torch.bfloat16` (half the size),
                or by blocks of 128 weights with products in int8 "int8_blocks" and "int4"
                (Linear layers; fast at small batches; ONNX Runtime alone runs them).
            max_error: As in `dynamic_quantization`.
            layers_to_keep_float: Layers that stay in float, by name, pattern or module.

        Raises:
            QuantizationError: The error is over the limit even with half the layers in float.
            ConversionError: The model has no faithful ONNX graph.
            ExampleInputRequiredError: No input can be inferred.
            ConfigError: Another dtype, or an unknown layer.
        """
        plan = self._plan(dtype, max_error, layers_to_keep_float)
        choices = quantization.weight_only_choices(dtype)
        return self._quantize(choices, plan, *self._validation_batches())

    def quantize_model(
        self,
        dtype: Any = torch.qint8,
        backend: str = "fbgemm",
        *,
        max_error: float = DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[Any] = (),
        calibration_method: str = "auto",
    ) -> dict[str, Any]:
        """Prepare static int8; `calibrate_quantization` does it. Until then `.model` is float.

        Args:
            dtype: `torch.qint8` or `torch.quint8`, of the weights.
            backend: `fbgemm`, `x86`, `onednn` or `qnnpack`, for the record: ONNX Runtime runs the
                result on each of these machines.
            max_error: As in `dynamic_quantization`.
            layers_to_keep_float: Layers that stay in float, by name, pattern or module.
            calibration_method: How ranges are taken from the data: "minmax", "percentile" (all
                but the farthest 0.01 %), "entropy", or "auto": these in turn until one is under
                the limit.

        Returns:
            What was planned, with `"status": "awaiting_calibration"`.

        Raises:
            ConfigError: Another dtype, backend or method, or an unknown layer.
        """
        quantization.check_int8(dtype)
        self._static_plan = self._plan(
            dtype,
            max_error,
            layers_to_keep_float,
            backend=backend,
            calibration_method=calibration_method,
        )
        self._quantized = None
        planned = {
            "status": "awaiting_calibration",
            "dtype": str(dtype),
            "backend": backend,
            "error_limit": max_error,
            "next": "calibrate_quantization(calibration_data)",
        }
        self._note("quantize", planned)
        return planned

    def calibrate_quantization(self, calibration_data: Any) -> QuantizationStats:
        """Static int8 with ranges taken from data; `.model` becomes the int8 graph.

        Args:
            calibration_data: Data like the model will see: a tensor of samples, an iterable of
                batches, or a DataLoader (targets are dropped).

        Raises:
            NotReadyError: `quantize_model` was not called.
            InputError: Empty or non-finite data, or data the model does not run on.
            QuantizationError: The error is over the limit even with half the layers in float.
        """
        if self._static_plan is None:
            raise NotReadyError("Call quantize_model() before calibrate_quantization(data).")
        calibration = batches_of(
            calibration_data, n_inputs=self._n_inputs(), what="calibration_data"
        )
        if self._example is None:
            # Proved before it is kept: data of the wrong width must not spoil the next call.
            self._example = resolve_example(self._float_model, calibration[0])
        batches, validated_on = calibration, "calibration_data"
        if self._validation_data is not None:
            batches, validated_on = self._validation_batches()
        choices = quantization.static_choices(self._static_plan, calibration)
        return self._quantize(choices, self._static_plan, batches, validated_on)

    # ── distillation ────────────────────────────────────────────────────────────────────────

    def knowledge_distillation(
        self,
        teacher_model: nn.Module,
        student_model: nn.Module,
        train_loader: Iterable[Any],
        temperature: float = 3.0,
        alpha: float = 0.5,
        epochs: int = 10,
        *,
        task: str = "auto",
        adopt: bool = False,
        learning_rate: float = 1e-3,
        max_grad_norm: float = 1.0,
        progress: Progress | None = None,
    ) -> nn.Module:
        """Train a student on a teacher's answers.

        Args:
            teacher_model: Not changed.
            student_model: Trained in place. If it is `compressor.model` after pruning, pruned
                weights stay zero until `make_pruning_permanent`.
            train_loader: Batches of `(inputs, targets)`, or of inputs alone with `alpha=1`.
            temperature: Softens the distributions of classes.
            alpha: Weight of the distillation loss; the task loss gets `1 - alpha`.
            epochs: Passes over the data.
            task: "classification", "regression", "embedding", or "auto": classification where
                the targets are whole numbers.
            adopt: Make the student the compressor's float model.
            learning_rate: Of Adam.
            max_grad_norm: Gradients are scaled down to this norm.
            progress: Called with each epoch's record.

        Returns:
            The student, in eval mode.

        Raises:
            ConfigError: A value out of range.
            InputError: Data that cannot be used, or a loss that is not finite.
        """
        plan = DistillationPlan(
            temperature=temperature,
            alpha=alpha,
            epochs=epochs,
            task=task,
            learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
            seed=self._seed,
        )
        is_own = student_model is self._float_model
        self.distillation_history = distil_(
            student_model,
            teacher_model,
            train_loader,
            plan,
            progress=progress,
            after_step=self._keep_pruned if is_own and self._masks else None,
        )
        if adopt and not is_own:
            self._float_model, self._masks, self._quantized = student_model, {}, None
        elif is_own:
            self._quantized = None
        self._note(
            "distil",
            {"epochs": epochs, "adopted": adopt or is_own, "last": self.distillation_history[-1]},
        )
        return student_model

    # ── what came of it ─────────────────────────────────────────────────────────────────────

    def get_compression_stats(self) -> CompressionStats:
        """The whole way from the original to the present model."""
        compressed_mb = size_mb(self.model)
        return {
            "original_size_mb": self.original_size,
            "compressed_size_mb": compressed_mb,
            "compression_ratio": self.original_size / compressed_mb if compressed_mb else 1.0,
            "original_params": n_parameters(self.original_model),
            "sparsity": pruning.sparsity(self._float_model),
            "is_quantized": self._quantized is not None,
            "steps": copy.deepcopy(self._steps),
        }

    def evaluate_compressed_model(
        self, test_loader: Iterable[Any], metric_fn: Callable[..., Any]
    ) -> Evaluation:
        """Metric, size and latency of original and compressed model, side by side.

        Args:
            test_loader: Batches `(inputs, targets)`, read several times.
            metric_fn: `metric_fn(model, test_loader) -> float`, or `metric_fn(outputs, targets)`.

        Raises:
            ConfigError: `metric_fn` fits neither form.
            InputError: The loader is empty or can be read only once.
        """
        return evaluated(
            self.original_model, self.model, test_loader, metric_fn, n_inputs=self._n_inputs()
        )

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _quantize(
        self,
        choices: quantization.Choices,
        plan: quantization.QuantizationPlan,
        batches: Sequence[Inputs],
        validated_on: str,
    ) -> QuantizationStats:
        self._quantized, stats = quantization.quantized(
            self._float_model,
            self._source(),
            choices,
            plan,
            example=self._inputs(),
            batches=batches,
            validated_on=validated_on,
        )
        self._note("quantize", stats)
        return stats

    def _plan(
        self, dtype: Any, max_error: float, layers: Sequence[Any], **options: Any
    ) -> quantization.QuantizationPlan:
        names = pruning.layer_names(self.original_model, layers)
        return quantization.QuantizationPlan(
            dtype=dtype, max_error=max_error, keep_float=tuple(names or ()), **options
        )

    def _inputs(self) -> Inputs:
        return resolve_example(self._float_model, self._example)

    def _n_inputs(self) -> int:
        """How many tensors the model takes; one unless the example says otherwise."""
        return 1 if self._example is None else len(tensors_of(self._inputs()))

    def _validation_batches(self) -> tuple[list[Inputs], str]:
        if self._validation_data is None:
            return synthetic_batches(self._inputs(), seed=self._seed), "synthetic"
        batches = batches_of(
            self._validation_data, n_inputs=self._n_inputs(), what="validation_data"
        )
        if self._example is None:
            self._example = resolve_example(self._float_model, batches[0])
        return batches, "validation_data"

    def _source(self) -> Source:
        """The float model's graph; converted again only where the model has changed."""
        fingerprint = state_hash(self._float_model)
        if self._converted is None or self._converted[0] != fingerprint:
            graph = quantization.float_graph(self._float_model, self._inputs())
            self._converted = (fingerprint, Source(graph))
        return self._converted[1]

    def _keep_pruned(self) -> None:
        pruning.apply_(self._float_model, self._masks)

    def _note(self, step: str, result: Any) -> None:
        note_original(self.original_model)
        self._steps.append({"step": step, **result})
