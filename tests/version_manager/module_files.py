"""A module taken apart at once, as a save does in two steps."""

from dataclasses import dataclass

import torch

from modelyard.version_manager.module_format import description_of, storable_tensors


@dataclass(frozen=True)
class ModuleFiles:
    tensors: dict[str, torch.Tensor]
    description: bytes | None
    reason: str | None


def to_files(model):
    return ModuleFiles(storable_tensors(model), *description_of(model))
