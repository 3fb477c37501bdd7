"""`ModelExporter`: files written whole and proved, and what can be asked of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard._core.ids import checked_name
from modelyard.export.arguments import (
    checked_axes,
    checked_count,
    checked_fraction,
    checked_names,
    checked_path,
    checked_shape,
    checked_word,
)
from modelyard.export.benchmark import Shape, benchmarked
from modelyard.export.comparison import compared_with_file
from modelyard.export.files import put_in_place
from modelyard.export.inspection import inspected
from modelyard.export.metadata import (
    as_texts,
    checked_metadata,
    input_statistics,
    with_metadata,
)
from modelyard.export.presets import PRESETS, check_output
from modelyard.export.records import Exported, ModelInfo, OnnxBenchmark, OutputComparison
from modelyard.export.targets import PRECISIONS, TARGETS, Job, check_precision
from modelyard.export.targets.base import Written
from modelyard.export.visualization import graph_page
from modelyard.torchtools.conversion import (
    ATOL,
    DEFAULT_OPSET,
    RTOL,
    DynamicAxes,
    own_graph,
    preserved,
    refuse_untraceable,
    routes,
    subject_of,
)
from modelyard.torchtools.inputs import Inputs, answer_of, as_nested_inputs, resolve_example
from modelyard.torchtools.layers import unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.originals import warn_if_original
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.policies import DeterministicPolicy, as_module, example_observation
from modelyard.torchtools.provenance import noted_provenance
from modelyard.torchtools.quantization import DEFAULT_MAX_ERROR
from modelyard.torchtools.samples import batches_of
from modelyard.torchtools.signature import check_input, noted_signature

_DTYPES = {torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16"}
# So many of the user's batches are compared one by one; all of them calibrate.
_MOST_COMPARED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wishes:
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


class ModelExporter:
    """Writes models as files for other runtimes. Stateless but for the folder; thread-safe.

    Args:
        output_dir: Folder for the files; made at the first export.
    """

    def __init__(self, output_dir: str | Path = "models/onnx") -> None:
        self.output_dir = checked_path(output_dir, what="output_dir")

    def export_to_onnx(
        self,
        model: Any,
        model_name: str,
        input_shape: Sequence[int] | None = None,
        opset_version: int = DEFAULT_OPSET,
        dynamic_axes: DynamicAxes | None = None,
        verify: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        optimize: bool = True,
        example_input: Any = None,
        **options: Any,
    ) -> str:
        """Write `<output_dir>/<model_name>.onnx`, whole and verified or not at all.

        `export` with target "onnx": see there for the arguments, for those in `options`, and for
        what is raised.

        Returns:
            The file's path.
        """
        exported = self.export(
            model,
            model_name,
            "onnx",
            input_shape=input_shape,
            opset_version=opset_version,
            dynamic_axes=dynamic_axes,
            verify=verify,
            optimize=optimize,
            example_input=example_input,
            **options,
        )
        return str(exported.path)

    def export(
        self,
        model: Any,
        model_name: str,
        target: str = "onnx",
        *,
        input_shape: Sequence[int] | None = None,
        example_input: Any = None,
        preset: str | None = None,
        opset_version: int = DEFAULT_OPSET,
        dynamic_axes: DynamicAxes | None = None,
        precision: str = "fp32",
        verify: bool = True,
        optimize: bool = True,
        validation_data: Any = None,
        max_error: float = DEFAULT_MAX_ERROR,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Exported:
        """Write a model in another format, whole and verified or not at all.

        One input and one output are named `input` and `output`. Several inputs take the argument
        names of `forward`, with the key or position behind it where an argument is nested
        (`batch_ids`); several outputs the keys of a dict or named tuple, else `output_0`...

        Args:
            model: Any module, also pruned, compiled, scripted or an `OnnxModule`, whose graph is
                the export; or an algorithm of stable-baselines3, whose deterministic action is.
                Not changed.
            model_name: Name of the file without its ending.
            target: "onnx" (`.onnx`), "torch_export" (`.pt2`), "torchscript" (`.pt`) or "openvino"
                (`.xml` and `.bin`; needs the extra `openvino`).
            input_shape: Shape of one float32 input, batch first; only describes the input: with a
                dynamic batch, other sizes are tried too.
            example_input: Instead of it, what `forward` takes: a tensor, a tuple (positional) or a
                dict (by name) whose values may be nested, None or constants.
            preset: Instead of both, "ts2vec", "transformer" or "ppo": the shapes of the design
                document; a model that gives another shape is refused.
            opset_version: The opset that the ONNX graph has in the end.
            dynamic_axes: Sizes that may vary, as `{"input": {0: "batch_size", 1: "time"}}`; equal
                names vary together. None: the batch of everything. `{}`: nothing varies.
            precision: "fp32"; "fp16" (half the size, computed in float16); "bf16" (weights stored
                in bfloat16, computed in float32); "int8" (by the recipes of ModelCompressor).
            verify: Compare with the model at several sizes and kinds of input.
            optimize: Keep a simplified ONNX graph where it measures faster and answers the same;
                in "fp32" only.
            validation_data: The user's own samples, as for ModelCompressor: compared on, used to
                calibrate int8, and described in the file.
            max_error: Largest relative error that int8 may have.
            input_names: Names instead of the usual ones, one a tensor.
            output_names: The same for the outputs.
            metadata: Texts or plain values to store in the file, beside what is known of a model
                that came from the registry (`version_id, model_name, metrics, git_commit`).

        Returns:
            What was written and what was proved.

        Raises:
            ConversionError: The model cannot be converted faithfully; an older file of this name
                stays. Says what was tried and what to do.
            QuantizationError: The precision costs more than it may.
            ExampleInputRequiredError: No input was given and none can be inferred.
            InputError: What was given does not run, or is no module.
            ConfigError: An unknown target, precision, preset or name in `dynamic_axes`, or a
                model's name with odd characters.
        """
        checked_name(model_name, what="model_name")
        wishes = _Wishes(
            target=checked_word(target, list(TARGETS), what="target"),
            opset=checked_count(opset_version, what="opset_version"),
            precision=checked_word(precision, PRECISIONS, what="precision"),
            dynamic_axes=checked_axes(dynamic_axes),
            should_verify=verify,
            should_optimize=optimize,
            max_error=checked_fraction(max_error, what="max_error"),
            preset=None if preset is None else checked_word(preset, list(PRESETS), what="preset"),
            input_names=checked_names(input_names, what="input_names"),
            output_names=checked_names(output_names, what="output_names"),
        )
        check_precision(TARGETS[target], target, precision)
        routes(wishes.opset)
        shape = _shape(example_input, input_shape, preset)
        module = unwrapped(as_module(model))
        warn_if_original(model, action="exported")
        known = {**noted_provenance(module), **checked_metadata(metadata)}
        if isinstance(module, OnnxModule):
            written, interface = _own_graph(module, wishes, known), None
        else:
            refuse_untraceable(module)
            with preserved(module):
                example = _example(module, example_input, shape)
            batches = _batches(validation_data, example, is_finite_needed=precision == "int8")
            written, interface = _written(
                module, example, batches, wishes, known, is_given=example_input is not None
            )
        path = self.output_dir / f"{model_name}{TARGETS[target].suffixes[0]}"
        put_in_place(path, written.files)
        return Exported(
            path=path,
            target=target,
            opset=wishes.opset if target in {"onnx", "openvino"} else None,
            precision=precision,
            route=written.route,
            size_bytes=sum(map(len, written.files.values())),
            inputs=interface.inputs if interface else _names(path, "inputs"),
            outputs=interface.outputs if interface else _names(path, "outputs"),
            verification=written.verification,
            details=dict(written.details),
        )

    def get_model_info(self, onnx_path: str | Path) -> ModelInfo:
        """Inputs, outputs, operators, size and metadata of an ONNX file.

        Raises:
            NotFoundError: There is no such file.
            InputError: It is no ONNX model, or its weights are not beside it.
        """
        return inspected(checked_path(onnx_path, what="onnx_path"))

    def compare_outputs(
        self,
        pytorch_model: Any,
        onnx_path: str | Path,
        test_input: Any,
        *,
        rtol: float = RTOL,
        atol: float = ATOL,
    ) -> OutputComparison:
        """How far the file's answers are from the module's on `test_input`.

        Args:
            pytorch_model: The module, run in eval mode, or an algorithm of stable-baselines3.
            onnx_path: The file.
            test_input: What `forward` takes; see `export`.
            rtol: Part of the output's size that a difference may have.
            atol: Difference allowed besides.

        Raises:
            NotFoundError, InputError: The file is missing, no ONNX model, or takes something else.
        """
        return compared_with_file(
            unwrapped(as_module(pytorch_model)),
            checked_path(onnx_path, what="onnx_path"),
            as_nested_inputs(test_input),
            rtol=checked_fraction(rtol, what="rtol"),
            atol=checked_fraction(atol, what="atol"),
        )

    def benchmark_onnx(
        self,
        onnx_path: str | Path,
        input_shape: Shape | None = None,
        num_iterations: int = 1000,
        warmup_iterations: int = 10,
        *,
        pytorch_model: Any = None,
        example_input: Any = None,
        n_threads: int | None = None,
    ) -> OnnxBenchmark:
        """Latency of the file in ONNX Runtime, one call after another.

        Args:
            onnx_path: The file.
            input_shape: Of each call, batch first; for several inputs, a shape for each by name.
                Floats are made up, whole numbers are 0.
            num_iterations: Calls measured, 1 or more.
            warmup_iterations: Calls before that.
            pytorch_model: The module to compare with, called in turns with the file on as many
                threads.
            example_input: Instead of `input_shape`, what `forward` takes.
            n_threads: Threads within an operator; None for ONNX Runtime's choice by size.

        Raises:
            NotFoundError, InputError: The file is missing, no ONNX model, or takes something else.
            ConfigError: `num_iterations` below 1, or no input.
        """
        module = None if pytorch_model is None else unwrapped(as_module(pytorch_model))
        return benchmarked(
            checked_path(onnx_path, what="onnx_path"),
            shape=input_shape,
            example=example_input,
            module=module,
            n=checked_count(num_iterations, what="num_iterations"),
            warmup=checked_count(warmup_iterations, what="warmup_iterations", least=0),
            n_threads=None if n_threads is None else checked_count(n_threads, what="n_threads"),
        )

    def visualize(
        self, onnx_path: str | Path, output_path: str | Path | None = None, *, profile: bool = True
    ) -> str:
        """Draw the graph as one HTML page that needs no network.

        Operators stand in the order they compute, linked by what they hand on, and coloured by
        their share of the time, which ONNX Runtime's profile of some runs on made-up inputs gives.

        Args:
            onnx_path: The file.
            output_path: The page; None for the file's own name with `.html`.
            profile: Whether to run the graph for the times.

        Returns:
            The page's path.

        Raises:
            NotFoundError, InputError: The file is missing or no ONNX model.
        """
        page = None if output_path is None else checked_path(output_path, what="output_path")
        return graph_page(checked_path(onnx_path, what="onnx_path"), page, should_profile=profile)


def _shape(example: Any, shape: Any, preset: str | None) -> tuple[int, ...] | None:
    """The shape of an input that is described by its shape; None where there is an example."""
    if sum(given is not None for given in (example, shape, preset)) > 1:
        raise ConfigError("Pass one of example_input, input_shape and preset: each is the input.")
    if preset is not None:
        return PRESETS[preset].input_shape
    return None if shape is None else checked_shape(shape)


def _example(module: nn.Module, given: Any, shape: Sequence[int] | None) -> Inputs:
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


def _batches(data: Any, example: Inputs, *, is_finite_needed: bool) -> list[Inputs]:
    if data is None:
        return []
    if not _is_flat(example):
        return [as_nested_inputs(item) for item in data]
    n_inputs = 1 if isinstance(example, torch.Tensor) else len(example)
    return batches_of(
        data, n_inputs=n_inputs, what="validation_data", is_finite_needed=is_finite_needed
    )


def _written(
    module: nn.Module,
    example: Inputs,
    batches: Sequence[Inputs],
    wishes: _Wishes,
    known: Mapping[str, Any],
    *,
    is_given: bool,
) -> Any:
    """The verified files, and the interface they were made with."""
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
    wishes: _Wishes, statistics: Mapping[str, Any] | None, lowest: torch.dtype
) -> dict[str, Any]:
    verification = "measured" if wishes.precision == "int8" else "compared"
    found: dict[str, Any] = {
        "precision": _DTYPES.get(lowest, "fp32")
        if wishes.precision == "fp32"
        else wishes.precision,
        "verification": verification if wishes.should_verify else "none",
    }
    return found | ({"input_statistics": statistics} if statistics else {})


def _own_graph(module: OnnxModule, wishes: _Wishes, known: Mapping[str, Any]) -> Written:
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


def _names(path: Path, which: str) -> tuple[str, ...]:
    info: Any = inspected(path)
    return tuple(value["name"] for value in info[which])
