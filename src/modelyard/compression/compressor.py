"""`ModelCompressor`: prune, quantize and distil a model, the original always at hand."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, NotReadyError
from modelyard.compression import pruning, structured
from modelyard.compression.evaluation import evaluated
from modelyard.compression.records import (
    CompressionStats,
    DistillationEpoch,
    Evaluation,
    PruningStats,
    QuantizationStats,
)
from modelyard.compression.training import DistillationPlan, TrainingPlan, distil_, fine_tune_
from modelyard.compression.training.losses import LossFn
from modelyard.compression.training.progress import Progress
from modelyard.compression.training.validation import MetricFn
from modelyard.torchtools import quantize
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.inputs import Inputs, call, resolve_example, tensors_of
from modelyard.torchtools.layers import MB, n_parameters, size_mb, unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.originals import note_original
from modelyard.torchtools.parity import tree_of
from modelyard.torchtools.samples import batches_of, reference_for, synthetic_batches

BACKENDS = ("fbgemm", "x86", "onednn", "qnnpack")


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
        self._static_plan: dict[str, Any] | None = None
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
        if method == "structured":
            stats = self._prune_structured(amount, layers_to_prune, layers_to_keep)
        else:
            stats = self._prune_weights(amount, method, layers_to_prune, scope)
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
        max_error: float = quantize.DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[str] = (),
    ) -> QuantizationStats:
        """int8 weights, activations quantized as they come; `.model` becomes the int8 graph.

        Dynamic int8 slows convolutions down several times, so a model that has any is quantized
        with fixed ranges instead, taken from the validation data; `recipe` says so.

        Args:
            dtype: `torch.qint8` or `torch.quint8`, of the weights.
            max_error: Largest relative error of an output allowed (norm of the difference over
                norm of the float output).
            layers_to_keep_float: Module names that stay in float.

        Raises:
            QuantizationError: The error is over the limit even with half the layers in float.
            ConversionError: The model has no faithful ONNX graph.
            ExampleInputRequiredError: No input can be inferred.
            ConfigError: Another dtype, or an unknown layer.
        """
        batches, source = self._validation_batches()
        graph = self._float_graph()
        if quantize.has_convolution(graph):
            recipe, name = quantize.static_int8(dtype, batches), "static_int8"
        else:
            recipe, name = quantize.dynamic_int8(dtype), "dynamic_int8"
        return self._quantize(
            graph,
            recipe,
            recipe_name=name,
            batches=batches,
            source=source,
            plan=_plan(dtype, "fbgemm", max_error, layers_to_keep_float),
        )

    def quantize_model(
        self,
        dtype: Any = torch.qint8,
        backend: str = "fbgemm",
        *,
        max_error: float = quantize.DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Prepare static int8; `calibrate_quantization` does it. Until then `.model` is float.

        Args:
            dtype: `torch.qint8` or `torch.quint8`, of the weights.
            backend: `fbgemm`, `x86`, `onednn` or `qnnpack`, for the record: ONNX Runtime runs the
                result on each of these machines.
            max_error: As in `dynamic_quantization`.
            layers_to_keep_float: Module names that stay in float.

        Returns:
            What was planned, with `"status": "awaiting_calibration"`.

        Raises:
            ConfigError: Another dtype or backend.
        """
        quantize.weight_type(dtype)
        if backend not in BACKENDS:
            raise ConfigError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}.")
        self._quantized = None
        self._static_plan = _plan(dtype, backend, max_error, layers_to_keep_float)
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
        batches, source = calibration, "calibration_data"
        if self._validation_data is not None:
            batches, source = self._validation_batches()
        return self._quantize(
            self._float_graph(),
            quantize.static_int8(self._static_plan["dtype"], calibration),
            recipe_name="static_int8",
            batches=batches,
            source=source,
            plan=self._static_plan,
        )

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
        loss_fn: LossFn | None = None,
        features: Mapping[str, str] | None = None,
        feature_weight: float = 1.0,
        validation_loader: Iterable[Any] | None = None,
        metric_fn: MetricFn | None = None,
        maximize: bool = True,
        patience: int | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_epochs: float = 0.0,
        max_grad_norm: float = 1.0,
        amp: bool | str = "auto",
        checkpoint: str | Path | None = None,
        progress: Progress = None,
    ) -> nn.Module:
        """Train a student on a teacher's answers.

        Args:
            teacher_model: Not changed and not moved.
            student_model: Trained in place. If it is `compressor.model` after pruning, pruned
                weights stay zero until `make_pruning_permanent`.
            train_loader: Batches of `(inputs, targets)`, or of inputs alone with `alpha=1`.
            temperature: Softens the distributions of classes.
            alpha: Weight of the distillation loss; the task loss gets `1 - alpha`.
            epochs: Passes over the data.
            task: "classification", "regression", "embedding", "policy", or "auto": policy where
                the models answer with distributions, classification where the targets are whole
                numbers, else regression.
            adopt: Make the student the compressor's float model.
            loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
            features: Names of the teacher's layers to those of the student's that imitate them.
            feature_weight: Weight of the distance between those.
            validation_loader: Batches to judge each epoch by. The weights of the best are kept;
                without it those of the last.
            metric_fn: Judges in place of the loss: `metric_fn(outputs, targets)`, or
                `metric_fn(model, validation_loader)`.
            maximize: Whether a larger metric is better.
            patience: Stop after this many epochs in a row without a better one.
            learning_rate: Of AdamW.
            weight_decay: Of AdamW; 0 makes it Adam.
            schedule: "constant", or "cosine" down to 0.
            warmup_epochs: The rate rises linearly over so many.
            max_grad_norm: Gradients are scaled down to this norm.
            amp: Train in bfloat16: True, False, or "auto" for CUDA devices that have it.
            checkpoint: File that is written after each epoch, and that an interrupted call with
                the same arguments goes on from.
            progress: None for a bar in a terminal, False for nothing, or called with each epoch's
                record.

        Returns:
            The student, in eval mode.

        Raises:
            ConfigError: A value out of range, or a student that shares parts with the teacher.
            InputError: Data that cannot be used, or a loss that is not finite.
            IntegrityError: The checkpoint is damaged.
        """
        plan = DistillationPlan(
            temperature=temperature,
            alpha=alpha,
            epochs=epochs,
            task=task,
            features=features or {},
            feature_weight=feature_weight,
            maximize=maximize,
            patience=patience,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            max_grad_norm=max_grad_norm,
            amp=amp,
            seed=self._seed,
        )
        is_own = student_model is self._float_model
        if is_own:
            # First: weights that an interruption leaves changed are not those that were quantized.
            self._quantized = None
        self.distillation_history = distil_(
            student_model,
            teacher_model,
            train_loader,
            plan,
            loss_fn=loss_fn,
            validation_loader=validation_loader,
            metric_fn=metric_fn,
            checkpoint=checkpoint,
            progress=progress,
            after_step=self._keep_pruned if is_own and self._masks else None,
        )
        if adopt and not is_own:
            self._float_model, self._masks, self._quantized = student_model, {}, None
        self._note(
            "distil",
            {
                "epochs": len(self.distillation_history),
                "adopted": adopt or is_own,
                "last": self.distillation_history[-1],
            },
        )
        return student_model

    def fine_tune(
        self,
        train_loader: Iterable[Any],
        epochs: int = 3,
        *,
        task: str = "auto",
        loss_fn: LossFn | None = None,
        validation_loader: Iterable[Any] | None = None,
        metric_fn: MetricFn | None = None,
        maximize: bool = True,
        patience: int | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_epochs: float = 0.0,
        max_grad_norm: float = 1.0,
        amp: bool | str = "auto",
        checkpoint: str | Path | None = None,
        progress: Progress = None,
    ) -> nn.Module:
        """Train the float model on targets, to mend what pruning broke.

        Pruned weights stay zero until `make_pruning_permanent`. Drops an earlier quantized result.
        `compressor.training_history` has one entry an epoch.

        Args:
            train_loader: Batches of `(inputs, targets)`.
            epochs: Passes over the data.
            task: "classification", "regression", "embedding", "policy", or "auto": cross entropy
                for targets that are whole numbers, else the mean squared error.
            loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
            validation_loader: Batches to judge each epoch by. The weights of the best are kept;
                without it those of the last.
            metric_fn: Judges in place of the loss: `metric_fn(outputs, targets)`, or
                `metric_fn(model, validation_loader)`.
            maximize: Whether a larger metric is better.
            patience: Stop after this many epochs in a row without a better one.
            learning_rate: Of AdamW; smaller than for a new model, which this is not.
            weight_decay: Of AdamW; 0 makes it Adam.
            schedule: "constant", or "cosine" down to 0.
            warmup_epochs: The rate rises linearly over so many.
            max_grad_norm: Gradients are scaled down to this norm.
            amp: Train in bfloat16: True, False, or "auto" for CUDA devices that have it.
            checkpoint: File that is written after each epoch, and that an interrupted call with
                the same arguments goes on from.
            progress: None for a bar in a terminal, False for nothing, or called with each epoch's
                record.

        Returns:
            The float model, in eval mode.

        Raises:
            ConfigError: A value out of range, or nothing to train.
            InputError: Data that cannot be used, or a loss that is not finite.
            IntegrityError: The checkpoint is damaged.
        """
        plan = TrainingPlan(
            epochs=epochs,
            task=task,
            maximize=maximize,
            patience=patience,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            max_grad_norm=max_grad_norm,
            amp=amp,
            seed=self._seed,
        )
        self._quantized = None
        history = fine_tune_(
            self._float_model,
            train_loader,
            plan,
            loss_fn=loss_fn,
            validation_loader=validation_loader,
            metric_fn=metric_fn,
            checkpoint=checkpoint,
            progress=progress,
            after_step=self._keep_pruned if self._masks else None,
        )
        self.training_history: list[DistillationEpoch] = history
        self._note("fine_tune", {"epochs": len(history), "last": history[-1]})
        return self._float_model

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

    def _prune_weights(
        self, amount: float, method: str, layers: Sequence[Any] | None, scope: str
    ) -> PruningStats:
        names = pruning.layer_names(self.original_model, layers)
        targets = pruning.find_targets(self._float_model, names)
        masks = pruning.masks_for(
            targets, method=method, amount=amount, scope=scope, seed=self._seed
        )
        pruning.apply_(self._float_model, masks)
        self._masks |= masks
        zeros = {t.layer: int((t.weight == 0).sum()) for t in targets}
        targeted = sum(t.weight.numel() for t in targets)
        return {
            "method": method,
            "actual_sparsity": sum(zeros.values()) / targeted,
            "model_sparsity": pruning.sparsity(self._float_model),
            "pruned_params": sum(zeros.values()),
            "targeted_params": targeted,
            "total_params": n_parameters(self._float_model),
            "per_layer": {t.layer: zeros[t.layer] / t.weight.numel() for t in targets},
        }

    def _prune_structured(
        self, amount: float, layers: Sequence[Any] | None, keep: Sequence[Any] | None
    ) -> PruningStats:
        kept = list(pruning.layer_names(self.original_model, keep) or [])
        wanted = pruning.layer_names(self.original_model, layers)
        everything = [t.layer for t in pruning.find_targets(self._float_model, None)]
        if wanted is not None:
            chosen = {t.layer for t in pruning.find_targets(self._float_model, wanted)}
            kept += [name for name in everything if name not in chosen]
        before = n_parameters(self._float_model)
        widths = _weights_by_layer(self._float_model)
        self._float_model = structured.without_channels(
            self._float_model, self._inputs(), amount=amount, keep=kept
        )
        self._masks = {}
        removed = before - n_parameters(self._float_model)
        now = _weights_by_layer(self._float_model)
        return {
            "method": "structured",
            "actual_sparsity": removed / before,
            "model_sparsity": pruning.sparsity(self._float_model),
            "pruned_params": removed,
            "targeted_params": before,
            "total_params": before,
            "per_layer": {name: 1 - now[name] / size for name, size in widths.items()},
        }

    def _quantize(
        self,
        graph: bytes,
        recipe: quantize.Recipe,
        *,
        recipe_name: str,
        batches: Sequence[Inputs],
        source: str,
        plan: dict[str, Any],
    ) -> QuantizationStats:
        result = quantize.quantized_within(
            graph,
            recipe,
            reference_for(self._float_model, batches),
            max_error=plan["max_error"],
            keep_float=plan["keep_float"],
        )
        answer = call(self._float_model, self._inputs())
        self._quantized = OnnxModule(
            result.data, recipe=recipe_name, output_tree=tree_of(answer)
        ).eval()
        float_mb = size_mb(self._float_model)
        quantized_mb = len(result.data) / MB
        stats: QuantizationStats = {
            "recipe": recipe_name,
            "dtype": str(plan["dtype"]),
            "backend": plan["backend"],
            "original_size_mb": float_mb,
            "quantized_size_mb": quantized_mb,
            "compression_ratio": float_mb / quantized_mb,
            "max_error": result.error,
            "error_limit": plan["max_error"],
            "validated_on": source,
            "layers_kept_float": result.layers_kept_float,
            "portable": result.is_portable,
        }
        self._note("quantize", stats)
        return stats

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

    def _float_graph(self) -> bytes:
        if isinstance(self._float_model, OnnxModule):
            raise ConfigError("The model is int8 already; compress the float one it came from.")
        return to_runnable(self._float_model, self._inputs()).data

    def _keep_pruned(self) -> None:
        pruning.apply_(self._float_model, self._masks)

    def _note(self, step: str, result: Any) -> None:
        note_original(self.original_model)
        self._steps.append({"step": step, **result})


def _plan(dtype: Any, backend: str, max_error: float, keep_float: Sequence[str]) -> dict[str, Any]:
    if not max_error > 0:
        raise ConfigError(f"max_error must be above 0, got {max_error}. 0.1 means 10 %.")
    return {
        "dtype": dtype,
        "backend": backend,
        "max_error": max_error,
        "keep_float": tuple(keep_float),
    }


def _weights_by_layer(model: nn.Module) -> dict[str, int]:
    return {t.layer: t.weight.numel() for t in pruning.find_targets(model, None)}
