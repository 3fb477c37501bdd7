"""Running a batch so that a request that fails takes no other with it."""

from collections.abc import Callable, Sequence
from typing import Any

from modelyard._core.errors import InputError

RunBatch = Callable[[list[Any]], Sequence[Any]]
Failures = dict[int, BaseException]
"""Errors by place in the batch."""


def answers_of(run_batch: RunBatch, prepared: list[Any]) -> tuple[Sequence[Any], Failures]:
    """The answer, or the error, of each request.

    A batch that raises is split in halves until the culprits stand alone: one culprit among `n`
    costs about two calls for every doubling of `n`. A KeyboardInterrupt is nobody's fault, so that
    all get it and nothing runs again.

    Args:
        run_batch: Gives the answers in order.
        prepared: What it takes, one or more.

    Returns:
        As many answers as requests, and the errors of those that have none.
    """
    try:
        answers = run_batch(prepared)
    except KeyboardInterrupt as error:
        return prepared, dict.fromkeys(range(len(prepared)), error)
    except BaseException as error:  # noqa: BLE001 - whatever a model raises belongs to its request
        if len(prepared) == 1:
            return prepared, {0: error}
        return _of_halves(run_batch, prepared)
    try:
        n_answers = len(answers)
    except TypeError:
        n_answers = None
    if n_answers == len(prepared):
        return answers, {}
    return prepared, {
        i: _miscounted(answers, n_answers, len(prepared)) for i in range(len(prepared))
    }


def _of_halves(run_batch: RunBatch, prepared: list[Any]) -> tuple[Sequence[Any], Failures]:
    middle = len(prepared) // 2
    left, left_failures = answers_of(run_batch, prepared[:middle])
    stopped = next((e for e in left_failures.values() if isinstance(e, KeyboardInterrupt)), None)
    if stopped is not None:
        return prepared, dict.fromkeys(range(len(prepared)), stopped)
    right, right_failures = answers_of(run_batch, prepared[middle:])
    failures = left_failures | {middle + i: error for i, error in right_failures.items()}
    return [*left, *right], failures


def _miscounted(answers: Any, n_answers: int | None, n_requests: int) -> InputError:
    given = f"{n_answers} answers" if n_answers is not None else f"a {type(answers).__name__}"
    return InputError(
        f"run_batch gave {given} to {n_requests} requests, so that nobody knows whose they are. "
        "It has to return one answer for each request, in order."
    )
