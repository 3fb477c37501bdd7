"""Shapes of the design document's three models, by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modelyard._core.errors import ConversionError


@dataclass(frozen=True)
class Preset:
    """What one of the models takes and gives, for a batch of one.

    Attributes:
        input_shape: Batch, then time and features.
        output_shape: Batch, then what is given.
        meaning: What the axes are.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    meaning: str


PRESETS = {
    "ts2vec": Preset((1, 256, 4), (1, 128), "batch, time, features -> batch, embedding"),
    "transformer": Preset((1, 64, 155), (1, 256), "batch, time, features -> batch, state"),
    "ppo": Preset((1, 263), (1, 4), "batch, state -> batch, actions"),
}


def check_output(name: str, preset: Preset, outputs: Sequence[torch.Tensor]) -> None:
    """Refuse a model that gives something else.

    Raises:
        ConversionError: Says what it gives and what the preset asks for.
    """
    shapes = [tuple(tensor.shape[1:]) for tensor in outputs]
    if shapes != [preset.output_shape[1:]]:
        given = " and ".join(f"(1, {', '.join(map(str, shape))})" for shape in shapes)
        raise ConversionError(
            f"The preset {name!r} is for models that give {preset.output_shape}; this one gives "
            f"{given}. Pass input_shape instead of the preset."
        )
