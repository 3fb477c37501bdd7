"""Whether a backend gives eager's answers: on several inputs, at several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.torchtools.inputs import Inputs, synthetic_like, with_batch
from modelyard.torchtools.parity import Difference, differences, outputs_by_path, worst

# Besides the batch sizes that matter: a size nobody measures, on values ten times as large.
_ODD_SIZE = 3
_LARGE = 10.0
# Rounding inside a module does not shrink with what is left of it in the end. An output smaller
# than this may be off by so many times eager's own error, up to what one of this size may be.
SMALL = 1e-2
_OWN_ERRORS = 4.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """In the place of an answer: the input was refused with an error."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An input and eager's answer.

    Attributes:
        n: Batch size.
        inputs: What is asked.
        want: What eager answers; a `Refusal` where it raises.
        is_hard: Whether it is of a kind that engines are known to differ on, and so no measure of
            how far off a backend is in use.
        is_beyond_half: Whether its values are more than float16 can hold.
    """

    n: int
    inputs: Inputs
    want: Any
    is_hard: bool = False
    is_beyond_half: bool = False


@dataclass(frozen=True, kw_only=True)
class Check:
    """How a backend's answers compare with eager's.

    Attributes:
        problem: Why it may not be used, in words; empty where it may.
        max_abs_diff: Largest difference, of hard inputs only where it is a problem; None where the
            answers have another form.
    """

    problem: str
    max_abs_diff: float | None


def inputs_to_check(example: Inputs, batch_sizes: Sequence[int], *, seed: int) -> list[Inputs]:
    """The example's own values and made-up ones at each batch size, then an odd size and scale.

    Args:
        example: An input; integers of the made-up ones are drawn from its own.
        batch_sizes: Those that matter.
        seed: Of what is made up.
    """
    own = [with_batch(example, n) for n in batch_sizes]
    normal = [synthetic_like(example, n, seed=seed + n) for n in (*batch_sizes, _ODD_SIZE)]
    return [*own, *normal, synthetic_like(example, _ODD_SIZE, seed=seed, scale=_LARGE)]


def checked(
    samples: Sequence[Sample],
    answers: Sequence[Any],
    *,
    tolerance: float,
    own_errors: Callable[[], Sequence[float]] = lambda: (),
) -> Check:
    """Compare answers with eager's.

    Args:
        samples: What was asked, and eager's answers.
        answers: The backend's, one a sample; a `Refusal` where it raised as eager did.
        tolerance: Bound on the difference, as part of the output's size.
        own_errors: Tells what eager itself is off by in each output; asked for small outputs only.
    """
    if all(isinstance(sample.want, Refusal) for sample in samples):
        return Check(problem="eager answers none of the inputs to compare on", max_abs_diff=None)
    gaps, usual, is_within = [], [], True
    for sample, answer in zip(samples, answers, strict=True):
        if isinstance(sample.want, Refusal):
            if not isinstance(answer, Refusal):
                return Check(problem="answers an input that eager refuses", max_abs_diff=None)
            continue
        if problem := _other_form(sample.want, answer):
            return Check(problem=problem, max_abs_diff=None)
        found = differences(sample.want, answer)
        is_within = is_within and are_within(found, tolerance, own_errors)
        gaps += found
        usual += [] if sample.is_hard else found
    # An answer of infinite difference has another shape, or is NaN where eager is not.
    if (gap := worst(gaps)).max_abs == float("inf"):
        return Check(
            problem="differs from eager in shape, or by NaN or infinity", max_abs_diff=None
        )
    if is_within:
        return Check(problem="", max_abs_diff=worst(usual or gaps).max_abs)
    return Check(
        problem=(
            f"differs from eager by {gap.max_abs:.3g}; the tolerance is {tolerance:g} of the "
            "output's size"
        ),
        max_abs_diff=gap.max_abs,
    )


def are_within(
    gaps: Sequence[Difference], tolerance: float, own_errors: Callable[[], Sequence[float]]
) -> bool:
    """Whether answers that differ so much are equal but for rounding.

    Args:
        gaps: How far each output is from eager's.
        tolerance: Bound on the difference, as part of the output's size.
        own_errors: As for `checked`.
    """
    over = [i for i, gap in enumerate(gaps) if gap.max_abs > tolerance * gap.scale]
    if not over:
        return True
    if any(gaps[i].max_abs > tolerance * SMALL for i in over):
        return False
    own = own_errors()
    return len(own) == len(gaps) and all(gaps[i].max_abs <= _OWN_ERRORS * own[i] for i in over)


def _other_form(want: Any, got: Any) -> str:
    """How the structure or the dtypes differ, in words; empty where they agree."""
    wanted, given = outputs_by_path(want), outputs_by_path(got)
    if type(want) is not type(got) or list(wanted) != list(given):
        return f"answers with a {type(got).__name__} of another structure than eager's"
    for expected, actual in zip(wanted.values(), given.values(), strict=True):
        if expected.dtype != actual.dtype:
            return f"answers with {actual.dtype}; eager's is {expected.dtype}"
    return ""
