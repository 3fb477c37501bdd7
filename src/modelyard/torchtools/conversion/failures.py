"""Why a conversion failed, and the one thing to do about it."""

import re
from dataclasses import dataclass
from enum import Enum

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion.routes import (
    FIRST_TORCH_EXPORT_OPSET,
    LAST_TORCHSCRIPT_OPSET,
    branch_in,
)
from modelyard.torchtools.conversion.verification import MismatchError

_LONGEST = 400
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Cause(Enum):
    """What was wrong with a route's result, the most telling first."""

    BRANCH = "a branch or value depends on the data"
    SIZE = "a size is frozen"
    DIFFERENT = "the answers differ"
    NO_KERNEL = "the runtime cannot run it"
    NOT_WRITTEN = "the exporter fails"


class BranchesOnDataError(ConversionError):
    """A trace would keep one branch of several, or a value that depends on the input."""


class NotRunnableError(ConversionError):
    """The runtime refuses the graph."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One route's failure.

    Attributes:
        route: "torch_export", "torchscript".
        cause: What was wrong.
        message: What it said, short.
    """

    route: str
    cause: Cause
    message: str


def failure_of(route: str, error: Exception) -> Failure:
    """The failure behind an exception of a route."""
    text = _text_of(error)
    if isinstance(error, MismatchError):
        cause = Cause.SIZE if error.is_size else Cause.DIFFERENT
    elif isinstance(error, BranchesOnDataError):
        cause = Cause.BRANCH
    elif (place := _branch_behind(error)) is not None:
        cause, text = Cause.BRANCH, f"it depends on the data at {place}"
    elif isinstance(error, NotRunnableError):
        cause = Cause.NO_KERNEL
    elif "Constraints violated" in text or "specialized" in text:
        cause = Cause.SIZE
    else:
        cause = Cause.NOT_WRITTEN
    return Failure(route=route, cause=cause, message=text[:_LONGEST])


def _branch_behind(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, Exception) and (place := branch_in(error)) is not None:
            return place
        error = error.__cause__
    return None


def _text_of(error: Exception) -> str:
    """The reason, without the exporter's general advice around it."""
    while type(error).__module__.startswith("torch.onnx") and isinstance(
        error.__cause__, Exception
    ):
        error = error.__cause__
    text = _COLOURS.sub("", str(error)).split("\n\n")[0]
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def told(
    kind: str,
    what: str,
    failures: list[Failure],
    *,
    opset: int | None = None,
    working_opset: int | None = None,
) -> str:
    """The error's text: what each route said, and one remedy.

    Args:
        kind: Name of the module's class.
        what: What was asked for, as "opset 14".
        failures: Of each route tried, in order.
        opset: For ONNX, the opset asked for.
        working_opset: One that was seen to work instead, if any.
    """
    tried = " ".join(f"Tried {failure.route}: {failure.message}." for failure in failures)
    if opset is not None and len(failures) == 1:
        tried += f" {_why_no_other(opset)}"
    advice = remedy(failures, opset=opset)
    if working_opset is not None:
        advice = f"opset_version={working_opset} works: its other route keeps what this one loses."
    return f"{kind} could not be converted to {what}. {tried} {advice}"


def failure_text(kind: str, what: str, route: str, error: Exception) -> str:
    """The text for a single route's failure.

    Args:
        kind: Name of the module's class.
        what: What was asked for, as "TorchScript".
        route: The route's name.
        error: What it raised.
    """
    return told(kind, what, [failure_of(route, error)])


def remedy(failures: list[Failure], *, opset: int | None = None) -> str:
    """The one thing to try first."""
    causes = [failure.cause for failure in failures]
    if Cause.BRANCH in causes:
        return (
            "forward takes a Python value from its data, as for branches on the data, and a trace "
            "freezes it: compute both sides and choose with torch.where, or compile that part "
            "with torch.jit.script and export to ONNX at opset "
            f"{LAST_TORCHSCRIPT_OPSET} or older."
        )
    if Cause.SIZE in causes:
        return (
            "A size was frozen, or a loop over it: take it from x.shape without int(), replace "
            "the loop by a tensor operation, or leave the size out of dynamic_axes."
        )
    if Cause.DIFFERENT in causes:
        return (
            "An operation is translated wrongly, or a value of the example was kept: export parts "
            'of the module to find which, or use target="torch_export".'
        )
    if Cause.NO_KERNEL in causes:
        return (
            "ONNX Runtime has no kernel for this operator and type here: use float32, or another "
            "opset."
        )
    if opset is not None and opset > LAST_TORCHSCRIPT_OPSET:
        return f"Try opset_version={LAST_TORCHSCRIPT_OPSET} or older, which has a second route."
    return "Replace the operation named above, or pass an example_input it can be traced on."


def _why_no_other(opset: int) -> str:
    if opset < FIRST_TORCH_EXPORT_OPSET:
        return f"(torch_export writes opset {FIRST_TORCH_EXPORT_OPSET} and newer only.)"
    return f"(torchscript writes opset {LAST_TORCHSCRIPT_OPSET} and older only.)"
