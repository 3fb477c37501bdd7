"""What happened in one process between two flushes, as plain values and back.

A chunk holds new choices, new rewards in their order, and variants that came or went. A reward
names its choice by its place in the chunk, or by its key where an earlier chunk holds it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.choices import BanditChoice, fill_propensities
from modelyard.ab_testing.bandits.learner import Learner, Outbox
from modelyard.ab_testing.bandits.log import LoggedChoice, Times, choice_of


def to_plain(outbox: Outbox, times: Times) -> dict[str, Any]:
    """A chunk of what is in the outbox; choices without a reward must have a key."""
    fill_propensities(outbox.choices)
    places = {id(choice): place for place, choice in enumerate(outbox.choices)}
    # Few lists of variants, and one for each choice would be most of the chunk.
    among = list(dict.fromkeys(choice.among for choice in outbox.choices))
    among_places = {names: place for place, names in enumerate(among)}
    return {
        "among": [list(names) for names in among],
        "choices": [
            [
                among_places[choice.among],
                choice.index,
                times.to_iso(choice.at_s),
                choice.propensity,
                choice.request_id,
                choice.key,
            ]
            for choice in outbox.choices
        ],
        "rewards": [
            [_reference(choice, places), variant, finite_or_none(reward)]
            for choice, variant, reward in outbox.rewards
        ],
        "members": [list(change) for change in outbox.members],
    }


def learn(
    learner: Learner, body: Mapping[str, Any], times: Times, *, known: Outbox | None = None
) -> None:
    """Take in a chunk of another process.

    Args:
        learner: Takes it in.
        body: The chunk.
        times: Of the process the learner lives in.
        known: What the chunk begins with and the learner knows: it was recorded before this
            process was forked from the other one.
    """
    known = known or Outbox()
    for name, has_come in body["members"]:
        if has_come and name not in learner.index:
            learner.bring(name)
        elif not has_come and name in learner.index and len(learner.names) > 1:
            learner.drop(name)
    choices = _choices_in(learner, body, times, known.choices)
    for reference, variant, value in body["rewards"][len(known.rewards) :]:
        reward = math.nan if value is None else value
        owner = _referred_to(learner, choices, reference)
        if owner is None or (owner.has_reward and owner.request_id is None):
            # Where its own reward went to another choice of the variant, none is lost.
            learner.take(variant, reward)
        elif owner.has_reward:
            learner.n_duplicates += 1
        else:
            learner.settle(owner, reward)


def _choices_in(
    learner: Learner, body: Mapping[str, Any], times: Times, known: Sequence[BanditChoice]
) -> list[BanditChoice]:
    """The choices of a chunk, taken in; it begins with those that are known."""
    choices = list(known)
    for place, (key, entry) in enumerate(_entries(body)):
        if place < len(known):
            if key is not None and choices[place].key is None:
                choices[place].key = key
                learner.choices.remember(choices[place], key)
            continue
        choice = choice_of(entry, times)
        choices.append(choice)
        if key is not None and learner.choices.by_key(key) is None:
            learner.wait_for(choice)
            learner.choices.add_keyed(choice, key)
        else:
            learner.choices.log.append(choice)
    return choices


def go_on(learner: Learner, body: Mapping[str, Any], times: Times) -> None:
    """Take in a chunk of the process whose state was taken up, which ends with it.

    What it waited for is waited for here, and its next choices are made here.
    """
    learn(learner, body, times)
    for key, entry in _entries(body):
        choice = None if key is None else learner.choices.by_key(key)
        if choice is not None and choice.is_pending and entry["request_id"] is None:
            learner.choices.inherit(choice)
    if "generator" in body:
        learner.rng.bit_generator.state = body["generator"]


def remember(learner: Learner, body: Mapping[str, Any], times: Times) -> None:
    """Put the choices of a chunk in the log; its rewards are in the sums already."""
    choices = []
    for key, entry in _entries(body):
        known = None if key is None else learner.choices.by_key(key)
        choice = choice_of(entry, times) if known is None else known
        choices.append(choice)
        if known is None and key is not None:
            learner.choices.add_keyed(choice, key)
        else:
            learner.choices.log.append(choice)
    for reference, _, value in body["rewards"]:
        owner = _referred_to(learner, choices, reference)
        if owner is not None and not owner.has_reward:
            learner.choices.end(owner, math.nan if value is None else value)


def _referred_to(
    learner: Learner, choices: Sequence[BanditChoice], reference: int | str | None
) -> BanditChoice | None:
    if isinstance(reference, str):
        return learner.choices.by_key(reference)
    return None if reference is None else choices[reference]


def join(bodies: Iterable[Mapping[str, Any]]) -> list[LoggedChoice]:
    """The choices of all chunks in their order, each with its reward, wherever that came."""
    joined: list[LoggedChoice] = []
    by_key: dict[str, LoggedChoice] = {}
    for body in bodies:
        entries = list(_entries(body))
        choices = [entry for _, entry in entries]
        for key, entry in entries:
            if key is not None:
                by_key.setdefault(key, entry)
        for reference, _, value in body["rewards"]:
            if reference is None:
                continue
            found = by_key.get(reference) if isinstance(reference, str) else choices[reference]
            if found is not None and not found["has_reward"]:
                found["has_reward"], found["reward"] = True, value
        joined += choices
    return joined


def _entries(body: Mapping[str, Any]) -> Iterator[tuple[str | None, LoggedChoice]]:
    """The choices of a chunk with their keys, as if none had a reward yet."""
    for among_place, index, at, propensity, request_id, key in body["choices"]:
        among = body["among"][among_place]
        yield (
            key,
            {
                "at": at,
                "variant": among[index],
                "among": among,
                "propensity": propensity,
                "has_reward": False,
                "reward": None,
                "request_id": request_id,
            },
        )


def _reference(choice: BanditChoice | None, places: Mapping[int, int]) -> int | str | None:
    if choice is None:
        return None
    return places.get(id(choice), choice.key)
