"""The conversion: prepare, trace by each route in turn, name, check, compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion.axes import DynamicAxes
from modelyard.torchtools.conversion.failures import (
    BranchesOnDataError,
    NotRunnableError,
    failure_of,
    told,
)
from modelyard.torchtools.conversion.graphs import finished, opset_of
from modelyard.torchtools.conversion.interface import Interface, besides_the_batch, interface_of
from modelyard.torchtools.conversion.observation import Observed, observed
from modelyard.torchtools.conversion.preparation import prepared
from modelyard.torchtools.conversion.preserving import Contents, preserved
from modelyard.torchtools.conversion.routes import (
    FIRST_TORCH_EXPORT_OPSET,
    Bound,
    Traced,
    bounds_by_torch_export,
    exported_program,
    routes,
    traced,
)
from modelyard.torchtools.conversion.samples import Sample, samples_of
from modelyard.torchtools.conversion.verification import (
    MismatchError,
    Run,
    Verification,
    compared,
    lowest_dtype,
    own_errors_of,
)
from modelyard.torchtools.inputs import Inputs, answer_of, device_of, mapped
from modelyard.torchtools.layers import MB, size_bytes
from modelyard.torchtools.onnx_module import OnnxModule, make_session, run_session
from modelyard.torchtools.parity import difference

DEFAULT_OPSET = 14
# A protobuf message cannot be larger than 2 GiB; the file keeps a margin below that.
LARGEST_FILE_BYTES = 1_500_000_000


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A module ready to be written in any form, with what its answers are.

    Attributes:
        module: The module to trace.
        interface: Names and sizes.
        samples: Inputs and answers to compare with; empty if nothing is compared.
        kind: Name of the class the user passed.
        lowest: The least precise floating dtype it computes in.
        seen: What it does besides computing.
        contents: What it held before it was run.
    """

    module: nn.Module
    interface: Interface
    samples: Sequence[Sample]
    kind: str
    lowest: torch.dtype
    seen: Observed
    contents: Contents

    def compared(self, run: Run, *, lowest: torch.dtype | None = None) -> Verification:
        """Every sample through `run`.

        Args:
            run: What was written.
            lowest: The least precise floating dtype in it, if that is not the module's.

        Raises:
            MismatchError: An answer is off by more than the bounds.
        """
        return compared(
            run,
            self.samples,
            self.interface,
            lowest=lowest or self.lowest,
            own_errors=own_errors_of(self.module, self.interface),
        )

    def ran(self, run: Run) -> Verification:
        """Every sample through `run`; only that it runs, and the shapes, are looked at.

        Raises:
            MismatchError: It fails, or answers with another shape.
        """
        return compared(run, self.samples, self.interface, lowest=None)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A verified conversion.

    Attributes:
        data: The serialised ONNX model.
        route: "torch_export", "torchscript" or "onnx_module".
        verification: What was compared; None where nothing was.
    """

    data: bytes
    route: str
    verification: Verification | None = None

    @property
    def max_abs_diff(self) -> float:
        """Largest difference from eager seen in the verification."""
        return self.verification.max_abs_diff if self.verification else 0.0


def to_onnx(
    model: nn.Module,
    example: Inputs,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic_axes: DynamicAxes | None = None,
    verify: bool = True,
) -> Graph:
    """Convert `model`, in eval mode, and prove the result.

    Args:
        model: Any module; mode, gradients, buffers and random state are left as they were.
        example: An input it runs on; its arguments may be nested, None or constants.
        opset: Opset the file has to have.
        dynamic_axes: Sizes that may vary, by input or output name and axis. None: the batch
            (axis 0) of everything. Empty: nothing varies.
        verify: Whether outputs are compared; the structure is always checked.

    Raises:
        ConversionError: The model is random, no route gives the opset, or the answers differ.
        ConfigError: `dynamic_axes` names what is not there or cannot vary.
    """
    if isinstance(model, OnnxModule):
        return own_graph(model, opset)
    routes(opset)
    with preserved(model):
        subject = subject_of(model, example, dynamic_axes=dynamic_axes, verify=verify)
        return graph_of(subject, opset=opset)


def to_runnable(
    model: nn.Module, example: Inputs, *, dynamic_axes: DynamicAxes | None = None
) -> Graph:
    """A graph to run here: at the default opset, or at the one where torch has a second route.

    Args:
        model: Any module.
        example: An input it runs on.
        dynamic_axes: Sizes that may vary besides the batch, as for `to_onnx`.

    Raises:
        ConfigError: `dynamic_axes` names what is not there or cannot vary.
        ConversionError: Neither works; tells of both.
    """
    if isinstance(model, OnnxModule):
        return Graph(data=model.graph_bytes, route="onnx_module")
    with preserved(model):
        if dynamic_axes is not None:
            dynamic_axes = besides_the_batch(model, example, dynamic_axes)
        subject = subject_of(model, example, dynamic_axes=dynamic_axes)
        try:
            return graph_of(subject, opset=DEFAULT_OPSET, should_suggest=False)
        except ConversionError as first:
            try:
                return graph_of(subject, opset=FIRST_TORCH_EXPORT_OPSET)
            except ConversionError as second:
                raise ConversionError(f"{first} Then: {second}") from second


def own_graph(model: OnnxModule, opset: int) -> Graph:
    """The graph that an `OnnxModule` runs.

    Raises:
        ConversionError: It has another opset.
    """
    found = opset_of(onnx.load_from_string(model.graph_bytes))
    if found != opset:
        raise ConversionError(
            f"This OnnxModule ({model.recipe}) was built at opset {found}, not {opset}. "
            f"Pass opset_version={found}, or build it again from its float model."
        )
    return Graph(data=model.graph_bytes, route="onnx_module")


def subject_of(
    model: nn.Module,
    example: Inputs,
    *,
    dynamic_axes: DynamicAxes | None = None,
    verify: bool = True,
    given: Sequence[Inputs] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Subject:
    """What there is to convert and to compare with. To be called inside `preserved(model)`.

    Args:
        model: Any module.
        example: An input it runs on.
        dynamic_axes: As for `to_onnx`.
        verify: Whether there are to be samples.
        given: The user's own inputs to compare on besides.
        input_names: Names instead of those of `forward`.
        output_names: Names instead of `output`.

    Raises:
        ConversionError: No graph can equal the model, or none of one file hold it.
    """
    module = prepared(model)
    if (size := size_bytes(module)) > LARGEST_FILE_BYTES:
        raise ConversionError(
            f"The weights have {size / MB:.0f} MB; one ONNX file holds at most "
            f"{LARGEST_FILE_BYTES / MB:.0f} MB. Compress the model first."
        )
    device = device_of(module)
    example = mapped(example, lambda tensor: tensor.detach().to(device))
    contents = Contents(module)
    seen = _observed(module, example)
    interface = interface_of(
        module,
        example,
        dynamic_axes=dynamic_axes,
        input_names=input_names,
        output_names=output_names,
    )
    samples = (
        samples_of(module, interface, given, sees_to_missing=seen.sees_to_missing)
        if verify
        else []
    )
    contents.put_back()
    return Subject(
        module=module,
        interface=interface,
        samples=samples,
        kind=type(model).__name__,
        lowest=lowest_dtype(module, samples),
        seen=seen,
        contents=contents,
    )


def graph_of(subject: Subject, *, opset: int, should_suggest: bool = True) -> Graph:
    """The subject as a graph, by the first route whose result is right. Inside `preserved`.

    Args:
        subject: What to convert.
        opset: Opset the graph has to have.
        should_suggest: Whether, where the one route to an old opset fails, a newer opset is tried
            and suggested if it works.

    Raises:
        ConversionError: No route's is; tells what each said.
    """
    failures = []
    for route in routes(opset):
        try:
            return _by(route, subject, opset=opset)
        except Exception as error:  # noqa: BLE001 - the exporters raise anything; the next route may do
            failures.append(failure_of(route, error))
    works = should_suggest and _works_newer(subject, opset=opset)
    raise ConversionError(
        told(
            subject.kind,
            f"ONNX at opset {opset}",
            failures,
            opset=opset,
            working_opset=FIRST_TORCH_EXPORT_OPSET if works else None,
        )
    )


def _works_newer(subject: Subject, *, opset: int) -> bool:
    """Whether the oldest opset with a second route gives what this one does not."""
    if opset >= FIRST_TORCH_EXPORT_OPSET:
        return False
    try:
        graph_of(subject, opset=FIRST_TORCH_EXPORT_OPSET, should_suggest=False)
    except ConversionError:
        return False
    return True


def program_of(subject: Subject) -> Any:
    """The subject through torch.export, taking what `forward` was given. Inside `preserved`."""
    subject.contents.put_back()
    inputs, dims = subject.interface.example, subject.interface.dynamic_dims()
    if isinstance(inputs, dict):
        return exported_program(subject.module, (), inputs, dims)
    if isinstance(inputs, tuple):
        return exported_program(subject.module, inputs, {}, dims)
    return exported_program(subject.module, (inputs,), {}, (dims,))


def refuse_frozen(subject: Subject, *, is_size_frozen: bool, is_for_onnx: bool) -> None:
    """Refuse a trace that would keep what depends on the data, or holds for some sizes only.

    Args:
        subject: What was traced.
        is_size_frozen: Whether the trace turned tensors, then sizes, into Python values.
        is_for_onnx: Whether it was traced for ONNX, which code can know.

    Raises:
        BranchesOnDataError: The module takes Python values from its data.
        MismatchError: Another size takes another way through the code.
    """
    if not subject.samples:
        return
    seen = subject.seen
    taken = seen.values_taken_for_onnx if is_for_onnx else seen.values_taken
    if taken:
        raise BranchesOnDataError(f"it keeps what depends on the data at {taken[0]}")
    if is_size_frozen:
        subject.contents.put_back()
        refuse_bounds(subject, bounds_by_torch_export(subject.module, subject.interface))


def refuse_bounds(subject: Subject, bounds: Sequence[Bound]) -> None:
    """Refuse what holds for some sizes only, if the module itself goes on.

    Raises:
        MismatchError: Names the size.
    """
    interface = subject.interface
    for bound in bounds:
        for size in bound.beyond():
            sizes = {**interface.sizes, bound.name: size}
            subject.contents.put_back()
            try:
                answer_of(subject.module, interface.resized(sizes))
            except Exception:  # noqa: BLE001, S112 - the module itself ends there too
                continue
            raise MismatchError(
                f"the code takes another way at {bound.name} {size}, where what was written does "
                "not follow",
                is_size=True,
            )


def run_of(graph: bytes) -> Run:
    """The graph in ONNX Runtime, as something to compare.

    Raises:
        NotRunnableError: It cannot be run here.
    """
    try:
        session = make_session(graph, threads=1)
    except Exception as error:
        raise NotRunnableError(f"ONNX Runtime refuses the graph: {error}") from error
    return lambda tensors: run_session(session, tensors)


def _by(route: str, subject: Subject, *, opset: int) -> Graph:
    trace = _traced(subject, route, opset=opset)
    if subject.samples:
        refuse_bounds(subject, trace.bounds)
        if route == "torchscript":
            refuse_frozen(subject, is_size_frozen=trace.is_size_frozen, is_for_onnx=True)
    interface = subject.interface
    graph = finished(
        trace.graph, inputs=interface.inputs, outputs=interface.outputs, axes=interface.axes
    )
    found = opset_of(graph)
    if found != opset:
        raise ConversionError(f"asked for opset {opset}, the exporter wrote {found}")
    onnx.checker.check_model(graph, full_check=True)  # shape inference too
    data: bytes = graph.SerializeToString()
    if not subject.samples:
        return Graph(data=data, route=route)
    return Graph(data=data, route=route, verification=subject.compared(run_of(data)))


def _traced(subject: Subject, route: str, *, opset: int) -> Traced:
    """The trace of the module as it was found; or, if it first has to make buffers, after that."""
    module, interface = subject.module, subject.interface
    subject.contents.put_back()
    try:
        return traced(module, interface, route, opset=opset)
    except RuntimeError as error:
        if "state_dict changed" not in str(error):
            raise
        answer_of(module, mapped(interface.example, torch.Tensor.clone))
        return traced(module, interface, route, opset=opset)
    finally:
        subject.contents.put_back()


def _observed(model: nn.Module, example: Inputs) -> Observed:
    """What the module does besides computing.

    Raises:
        ConversionError: It has two answers to one input; says whether chance or a state is behind.
    """
    seen = observed(model, example, _are_equal)
    kind = type(model).__name__
    if seen.is_random:
        raise ConversionError(
            f"{kind} draws random numbers in forward, so it gives two answers to one input and no "
            "graph can be equal to it. Take the sampling out of forward: wrap the part that "
            "computes the distribution, or its mean."
        )
    if not seen.is_repeatable:
        raise ConversionError(
            f"{kind} gives two answers to one input without drawing random numbers: it keeps a "
            "state between calls. Take the state as an input and return the new one."
        )
    return seen


def _are_equal(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        difference(a, b).max_abs == 0 for a, b in zip(first, second, strict=True)
    )
