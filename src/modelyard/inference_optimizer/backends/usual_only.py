"""A backend for usual numbers only; inputs with others go to PyTorch.

OpenVINO makes a number of NaN in every ReLU. A module that can have NaN only from its input is
served by it all the same when inputs with NaN go elsewhere.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from modelyard.inference_optimizer.backends.base import Array, Backend
from modelyard.torchtools.inputs import Inputs, tensors_of

# Sizes that prices and volumes have.
LARGEST = 1e6
_NUMPYS = frozenset({torch.float32, torch.float64})
_SUMMED_BYTES = 4  # float16 cannot hold the sum


def usual_only(backend: Backend, eager: Backend) -> Backend:
    """The backend, with eager for inputs that hold NaN, infinity or what is beyond `LARGEST`.

    Args:
        backend: Answers the others.
        eager: The module itself.
    """
    run, run_array = backend.run, backend.run_array

    def run_usual(inputs: Inputs) -> Any:
        return run(inputs) if is_usual(inputs) else eager.run(inputs)

    if run_array is None:
        return replace(backend, run=run_usual, is_usual_only=True)

    def run_usual_array(array: Array) -> Array:
        if _is_usual_array(array):
            return run_array(array)
        # A copy each way: the caller's may be read-only, and the module may answer with its input.
        answer: Array = eager.run(torch.from_numpy(array.copy())).detach().numpy().copy()
        return answer

    return replace(backend, run=run_usual, run_array=run_usual_array, is_usual_only=True)


def is_usual(inputs: Inputs) -> bool:
    """Whether every float of an input is a number of at most `LARGEST` in size."""
    return all(map(_is_usual_tensor, tensors_of(inputs)))


def _is_usual_tensor(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    plain = tensor.detach()
    if plain.is_cpu and plain.dtype in _NUMPYS:
        return _is_usual_array(plain.resolve_neg().numpy())
    return bool((plain.abs() <= _limit(torch.finfo(plain.dtype))).all())


def _is_usual_array(array: Array) -> bool:
    if array.dtype.kind not in "fc":
        return True
    flat = array.reshape(-1)
    # One pass for nearly all, and no array made; false of NaN and infinity. vdot, because dot
    # warns where the sum is infinite.
    if array.itemsize >= _SUMMED_BYTES and abs(np.vdot(flat, flat)) <= LARGEST**2:
        return True
    return bool((np.abs(flat) <= _limit(np.finfo(array.dtype))).all())


def _limit(numbers: Any) -> float:
    """The largest usual number of a type: `LARGEST` is infinity in float16."""
    return min(LARGEST, float(numbers.max))
