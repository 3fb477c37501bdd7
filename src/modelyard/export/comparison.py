"""How far a file's answers are from a module's."""

from pathlib import Path

from torch import nn

from modelyard._core.errors import InputError
from modelyard.export.inspection import read_graph
from modelyard.export.records import OutputComparison
from modelyard.torchtools.inputs import Inputs, answer_of, copied_for
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.onnx_module import in_order, make_session, run_session
from modelyard.torchtools.parity import difference, flat_outputs, worst


def compared_with_file(
    module: nn.Module, path: Path, inputs: Inputs, *, rtol: float, atol: float
) -> OutputComparison:
    """Differences of each output and the worst of them.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is no ONNX model, or one of the two does not take the input.
    """
    graph = read_graph(path)
    try:
        with evaluating(module):
            expected = flat_outputs(answer_of(module, copied_for(module, inputs)))
    except Exception as error:
        raise InputError(
            f"{type(module).__name__} does not run on test_input: {type(error).__name__}: {error}"
        ) from error
    try:
        session = make_session(path)
        actual = run_session(session, in_order(inputs, session))
    except Exception as error:
        raise InputError(f"{str(path)!r} does not run on test_input: {error}") from error
    names = [value.name for value in graph.graph.output]
    if len(actual) != len(expected):
        raise InputError(
            f"The module gives {len(expected)} tensors, {str(path)!r} gives {len(actual)} "
            f"({', '.join(names)}): it was made from another model."
        )
    gaps = [difference(want, got) for want, got in zip(expected, actual, strict=True)]
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
