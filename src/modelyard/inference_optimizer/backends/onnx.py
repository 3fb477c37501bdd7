"""ONNX Runtime on the module's verified graph."""

from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.inputs import Inputs, call, tensors_of
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.torchtools.parity import flat_outputs, restructured


def make_onnxruntime(model: nn.Module, example: Inputs, _: torch.device) -> Backend:
    """The module as an ONNX graph; answers keep the structure the module gives them."""
    session = make_session(to_runnable(model, example).data)
    answer = call(model, example)
    is_single = len(flat_outputs(answer)) == 1 and isinstance(answer, torch.Tensor)

    def run(inputs: Inputs) -> Any:
        outputs = run_session(session, tensors_of(inputs))
        return outputs[0] if is_single else restructured(answer, outputs)

    lean = None
    if is_single and isinstance(example, torch.Tensor):
        name = session.get_inputs()[0].name
        outs = [session.get_outputs()[0].name]
        lean = lambda a: session.run(outs, {name: a})[0]  # noqa: E731
    return Backend(name="onnxruntime", run=run, run_array=lean)
