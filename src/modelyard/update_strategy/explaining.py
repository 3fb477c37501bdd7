"""A rollout told in sentences: what was done when, by whom, and on which numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.update_strategy.records import UpdateRecord

_DONE = {
    "start": "was begun",
    "rollback": "was begun, to go back",
    "claim": "is served and measured by a process from here on",
    "shadow": "began to answer copies of requests",
    "begin": "got its first share",
    "next_step": "took the next step",
    "ask_for_approval": "waits for approval",
    "approve": "was approved",
    "promote": "is being promoted",
    "bake": "became production and is watched",
    "finish": "held to the end",
    "promoted": "is production",
    "roll_back": "has to go back",
    "rolled_back": "was rolled back",
    "pause": "was paused",
    "resume": "was resumed",
    "abort": "was aborted",
}


def explained(record: UpdateRecord) -> list[str]:
    """What happened in a rollout, one sentence each, oldest first."""
    whole = (
        f"{record['new_version_id']} for {record['old_version_id'] or 'nothing'} of "
        f"{record['model_name']} ({record['trigger']}): {record['status']}."
    )
    return [whole, *(_sentence(event) for event in record["events"])]


def _sentence(event: Mapping[str, Any]) -> str:
    detail = event["detail"]
    done = _DONE.get(event["action"], event["action"])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in detail["shares"].items())
    text = f"{event['at'][:19].replace('T', ' ')} {done} by {event['actor']}; traffic {shares}"
    reason = detail.get("reason")
    if reason:
        text += f"; because {reason}"
    told = _numbers(detail)
    return f"{text}. {told}" if told else f"{text}."


def _numbers(detail: Mapping[str, Any]) -> str:
    sentences = [
        f"{_side(detail[side], side)}" for side in ("candidate", "stable") if side in detail
    ]
    checks: Sequence[Mapping[str, Any]] = detail.get("checks", [])
    sentences += [f"{check['sentence']} ({check['answer']})." for check in checks]
    return " ".join(sentences)


def _side(numbers: Mapping[str, Any], name: str) -> str:
    text = f"{name.capitalize()}: {numbers['n_errors']} of {numbers['n']} failed"
    if numbers["latency_median_ms"] is not None:
        text += f", median {numbers['latency_median_ms']:.3g} ms"
    if numbers["key_metric"] is not None:
        text += f", key metric {numbers['key_metric']:.4g} over {numbers['n_key_metric']} values"
    return f"{text}."
