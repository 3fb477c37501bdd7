"""What every target is given and gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.torchtools.conversion import Run, Subject, Verification
from modelyard.torchtools.inputs import Inputs

_LONGEST = 400
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One export.

    Attributes:
        subject: The module, its interface and the answers to compare with.
        opset: Of the ONNX graph, also where another format is made from it.
        precision: One of `PRECISIONS`.
        calibration: The user's batches; empty if there are none.
        max_error: Largest relative error allowed to int8.
        should_optimize: Whether a simplified graph is kept where it measures faster.
        metadata: Texts to store in the file.
    """

    subject: Subject
    opset: int
    precision: str
    calibration: Sequence[Inputs]
    max_error: float
    should_optimize: bool
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Written:
    """Verified files of an export, still in memory.

    Attributes:
        files: Their bytes by suffix, in the order they are to be put in place.
        route: How the module was turned into it.
        verification: What was compared; None where nothing was.
        details: What the target has to tell besides.
    """

    files: Mapping[str, bytes]
    route: str
    verification: Verification | None
    details: Mapping[str, Any] = field(default_factory=dict)


class Target(Protocol):
    """A format to export to.

    Attributes:
        suffixes: Endings of its files; the first is the one that is named to others.
        precisions: Those it can be written in.
    """

    suffixes: tuple[str, ...]
    precisions: tuple[str, ...]

    def write(self, job: Job) -> Written:
        """The files, read back and compared with the module.

        Raises:
            ConversionError: They cannot be written, or answer differently.
        """


def verified(
    job: Job, run: Run, what: str, *, lowest: torch.dtype | None = None
) -> Verification | None:
    """Compare what was written with the module, if that is wanted.

    Args:
        job: The export.
        run: What was written, read back.
        what: The format, for messages.
        lowest: The least precise floating dtype in it; None for the module's own.

    Raises:
        ConversionError: The answers differ.
    """
    if not job.subject.samples:
        return None
    try:
        return job.subject.compared(run, lowest=lowest)
    except ConversionError as error:
        raise ConversionError(
            f"{job.subject.kind} as {what} is not the module: {in_short(error)}. Export it as "
            "ONNX, or leave the size named above out of dynamic_axes."
        ) from error


def in_short(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())[:_LONGEST]


def check_precision(target: Target, name: str, precision: str) -> None:
    """Refuse a precision the target has not.

    Raises:
        ConfigError: Names those it has.
    """
    if precision not in target.precisions:
        raise ConfigError(
            f"target={name!r} is written in {', '.join(target.precisions)}, not {precision!r}."
        )
