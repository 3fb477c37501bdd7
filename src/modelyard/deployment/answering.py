"""The way of one request: who answers it, who stands behind, and who is to blame.

Pure of everything but the calls of the models and what they are measured by: it takes the routing
of one moment, and gives back what came of it.
"""

from typing import Any, NamedTuple

from modelyard._core.errors import InputError
from modelyard.deployment.attempts import Attempt
from modelyard.deployment.forms import own_copy
from modelyard.deployment.routed import Routing, record


class Given(NamedTuple):
    """What came of a request that the version it was meant for failed to answer.

    Attributes:
        output: The answer; None where nobody answered.
        version_id: Who answered, or None.
        error: Why the last one asked did not answer, or the one before if that did.
    """

    output: Any
    version_id: str | None
    error: Exception


def attempted(routing: Routing, meant: str, x: Any) -> Attempt:
    """The try of the version that a request is meant for.

    One with another behind it gets a copy: what it does to its input must not reach the other,
    nor the caller.
    """
    if meant == routing.stable:
        return routing.attempt(meant, x)
    made = routing.attempt(meant, own_copy(x))
    return _in_stable_form(routing, made, x) if routing.compares_forms else made


def _in_stable_form(routing: Routing, made: Attempt, x: Any) -> Attempt:
    """An attempt, failed where the stable version answers such an input in another form."""
    stable = routing.stable
    if made.error is not None or stable is None:
        return made
    if not routing.served[stable].last_answer.differs_from(x, made.output):
        return made
    error = InputError(
        f"{made.served.version_id} answers in another form than {stable} does. If that is meant, "
        "save both with an example_input and pass allow_other_outputs=True to update_model."
    )
    return made._replace(output=None, error=error)


def accept(routing: Routing, made: Attempt, x: Any, request_id: str) -> None:
    """Count an answer for its version, and offer a copy of the request to the shadow."""
    record(made, x, request_id)
    routing.note(made)
    served = made.served
    served.forms.add(x)
    if routing.compares_forms and served.version_id == routing.stable:
        served.last_answer.note(x, made.output)
    if routing.shadow is not None and served.version_id == routing.stable:
        routing.shadow.offer(x, made.output, request_id)


def rescued(routing: Routing, failed: Attempt, error: Exception, x: Any, request_id: str) -> Given:
    """What the stable version answers in place of one that failed with `error`."""
    stable = routing.stable
    if stable is None or failed.served.version_id == stable:
        if not _is_refused_by_all(routing, failed, x):
            record(failed, x, request_id)
            routing.note(failed)
        return Given(None, None, error)
    second = routing.attempt(stable, x)
    # What the stable version refuses too, the input is to blame for.
    if not (isinstance(error, InputError) and isinstance(second.error, InputError)):
        record(failed, x, request_id)
        record(second, x, request_id)
        routing.note(failed)
    if second.error is not None:
        return Given(None, None, second.error)
    return Given(second.output, stable, error)


def _is_refused_by_all(routing: Routing, failed: Attempt, x: Any) -> bool:
    """Whether the input is to blame for what the stable version fails to answer.

    It is where no input of its form was ever answered, and where another version that has traffic
    fails at it too: an input that both refuse counts against neither, whoever it is meant for.
    """
    if not isinstance(failed.error, InputError):
        return False
    if failed.served.forms.is_strange(x):
        return True
    others = sorted(routing.sharing - {failed.served.version_id})
    return bool(others) and isinstance(routing.attempt(others[0], own_copy(x)).error, InputError)
