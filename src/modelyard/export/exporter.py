"""`ModelExporter`: files written whole and proved, and what can be asked of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard._core.ids import checked_name
from modelyard.export.arguments import (
    checked_count,
    checked_fraction,
    checked_names,
    checked_path,
    checked_word,
)
from modelyard.export.benchmark import Shape, benchmarked
from modelyard.export.comparison import compared_with_file
from modelyard.export.files import put_in_place
from modelyard.export.inspection import inspected
from modelyard.export.making import (
    Wishes,
    batches_for,
    example_of,
    shape_of,
    written_files,
    written_graph,
)
from modelyard.export.metadata import checked_metadata
from modelyard.export.presets import PRESETS
from modelyard.export.records import Exported, ModelInfo, OnnxBenchmark, OutputComparison
from modelyard.export.targets import PRECISIONS, TARGETS, check_precision
from modelyard.export.visualization import graph_page
from modelyard.torchtools.conversion import (
    ATOL,
    DEFAULT_OPSET,
    RTOL,
    DynamicAxes,
    checked_axes,
    preserved,
    refuse_untraceable,
    routes,
)
from modelyard.torchtools.inputs import as_nested_inputs
from modelyard.torchtools.layers import unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.originals import warn_if_original
from modelyard.torchtools.policies import as_module
from modelyard.torchtools.provenance import noted_provenance
from modelyard.torchtools.quantization import DEFAULT_MAX_ERROR


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
        wishes = Wishes(
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
        shape = shape_of(example_input, input_shape, preset)
        module = unwrapped(as_module(model))
        warn_if_original(model, action="exported")
        known = {**noted_provenance(module), **checked_metadata(metadata)}
        if isinstance(module, OnnxModule):
            written, interface = written_graph(module, wishes, known), None
        else:
            refuse_untraceable(module)
            with preserved(module):
                example = example_of(module, example_input, shape)
            batches = batches_for(validation_data, example, is_finite_needed=precision == "int8")
            written, interface = written_files(
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


def _names(path: Path, which: str) -> tuple[str, ...]:
    info: Any = inspected(path)
    return tuple(value["name"] for value in info[which])
