"""Where a rollback goes, by the audit."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any


def earlier_productions(events: Sequence[Mapping[str, Any]], alias: str) -> list[str]:
    """The versions that were production before the present one, by the audit; newest first.

    A rollback takes back its target's successors for good, so that going back twice goes two
    back and never to a version that was fled from, until that is promoted again.

    Args:
        events: Audit records of one model, oldest first.
        alias: The alias that means production.
    """
    stack: list[str] = []
    for event in events:
        if event["detail"].get("alias") != alias or event["version_id"] is None:
            continue
        version_id = event["version_id"]
        if event["action"] == "rollback" and stack and stack[-1] != version_id:
            stack = _gone_back(stack, version_id)
        elif not stack or stack[-1] != version_id:
            stack.append(version_id)
    earlier = [version_id for version_id in reversed(stack) if version_id != stack[-1]]
    return list(dict.fromkeys(earlier))


def _gone_back(stack: Sequence[str], version_id: str) -> list[str]:
    """The stack after a rollback to a version, which may never have been on it."""
    places = [place for place, item in enumerate(stack) if item == version_id]
    kept = stack[: places[-1]] if places else stack[:-1]
    fled = {*stack[len(kept) :]} - {version_id}
    left = [*(item for item in kept if item not in fled), version_id]
    return [item for item, _ in itertools.groupby(left)]
