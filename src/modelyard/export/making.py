"""From a module and what the caller wishes to the verified bytes of a file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.export.arguments import checked_shape
from modelyard.export.metadata import as_texts, input_statistics, with_metadata
from modelyard.export.presets import PRESETS, check_output
from modelyard.export.targets import TARGETS, Job
from modelyard.export.targets.base import Written
from modelyard.torchtools.conversion import (
    DynamicAxes,
    Interface,
    own_graph,
    preserved,
    subject_of,
)
from modelyard.torchtools.inputs import Inputs, answer_of, as_nested_inputs, resolve_example
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.policies import DeterministicPolicy, example_observation
from modelyard.torchtools.samples import batches_of
from modelyard.torchtools.signature import check_input, noted_signature

_DTYPES = {torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16"}
# So many of the user's batches are compared one by one; all of them calibrate.
_MOST_COMPARED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the caller asked for."""

    target: str
    opset: int
    precision: str
    dynamic_axes: DynamicAxes | None
    should_verify: bool
    should_optimize: bool
    max_error: float
    preset: str | None
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None


def shape_of(example: Any, shape: Any, preset: str | None) -> tuple[int, ...] | None:
    """The shape of an input that is described by its shape; None where there is an example."""
    if sum(given is not None for given in (example, shape, preset)) > 1:
        raise ConfigError("Pass one of example_input, input_shape and preset: each is the input.")
    if preset is not None:
        return PRESETS[preset].input_shape
    return None if shape is None else checked_shape(shape)


def example_of(module: nn.Module, given: Any, shape: Sequence[int] | None) -> Inputs:
    """An input that the module runs on, and that fits its signature.

    Raises:
        ExampleInputRequiredError: None was given and none can be inferred.
        InputError: What was given does not run, or does not fit.
    """
    if given is None and shape is None and isinstance(module, DeterministicPolicy):
        given = example_observation(module)
    inputs = resolve_example(module, given, shape=shape, is_nested_allowed=True)
    signature = noted_signature(module)
    if signature is not None and _is_flat(inputs):
        check_input(signature, inputs)
    return inputs


def _is_flat(inputs: Inputs) -> bool:
    if isinstance(inputs, torch.Tensor):
        return True
    items = inputs.values() if isinstance(inputs, dict) else inputs
    return all(isinstance(item, torch.Tensor) for item in items)


def batches_for(data: Any, example: Inputs, *, is_finite_needed: bool) -> list[Inputs]:
    """The user's own samples in batches, in the form of the example; none where none are given."""
    if data is None:
        return []
    if not _is_flat(example):
        return [as_nested_inputs(item) for item in data]
    n_inputs = 1 if isinstance(example, torch.Tensor) else len(example)
    return batches_of(
        data, n_inputs=n_inputs, what="validation_data", is_finite_needed=is_finite_needed
    )


def written_files(
    module: nn.Module,
    example: Inputs,
    batches: Sequence[Inputs],
    wishes: Wishes,
    known: Mapping[str, Any],
    *,
    is_given: bool,
) -> tuple[Written, Interface]:
    """The verified files, and the interface they were made with.

    Args:
        module: What is exported; left as it was.
        example: An input it runs on.
        batches: The user's own samples.
        wishes: What was asked for.
        known: What is stored in the file beside what is found here.
        is_given: Whether the example is the user's, and so tells of the user's inputs.

    Raises:
        ConversionError, QuantizationError, ConfigError: As `ModelExporter.export`.
    """
    with preserved(module):
        subject = subject_of(
            module,
            example,
            dynamic_axes=wishes.dynamic_axes,
            verify=wishes.should_verify,
            given=batches[:_MOST_COMPARED],
            input_names=wishes.input_names,
            output_names=wishes.output_names,
        )
        interface = subject.interface
        if wishes.precision != "fp32" and subject.lowest != torch.float32:
            raise ConfigError(
                f"precision={wishes.precision!r} starts from a float32 model; this one computes "
                f"in {subject.lowest}. Pass model.float()."
            )
        if wishes.preset is not None:
            answer = flat_outputs(answer_of(subject.module, interface.example))
            check_output(wishes.preset, PRESETS[wishes.preset], answer)
        seen = batches or ([example] if is_given else [])
        statistics = input_statistics(interface.inputs, seen) if seen else None
        texts = as_texts({**known, **_own_metadata(wishes, statistics, subject.lowest)})
        job = Job(
            subject=subject,
            opset=wishes.opset,
            precision=wishes.precision,
            calibration=batches,
            max_error=wishes.max_error,
            should_optimize=wishes.should_optimize,
            metadata=texts,
        )
        return TARGETS[wishes.target].write(job), interface


def _own_metadata(
    wishes: Wishes, statistics: Mapping[str, Any] | None, lowest: torch.dtype
) -> dict[str, Any]:
    verification = "measured" if wishes.precision == "int8" else "compared"
    found: dict[str, Any] = {
        "precision": _DTYPES.get(lowest, "fp32")
        if wishes.precision == "fp32"
        else wishes.precision,
        "verification": verification if wishes.should_verify else "none",
    }
    return found | ({"input_statistics": statistics} if statistics else {})


def written_graph(module: OnnxModule, wishes: Wishes, known: Mapping[str, Any]) -> Written:
    """The graph of a module that is one, with what is known of it.

    Raises:
        ConfigError, ConversionError: Something was asked for that would need another graph.
    """
    asked = (wishes.dynamic_axes, wishes.input_names, wishes.output_names)
    if any(wish is not None for wish in asked):
        raise ConfigError(
            "An OnnxModule is exported as the graph it is: leave dynamic_axes, input_names and "
            "output_names out, or export the float model it was made from."
        )
    if wishes.target != "onnx" or wishes.precision != "fp32":
        raise ConversionError(
            f"An OnnxModule ({module.recipe}) is exported as the ONNX graph it is: leave target "
            "and precision out, or export the float model it was made from."
        )
    graph = own_graph(module, wishes.opset)
    data = with_metadata(graph.data, as_texts(known)) if known else graph.data
    return Written(files={".onnx": data}, route=graph.route, verification=None)
