"""What a deployment gives back."""

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """An answer and where it comes from.

    Attributes:
        output: What the model gave, or the fallback.
        version_id: The version that answered; None where the fallback did.
        request_id: Under which an outcome can be recorded later.
        routed_to: The version that the request was meant for; another one answers when it fails.
        error: Why the one it was meant for did not answer, or None.
    """

    output: Any
    version_id: str | None
    request_id: str
    routed_to: str
    error: str | None = None
