"""A rollout told in sentences: what was done when, by whom, and on which numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.update_strategy.records import UpdateRecord
from modelyard.update_strategy.telling import percent

_DONE = {
    "start": "{actor} began it",
    "rollback": "{actor} began it, to go back",
    "claim": "a process of {actor} serves and measures it from here on",
    "shadow": "{actor} had the candidate answer copies of requests",
    "begin": "{actor} gave the candidate its first share",
    "next_step": "{actor} took the next step",
    "ask_for_approval": "{actor} asked for approval",
    "approve": "{actor} approved the next step",
    "promote": "{actor} began to make the candidate production",
    "bake": "{actor} made the candidate production and watches it",
    "promoted": "{actor} ended the rollout; its version is production",
    "roll_back": "{actor} decided to go back",
    "rolled_back": "{actor} rolled the candidate back",
    "cannot_roll_back": "{actor} could not go back",
    "pause": "{actor} paused it",
    "resume": "{actor} let it go on",
    "abort": "{actor} aborted it",
    "halt": "{actor} stopped all updates of the model",
    "release": "{actor} allowed updates of the model again",
}
_SIDES = ("candidate", "stable", "baseline")


def explained(record: UpdateRecord) -> list[str]:
    """What happened in a rollout, one sentence each, oldest first."""
    whole = (
        f"{record['new_version_id']} for {record['old_version_id'] or 'nothing'} of "
        f"{record['model_name']} ({record['trigger']}"
        f"{', going back' if record['is_rollback'] else ''}): {record['status']}."
    )
    return [whole, *(_sentence(event) for event in record["events"])]


def _sentence(event: Mapping[str, Any]) -> str:
    detail = event["detail"]
    form = _DONE.get(event["action"], f"{event['action']} by {{actor}}")
    done = form.replace("{actor}", event["actor"])
    shares = ", ".join(f"{name} {percent(share)}" for name, share in detail["shares"].items())
    text = f"{event['at'][:19].replace('T', ' ')} {done}; traffic {shares}"
    reason = detail.get("reason")
    if reason:
        text += f"; reason: {reason}"
    told = _numbers(detail)
    return f"{text}. {told}" if told else f"{text}."


def _numbers(detail: Mapping[str, Any]) -> str:
    sentences = [_side(detail[side], side) for side in _SIDES if side in detail]
    checks: Sequence[Mapping[str, Any]] = detail.get("checks", [])
    sentences += [f"{check['sentence']} ({check['answer']})." for check in checks]
    return " ".join(sentences)


def _side(numbers: Mapping[str, Any], name: str) -> str:
    """What a version did; the baseline is how the model did when it was set."""
    text = f"{name.capitalize()}: {numbers['n_errors']} of {numbers['n']} failed"
    if numbers["latency_median_ms"] is not None:
        text += f", median {numbers['latency_median_ms']:.3g} ms"
    if numbers["key_metric"] is not None:
        text += f", key metric {numbers['key_metric']:.4g} over {numbers['n_key_metric']} values"
    return f"{text}."
