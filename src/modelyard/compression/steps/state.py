"""What a compressor knows: the original, the float model, the quantized one, the steps so far."""

from typing import Any

from torch import nn

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard.compression import pruning, quantization
from modelyard.compression.records import DistillationEpoch, QuantizationStats, SearchResult
from modelyard.torchtools.conversion import DynamicAxes, checked_axes
from modelyard.torchtools.conversion.preparation import plain_copy
from modelyard.torchtools.inputs import (
    Inputs,
    as_inputs,
    mapped,
    resolve_example,
    takes_whole,
    tensors_of,
)
from modelyard.torchtools.layers import size_mb, state_hash
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.originals import note_original
from modelyard.torchtools.quantization import Source
from modelyard.torchtools.samples import batches_of, has_variety, synthetic_batches


class CompressorState:
    """The state that all steps share; see `ModelCompressor`. Not thread-safe."""

    def __init__(
        self,
        model: nn.Module,
        *,
        example_input: Any = None,
        validation_data: Any = None,
        dynamic_axes: DynamicAxes | None = None,
        store: Any = None,  # noqa: ARG002 - see the docstring
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}.")
        self.original_model = model
        self.original_size = size_mb(model)
        self.distillation_history: list[DistillationEpoch] = []
        self.training_history: list[DistillationEpoch] = []
        self._clock = clock or SystemClock()
        self._example = example_input
        self._validation_data = validation_data
        self._dynamic_axes = checked_axes(dynamic_axes)
        self._seed = seed or 0
        self._float_model = plain_copy(model)
        self._quantized: OnnxModule | None = None
        self._masks: dict[str, pruning.Mask] = {}
        self._validation: list[Inputs] | None = None
        self._static_plan: quantization.QuantizationPlan | None = None
        self._converted: tuple[str, Source] | None = None
        self._steps: list[dict[str, Any]] = []
        self._quantization: QuantizationStats | None = None
        self._search: SearchResult | None = None

    @property
    def model(self) -> nn.Module:
        """The compressed model: the int8 graph if there is one, else the float module."""
        return self._quantized if self._quantized is not None else self._float_model

    @property
    def example_input(self) -> Inputs:
        """An input that the model is known to run on.

        Raises:
            ExampleInputRequiredError: None was given and none can be inferred.
        """
        return self._inputs()

    def _inputs(self) -> Inputs:
        return resolve_example(self._float_model, self._example)

    def _n_inputs(self) -> int:
        """How many tensors the model takes; one unless the example says otherwise."""
        return 1 if self._example is None else len(tensors_of(self._inputs()))

    def _validation_batches(self) -> tuple[list[Inputs], str]:
        """What errors are measured on, and where it comes from."""
        if self._validation_data is None:
            return synthetic_batches(self._inputs(), seed=self._seed), quantization.SYNTHETIC
        if self._validation is None:  # read once: a generator gives its samples only once
            self._validation = self._batches_of(self._validation_data, "validation_data")
        return self._measurable(self._validation, "validation_data")

    def _batches_of(self, data: Any, what: str) -> list[Inputs]:
        """Batches of data that the model runs on; the first of them is an example from now on."""
        if self._example is None and takes_whole(self._float_model, data):
            self._example = mapped(as_inputs(data), lambda tensor: tensor[:2])
        batches = batches_of(data, n_inputs=self._n_inputs(), what=what)
        if self._example is None:
            # Proved before it is kept: data of the wrong width must not spoil the next call.
            self._example = resolve_example(self._float_model, batches[0])
        return batches

    def _measurable(self, batches: list[Inputs], source: str) -> tuple[list[Inputs], str]:
        """The batches, or made-up ones where they are too few or too much alike to judge by."""
        if has_variety(batches):
            return batches, source
        made_up = synthetic_batches(self._inputs(), seed=self._seed)
        return made_up, quantization.SYNTHETIC

    def _source(self) -> Source:
        """The float model's graph; converted again only where the model has changed."""
        fingerprint = state_hash(self._float_model)
        if self._converted is None or self._converted[0] != fingerprint:
            graph = quantization.float_graph(
                self._float_model, self._inputs(), dynamic_axes=self._dynamic_axes
            )
            self._converted = (fingerprint, Source(graph))
        return self._converted[1]

    def _keep_pruned(self) -> None:
        pruning.apply_(self._float_model, self._masks)

    def _note(self, step: str, result: Any) -> None:
        note_original(self.original_model)
        self._steps.append({"step": step, **result})
