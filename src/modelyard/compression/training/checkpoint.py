"""A training on disk: written whole after every epoch, read without running anything.

The file is a line that names the format, the blake3 digest of the rest, and what `torch.save`
writes of tensors and plain values. It is read with `weights_only=True`, so no code in it runs; the
digest is there because torch itself does not notice flipped bits.
"""

import io
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import nn

from modelyard._core.errors import ConfigError, IntegrityError
from modelyard._core.files import write_bytes
from modelyard.compression.records import DistillationEpoch
from modelyard.compression.training.plan import TrainingPlan
from modelyard.torchtools.layers import own_tensors

_FORMAT = b"modelyard training 1\n"
_DIGEST_BYTES = 32
_MOST_SHOWN = 5
_START = "start"
# What differs where the values themselves, digests, tell nobody anything.
_SAID = {
    "teacher": "the teacher's weights differ",
    "masks": "other weights are pruned",
    _START: "the model has other weights than those it started from or left",
}

Identity = dict[str, Any]
Weights = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a training stands at the end of an epoch.

    Attributes:
        identity: What the training is; see `identity_of`.
        history: One record an epoch that is done.
        weights: Of the model, as its state dict.
        best_weights: The best so far, perhaps those of the start; None without validation.
        best_figure: What they were judged at.
        optimizer: Its state.
        projectors: (position, width in, width out, weights) of each, in the optimizer's order.
        generators: State of each of the loader's own generators.
        n_batches: Of an epoch.
    """

    identity: Identity
    history: list[DistillationEpoch]
    weights: Weights
    best_weights: Weights | None
    best_figure: float | None
    optimizer: dict[str, Any]
    projectors: list[tuple[int, int, int, Weights]]
    generators: list[torch.Tensor]
    n_batches: int | None


def identity_of(
    plan: TrainingPlan,
    model: nn.Module,
    teacher: nn.Module | None,
    *,
    masks: Mapping[str, torch.Tensor] | None = None,
    **parts: bool,
) -> Identity:
    """What must be equal for a training to go on: plan, model, masks, teacher, parts.

    Args:
        plan: Every option.
        model: Its tensors' names, shapes, types and which of them are trained, and a digest of
            the values it starts from.
        teacher: With its values, as a digest.
        masks: Ones where a weight stays and zeros where it is held at zero, as a digest.
        parts: Whether there is a validation loader, a loss function, and so on.
    """
    identity: Identity = {f"plan.{name}": _plain(value) for name, value in vars(plan).items()}
    identity |= {f"has_{name}": value for name, value in parts.items()}
    identity |= {
        f"model.{name}": f"{tensor.dtype} {tuple(tensor.shape)}"
        + (", trained" if tensor.requires_grad else "")
        for name, tensor in own_tensors(model)
    }
    identity["teacher"] = None if teacher is None else _digest_of(own_tensors(teacher))
    identity["masks"] = _digest_of(sorted(masks.items())) if masks else None
    identity[_START] = _digest_of_weights(model.state_dict())
    return identity


def place_of(
    path: str | Path | None,
    plan: TrainingPlan,
    model: nn.Module,
    teacher: nn.Module | None,
    *,
    masks: Mapping[str, torch.Tensor] | None = None,
    **parts: object,
) -> tuple[Path, Identity] | None:
    """Where a training is kept and what it is; None without a path.

    Args:
        path: As the caller gave it.
        plan: Every option.
        model: Is trained.
        teacher: Teaches, if there is one.
        masks: Hold pruned weights at zero, if there are any.
        parts: What else there may be: a validation loader, a loss function.
    """
    if path is None:
        return None
    given = {name: part is not None for name, part in parts.items()}
    return Path(path), identity_of(plan, model, teacher, masks=masks, **given)


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: a NumPy number in the file could not be read back."""
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.loads(json.dumps(plain, default=float))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Put the checkpoint in the place of an older one, whole or not at all."""
    buffer = io.BytesIO()
    fields = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    torch.save(fields, buffer)
    data = buffer.getvalue()
    write_bytes(path, _FORMAT + blake3(data).digest() + data)


def read(path: Path, identity: Identity) -> Checkpoint | None:
    """The checkpoint at `path`; None where there is no file.

    Args:
        path: Where it is.
        identity: Of the training that is to go on. Its model may have the weights that the
            checkpoint's training started from, or those it was left with: a call that was
            interrupted is made again on a new copy, or on the object it had begun to change.

    Raises:
        IntegrityError: The file is damaged or something else.
        ConfigError: It is of another training; the message says what differs.
    """
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(_FORMAT) + _DIGEST_BYTES
    data = whole[start:]
    if not whole.startswith(_FORMAT) or blake3(data).digest() != whole[len(_FORMAT) : start]:
        raise _damaged(path, "its content is not what was written")
    try:
        fields = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        found = Checkpoint(**fields)
    except (RuntimeError, pickle.UnpicklingError, TypeError, EOFError) as error:
        raise _damaged(path, str(error)) from error
    _check_identity(path, found, identity)
    return found


def _check_identity(path: Path, found: Checkpoint, here: Mapping[str, Any]) -> None:
    there = found.identity
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if _START in names and here[_START] in _digests_left_by(found):
        names.remove(_START)
    if not names:
        return
    shown = [_shown(name, there.get(name), here.get(name)) for name in names[:_MOST_SHOWN]]
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    raise ConfigError(
        f"The checkpoint {path} is of another training: {'; '.join(shown)}{more}. Train as it "
        "says, choose another path, or delete it to start again."
    )


def _digests_left_by(found: Checkpoint) -> list[str]:
    """Of the weights that a model may have been left with when the checkpoint was written."""
    left = (found.weights, found.best_weights)
    return [_digest_of_weights(weights) for weights in left if weights is not None]


def _shown(name: str, there: Any, here: Any) -> str:
    if name in _SAID:
        return _SAID[name]
    name = name.removeprefix("plan.")
    return f"{name} is {there!r} there, {here!r} here"


def _digest_of_weights(weights: Mapping[str, Any]) -> str:
    return _digest_of(
        (name, value) for name, value in weights.items() if isinstance(value, torch.Tensor)
    )


def _digest_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = blake3()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return str(digest.hexdigest())


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"The checkpoint {path} cannot be read: {why}. Delete it to start the training again."
    )


def copied(weights: Mapping[str, Any]) -> Weights:
    """The same state dict with tensors of its own."""
    return {
        name: value.detach().clone() if isinstance(value, torch.Tensor) else value
        for name, value in weights.items()
    }


def states_of(generators: Iterable[torch.Generator]) -> list[torch.Tensor]:
    """State of each generator."""
    return [generator.get_state() for generator in generators]
