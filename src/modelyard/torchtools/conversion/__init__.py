"""A module as an ONNX graph that gives the same answers. The only place that converts.

Two routes of torch: "torch_export" (`torch.onnx.export(dynamo=True)`; writes opset 18 or newer)
and "torchscript" (`dynamo=False`; every opset up to 23). Below opset 18 only the second can. What
comes out is run at several sizes on several kinds of input before it is returned: the exporters
freeze a batch, drop a branch or write another opset without a word.
"""

from modelyard.torchtools.conversion.axes import DynamicAxes, checked_axes
from modelyard.torchtools.conversion.converting import (
    DEFAULT_OPSET,
    LARGEST_FILE_BYTES,
    Graph,
    Subject,
    graph_of,
    own_graph,
    program_of,
    refuse_frozen,
    run_of,
    subject_of,
    to_onnx,
    to_runnable,
)
from modelyard.torchtools.conversion.failures import failure_text
from modelyard.torchtools.conversion.graphs import opset_of, opset_of_bytes
from modelyard.torchtools.conversion.interface import Interface
from modelyard.torchtools.conversion.preparation import refuse_untraceable
from modelyard.torchtools.conversion.preserving import preserved
from modelyard.torchtools.conversion.routes import (
    NEWEST_OPSET,
    OLDEST_OPSET,
    routes,
    script_trace,
)
from modelyard.torchtools.conversion.verification import ATOL, RTOL, Run, Verification

__all__ = [
    "ATOL",
    "DEFAULT_OPSET",
    "LARGEST_FILE_BYTES",
    "NEWEST_OPSET",
    "OLDEST_OPSET",
    "RTOL",
    "DynamicAxes",
    "Graph",
    "Interface",
    "Run",
    "Subject",
    "Verification",
    "checked_axes",
    "failure_text",
    "graph_of",
    "opset_of",
    "opset_of_bytes",
    "own_graph",
    "preserved",
    "program_of",
    "refuse_frozen",
    "refuse_untraceable",
    "routes",
    "run_of",
    "script_trace",
    "subject_of",
    "to_onnx",
    "to_runnable",
]
