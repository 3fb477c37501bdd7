"""`ModelExporter`: ONNX files written whole and proved, and what can be asked of them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import psutil
import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard._core.files import write_bytes
from modelyard._core.ids import checked_name
from modelyard.export.inspection import inspected, read_graph
from modelyard.export.optimization import optimized
from modelyard.export.records import ModelInfo, OnnxBenchmark, OutputComparison
from modelyard.torchtools.conversion import ATOL, DEFAULT_OPSET, RTOL, to_onnx
from modelyard.torchtools.inputs import (
    Inputs,
    as_inputs,
    call,
    resolve_example,
    tensors_of,
)
from modelyard.torchtools.layers import MB, evaluating, unwrapped
from modelyard.torchtools.onnx_module import OnnxModule, make_session, run_session
from modelyard.torchtools.originals import warn_if_original
from modelyard.torchtools.parity import difference, flat_outputs, worst
from modelyard.torchtools.signature import check_input, noted_signature
from modelyard.torchtools.timing import summarized, time_calls

# A protobuf message cannot be larger than 2 GiB; the file keeps a margin below that.
_LARGEST_FILE_BYTES = 1_500_000_000


class ModelExporter:
    """Writes models as ONNX files. Stateless but for the folder; thread-safe.

    Args:
        output_dir: Folder for the files; made at the first export.
    """

    def __init__(self, output_dir: str | Path = "models/onnx") -> None:
        self.output_dir = Path(output_dir)

    def export_to_onnx(
        self,
        model: nn.Module,
        model_name: str,
        input_shape: Sequence[int] | None = None,
        opset_version: int = DEFAULT_OPSET,
        dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
        verify: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        optimize: bool = True,
        example_input: Any = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Write `<output_dir>/<model_name>.onnx`, whole and verified or not at all.

        One input and one output are named `input` and `output`; several take the argument names
        of `forward` and `output_0`, `output_1`...

        Args:
            model: Any module, also an `OnnxModule`, whose graph is the export. Not changed.
            model_name: Name of the file without `.onnx`.
            input_shape: Shape of one float32 input, batch first; only describes the input: with a
                dynamic batch, other sizes are tried too.
            opset_version: The opset the file has in the end.
            dynamic_axes: Sizes that may vary, as `{"input": {0: "batch_size"}}`. None: the batch
                of everything. `{}`: nothing varies.
            verify: Compare with the model at several batch sizes and kinds of input.
            optimize: Keep a simplified graph where it measures faster and answers the same.
            example_input: Tensor, or tuple or dict of tensors, instead of `input_shape`.
            metadata: Texts to store in the file.

        Returns:
            The file's path.

        Raises:
            ConversionError: The model cannot be converted faithfully at this opset; an older file
                of this name stays.
            ExampleInputRequiredError: No input was given and none can be inferred.
            ConfigError: A name with odd characters, or unknown names in `dynamic_axes`.
        """
        checked_name(model_name, what="model_name")
        module = unwrapped(model)
        warn_if_original(model, action="exported")
        example = self._example(module, example_input, input_shape)
        graph = to_onnx(
            module, example, opset=opset_version, dynamic_axes=dynamic_axes, verify=verify
        )
        data = graph.data
        if optimize and not isinstance(module, OnnxModule):
            data = optimized(data, example)
        path = self.output_dir / f"{model_name}.onnx"
        write_bytes(path, _with_metadata(data, metadata))
        return str(path)

    def get_model_info(self, onnx_path: str | Path) -> ModelInfo:
        """Inputs, outputs, operators, size and metadata of an ONNX file.

        Raises:
            NotFoundError: There is no such file.
            InputError: It is no ONNX model.
        """
        return inspected(onnx_path)

    def compare_outputs(
        self,
        pytorch_model: nn.Module,
        onnx_path: str | Path,
        test_input: Any,
        *,
        rtol: float = RTOL,
        atol: float = ATOL,
    ) -> OutputComparison:
        """How far the file's answers are from the module's on `test_input`.

        Args:
            pytorch_model: The module, run in eval mode.
            onnx_path: The file.
            test_input: Tensor, or tuple or dict of tensors, batch first.
            rtol: Part of the output's size that a difference may have.
            atol: Difference allowed besides.

        Raises:
            NotFoundError, InputError: The file is missing or no ONNX model.
        """
        inputs = as_inputs(test_input)
        graph = read_graph(onnx_path)
        with evaluating(pytorch_model):
            expected = flat_outputs(call(pytorch_model, inputs))
        actual = run_session(make_session(Path(onnx_path).read_bytes()), tensors_of(inputs))
        gaps = [difference(want, got) for want, got in zip(expected, actual, strict=True)]
        names = [value.name for value in graph.graph.output]
        total = worst(gaps)
        return {
            "max_abs_diff": total.max_abs,
            "max_rel_diff": total.max_rel,
            "mean_abs_diff": total.mean_abs,
            "is_close": all(gap.is_within(rtol=rtol, atol=atol) for gap in gaps),
            "rtol": rtol,
            "atol": atol,
            "outputs": {
                name: {
                    "max_abs_diff": gap.max_abs,
                    "max_rel_diff": gap.max_rel,
                    "mean_abs_diff": gap.mean_abs,
                    "is_close": gap.is_within(rtol=rtol, atol=atol),
                }
                for name, gap in zip(names, gaps, strict=True)
            },
        }

    def benchmark_onnx(
        self,
        onnx_path: str | Path,
        input_shape: Sequence[int],
        num_iterations: int = 1000,
        warmup_iterations: int = 10,
    ) -> OnnxBenchmark:
        """Latency of the file in ONNX Runtime, one call after another.

        Args:
            onnx_path: The file.
            input_shape: Of each call, batch first.
            num_iterations: Calls measured, 1 or more.
            warmup_iterations: Calls before that.

        Raises:
            NotFoundError, InputError: The file is missing or no ONNX model.
            ConfigError: `num_iterations` below 1.
        """
        if num_iterations < 1:
            raise ConfigError(f"num_iterations must be 1 or more, got {num_iterations}.")
        read_graph(onnx_path)
        process = psutil.Process(os.getpid())
        before = process.memory_info().rss
        session = make_session(Path(onnx_path).read_bytes())
        tensors = _inputs_for(session, input_shape)
        durations = time_calls(
            lambda: run_session(session, tensors), n=num_iterations, warmup=warmup_iterations
        )
        return {
            **summarized(durations, items_per_call=int(input_shape[0])),
            "memory_mb": max(0.0, (process.memory_info().rss - before) / MB),
            "n_threads": torch.get_num_threads(),
            "input_shape": [int(size) for size in input_shape],
            "num_iterations": num_iterations,
        }

    @staticmethod
    def _example(model: nn.Module, given: Any, shape: Sequence[int] | None) -> Inputs:
        if isinstance(model, OnnxModule) and given is None and shape is None:
            return torch.empty(0)  # its graph is the export; nothing is traced
        inputs = resolve_example(model, given, shape=shape)
        signature = noted_signature(model)
        if signature is not None:
            check_input(signature, inputs)
        return inputs


def _inputs_for(session: Any, shape: Sequence[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        wanted = ", ".join(f"{value.name} {value.shape} {value.type}" for value in inputs)
        raise ConfigError(f"benchmark_onnx needs a graph with one float input; it takes {wanted}.")
    return [torch.randn(tuple(shape), generator=generator)]


def _with_metadata(data: bytes, metadata: Mapping[str, str] | None) -> bytes:
    if metadata:
        model = onnx.load_from_string(data)
        onnx.helper.set_model_props(model, {k: str(v) for k, v in metadata.items()})
        data = model.SerializeToString()
    if len(data) > _LARGEST_FILE_BYTES:
        raise ConversionError(
            f"The graph has {len(data) / MB:.0f} MB; one ONNX file holds at most "
            f"{_LARGEST_FILE_BYTES / MB:.0f} MB. Compress the model first."
        )
    return data
