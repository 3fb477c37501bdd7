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
    """What came of a request.

    Attributes:
        output: The answer; None where nobody answered.
        version_id: Who answered, or None.
        error: Why the version that it was meant for did not, or None.
        last_error: Why nobody answered, or None.
    """

    output: Any
    version_id: str | None
    error: Exception | None = None
    last_error: Exception | None = None


def answered(routing: Routing, meant: str, x: Any, request_id: str) -> Given:
    """Have a request answered by the version it is meant for, or by the stable one.

    A version with another behind it gets a copy: what it does to its input must not reach the
    other, nor the caller.
    """
    stable = routing.stable
    made = routing.attempt(meant, x if meant == stable else own_copy(x))
    if made.error is not None:
        return _rescued(routing, made, made.error, x, request_id)
    record(made, x, request_id)
    routing.note(made)
    made.served.forms.add(x)
    if routing.shadow is not None and meant == stable:
        routing.shadow.offer(x, made.output, request_id)
    return Given(made.output, meant)


def _rescued(
    routing: Routing, failed: Attempt, error: Exception, x: Any, request_id: str
) -> Given:
    """What the stable version answers in place of one that failed."""
    stable = routing.stable
    if stable is None or failed.served.version_id == stable:
        if not _is_refused_by_all(routing, failed, x):
            record(failed, x, request_id)
            routing.note(failed)
        return Given(None, None, error, error)
    second = routing.attempt(stable, x)
    # What the stable version refuses too, the input is to blame for.
    if not (isinstance(error, InputError) and isinstance(second.error, InputError)):
        record(failed, x, request_id)
        record(second, x, request_id)
        routing.note(failed)
    if second.error is not None:
        return Given(None, None, second.error, second.error)
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
