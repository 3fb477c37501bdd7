"""Intermediate features: layers of the student that imitate layers of the teacher.

Where a pair differs in width, a linear map from the student's width to the teacher's is trained
with the student and thrown away afterwards (Romero et al., 2015, FitNets, section 2.2).
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.training.losses import first_output
from modelyard.torchtools.layers import named_parts

_N_NEAR = 5


class FeatureMatch:
    """Gathers what pairs of layers answer and compares it.

    Args:
        teacher: Its layers are named by the keys of `pairs`.
        student: Its layers are named by the values.
        pairs: Layers by full name, as in `named_modules`.

    Attributes:
        projectors: By position of the pair; a pair of equal widths has none.

    Raises:
        ConfigError: A name that is no layer.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, pairs: Mapping[str, str]) -> None:
        self.projectors: dict[int, nn.Linear] = {}
        self._pairs = list(pairs.items())
        self._wanted_layers = [_layer(teacher, name, "teacher") for name in pairs]
        self._answer_layers = [_layer(student, name, "student") for name in pairs.values()]
        self._wanted: dict[int, Any] = {}
        self._answers: dict[int, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on both models inside the block, none after it."""
        with ExitStack() as hooks:
            for gathered, layers in (
                (self._wanted, self._wanted_layers),
                (self._answers, self._answer_layers),
            ):
                for position, layer in enumerate(layers):
                    handle = layer.register_forward_hook(_keeping(gathered, position))
                    hooks.callback(handle.remove)
            try:
                yield
            finally:
                self.forget()

    def forget(self) -> None:
        """Let go of what was gathered."""
        self._wanted.clear()
        self._answers.clear()

    def loss(self) -> torch.Tensor:
        """Mean over the pairs of the mean squared error of their latest answers.

        Of a layer that ran several times the last answer counts, of an answer of several tensors
        the first floating one.

        Raises:
            InputError: A layer did not run, or shapes differ in more than the width.
        """
        losses = [self._loss_of(position) for position in range(len(self._pairs))]
        return torch.stack(losses).mean()

    def parameters(self) -> list[nn.Parameter]:
        """Of the projectors there are so far."""
        return [p for projector in self.projectors.values() for p in projector.parameters()]

    def add_projector(self, position: int, n_in: int, n_out: int, device: torch.device) -> None:
        """Make the projector of a pair, from torch's own random state."""
        # On the CPU first: the same weights wherever it is going to be.
        self.projectors[position] = nn.Linear(n_in, n_out).to(device)

    def _loss_of(self, position: int) -> torch.Tensor:
        wanted_name, answer_name = self._pairs[position]
        if position not in self._wanted or position not in self._answers:
            which = "teacher's" if position not in self._wanted else "student's"
            name = wanted_name if position not in self._wanted else answer_name
            raise InputError(f"The {which} layer {name!r} did not run: no features to match.")
        answer = first_output(self._answers[position])
        wanted = first_output(self._wanted[position]).to(answer.device, answer.dtype)
        dimension = _width_dimension(answer, wanted)
        if dimension is None:
            raise InputError(
                f"Features of {answer_name!r} have shape {tuple(answer.shape)}, those of the "
                f"teacher's {wanted_name!r} {tuple(wanted.shape)}; they may differ in one "
                "dimension, which is not the batch."
            )
        if answer.shape != wanted.shape:
            answer = self._projected(position, answer, dimension, wanted.shape[dimension])
        return functional.mse_loss(answer, wanted)

    def _projected(
        self, position: int, answer: torch.Tensor, dimension: int, width: int
    ) -> torch.Tensor:
        if position not in self.projectors:
            self.add_projector(position, answer.shape[dimension], width, answer.device)
        projected: torch.Tensor = self.projectors[position](answer.movedim(dimension, -1))
        return projected.movedim(-1, dimension)


def _width_dimension(answer: torch.Tensor, wanted: torch.Tensor) -> int | None:
    """The one dimension in which the shapes differ (the last if in none); None for others."""
    if answer.ndim != wanted.ndim:
        return None
    sizes = enumerate(zip(answer.shape, wanted.shape, strict=True))
    unequal = [dimension for dimension, (mine, other) in sizes if mine != other]
    if not unequal:
        return answer.ndim - 1
    return unequal[0] if len(unequal) == 1 and unequal[0] > 0 else None


def _keeping(gathered: dict[int, Any], position: int) -> Callable[..., None]:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        gathered[position] = output

    return keep


def _layer(model: nn.Module, name: str, whose: str) -> nn.Module:
    layers = dict(named_parts(model))
    if name in layers and name:
        return layers[name]
    known = [known for known in layers if known]
    near = difflib.get_close_matches(str(name), known, n=_N_NEAR, cutoff=0.4) or known[:_N_NEAR]
    raise ConfigError(
        f"The {whose} ({type(model).__name__}) has no layer {name!r}. "
        f"Near names: {', '.join(near) or 'none'}. list(dict(model.named_modules())) has all."
    )
