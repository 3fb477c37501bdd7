"""Steps that store and compute in fewer bits."""

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch

from modelyard._core.errors import ConfigError, NotReadyError
from modelyard.compression import pruning, quantization
from modelyard.compression.records import QuantizationStats
from modelyard.compression.steps.state import CompressorState
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.layers import state_hash, unwrapped
from modelyard.torchtools.quantization import DEFAULT_MAX_ERROR


class QuantizingSteps(CompressorState):
    """Fewer bits, under a limit on the error; see `ModelCompressor`."""

    def dynamic_quantization(
        self,
        dtype: Any = torch.qint8,
        *,
        max_error: float = DEFAULT_MAX_ERROR,
        layers_to_keep_float: Sequence[Any] = (),
    ) -> QuantizationStats:
        """int8 weights, activations quantized as they come; `.model` becomes the int8 graph.

        "As they come" is over the batch: an answer depends a little on the others computed with
        it, and an extreme sample costs its neighbours precision. `InferenceOptimizer` computes
        such graphs sample by sample; static ranges do not depend on the batch.

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
        calibration = self._batches_of(calibration_data, "calibration_data")
        batches, validated_on = self._measurable(calibration, "calibration_data")
        if self._validation_data is not None:
            batches, validated_on = self._validation_batches()
        choices = quantization.static_choices(self._static_plan, calibration)
        return self._quantize(choices, self._static_plan, batches, validated_on)

    def _quantize(
        self,
        choices: quantization.Choices,
        plan: quantization.QuantizationPlan,
        batches: Sequence[Inputs],
        validated_on: str,
    ) -> QuantizationStats:
        original = unwrapped(self.original_model)
        self._quantized, stats = quantization.quantized(
            self._float_model,
            self._source(),
            choices,
            plan,
            original=None if state_hash(self._float_model) == state_hash(original) else original,
            example=self._inputs(),
            batches=batches,
            validated_on=validated_on,
        )
        self._quantization = stats
        self._note("quantize", stats)
        return stats

    def _plan(
        self, dtype: Any, max_error: float, layers: Sequence[Any], **options: Any
    ) -> quantization.QuantizationPlan:
        names = pruning.layer_names(self.original_model, layers, changed=self._float_model)
        for name in names or ():
            self._refuse_unknown(name)
        return quantization.QuantizationPlan(
            dtype=dtype, max_error=max_error, keep_float=tuple(names or ()), **options
        )

    def _refuse_unknown(self, name: str) -> None:
        known = [layer for layer, _ in self._float_model.named_modules() if layer]
        is_known = any(
            f"{layer}.".startswith(f"{name}.") or fnmatch.fnmatchcase(layer, name)
            for layer in known
        )
        if not is_known:
            raise ConfigError(
                f"No layer {name!r} to keep in float. Layers there are: {', '.join(known)}."
            )
