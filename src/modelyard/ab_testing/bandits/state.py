"""A bandit as plain values, and a bandit from them: also from those of earlier releases."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.ab_testing.bandits.learner import Learner
from modelyard.ab_testing.bandits.log import Times, choice_of, logged
from modelyard.ab_testing.bandits.policies import PolicyRules
from modelyard.ab_testing.bandits.sums import Sums

FORMAT = 2


def to_plain(learner: Learner, times: Times, *, with_log: bool) -> dict[str, Any]:
    """All that a bandit knows.

    Args:
        learner: The bandit.
        times: Of the process it lives in.
        with_log: Include choices that wait for nothing.
    """
    pending = learner.choices.pending()
    listed = list(learner.choices.log) if with_log else []
    in_log = {id(choice) for choice in listed}
    listed += [choice for choice in pending if id(choice) not in in_log]
    return {
        "format": FORMAT,
        "variants": list(learner.names),
        "algorithm": learner.rules.algorithm,
        "rules": rules_to_plain(learner.rules),
        "record": learner.record.to_plain(),
        "recent": None if learner.record is learner.sums else learner.sums.to_plain(),
        "removed": {name: sums.to_plain() for name, sums in learner.removed.items()},
        "n_expired": learner.choices.n_expired,
        "n_duplicates": learner.n_duplicates,
        "generator": learner.rng.bit_generator.state,
        "choices": [
            {
                **entry,
                "key": choice.key,
                "is_pending": choice.is_pending,
                "in_log": id(choice) in in_log,
            }
            for entry, choice in zip(logged(listed, times), listed, strict=True)
        ],
    }


@contextmanager
def misfits_explained() -> Iterator[None]:
    """Say of what cannot be read that it is no state of a bandit.

    Raises:
        ConfigError: The block found a key missing or of another kind.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"This is not what a bandit's to_dict() gives: {error!r}.") from error


def rules_to_plain(rules: PolicyRules) -> dict[str, Any]:
    """Rules as plain values."""
    plain = asdict(rules)
    plain["reward_range"] = None if rules.reward_range is None else list(rules.reward_range)
    return plain


def rules_from_plain(plain: Mapping[str, Any]) -> PolicyRules:
    """The rules that `rules_to_plain` described."""
    reward_range = plain["reward_range"]
    return PolicyRules(
        **{**plain, "reward_range": None if reward_range is None else (*reward_range,)}
    )


def names_to_start_with(plain: Mapping[str, Any]) -> list[str]:
    """Names of variants to make a bandit of before `restore`.

    A bandit is made of two at least; where only one is left, another was removed.
    """
    present = list(plain["variants"])
    return present if len(present) > 1 else [*present, *plain["removed"]][:2]


def restore(learner: Learner, plain: Mapping[str, Any], times: Times) -> None:
    """Make a learner, new and with the same rules, what `to_plain` described."""
    plain = _of_present_format(plain)
    learner.set_names(plain["variants"])
    n = len(learner.names)
    pending = [entry["variant"] for entry in plain["choices"] if entry["is_pending"]]
    waiting = [pending.count(name) for name in learner.names]
    learner.record = Sums(n)
    if plain["recent"] is None:
        learner.sums = learner.record.restore(plain["record"], waiting)
    else:
        learner.record.restore(plain["record"])
        learner.sums = learner.rules.sums(n).restore(plain["recent"], waiting)
    learner.removed = {name: Sums(1).restore(sums) for name, sums in plain["removed"].items()}
    learner.choices.n_expired = plain["n_expired"]
    learner.n_duplicates = plain["n_duplicates"]
    learner.rng.bit_generator.state = plain["generator"]
    for entry in plain["choices"]:
        _restore_choice(learner, entry, times)


def check_same(learner: Learner, plain: Mapping[str, Any], name: str) -> None:
    """Check that a stored bandit is the one that was asked for.

    Variants that came or went since are no difference.

    Raises:
        ConfigError: It has other variants, another algorithm or another way to forget.
    """
    plain = _of_present_format(plain)
    known = {*plain["variants"], *plain["removed"]}
    stored = rules_from_plain(plain["rules"])
    asked = learner.rules
    same_way = replace(
        stored,
        epsilon=asked.epsilon,
        epsilon_decay=asked.epsilon_decay,
        min_probability=asked.min_probability,
    )
    if not known.issuperset(learner.names) or same_way != asked:
        raise ConfigError(
            f"The stored bandit {name!r} has variants {sorted(known)} and {_told(stored)}; asked "
            f"for are {list(learner.names)} and {_told(asked)}. Open it with the same, and then "
            "add_variant for new ones, or choose another name."
        )


def _told(rules: PolicyRules) -> str:
    return (
        f"algorithm {rules.algorithm!r}, window {rules.window}, discount {rules.discount}, "
        f"reward_range {rules.reward_range}"
    )


def _restore_choice(learner: Learner, entry: Mapping[str, Any], times: Times) -> None:
    choice = choice_of(entry, times)
    choice.key = entry["key"]
    choice.is_pending = entry["is_pending"]
    if entry["in_log"]:
        learner.choices.log.append(choice)
    if choice.key is not None:
        learner.choices.remember(choice, choice.key)
    if choice.is_pending and choice.request_id is None:
        learner.choices.inherit(choice)


def _of_present_format(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    if plain.get("format") == FORMAT:
        return plain
    if "format" in plain or "is_binary" not in plain:
        raise ConfigError(
            f"This is no state of a bandit, or one of a newer release: format "
            f"{plain.get('format')!r}; this release knows up to {FORMAT}."
        )
    return {
        "variants": plain["variants"],
        "algorithm": plain["algorithm"],
        "rules": rules_to_plain(PolicyRules(algorithm=plain["algorithm"])),
        "record": _record_of_format_1(plain),
        "recent": None,
        "removed": {},
        "n_expired": 0,
        "n_duplicates": 0,
        "generator": plain["generator"],
        "choices": [],
    }


def _record_of_format_1(plain: Mapping[str, Any]) -> dict[str, Any]:
    counts: Sequence[int] = plain["counts"]
    has_two_levels = plain["least"] is not None and plain["least"] < plain["most"]
    highs = [
        round(n * mean) if has_two_levels else n
        for n, mean in zip(counts, plain["means"], strict=True)
    ]
    return {
        "counts": counts,
        "means": plain["means"],
        "m2": plain["m2"],
        "failures": plain["non_finite"],
        "highs": highs if plain["is_binary"] else [0] * len(counts),
        "within_m2": math.fsum(plain["m2"]),
        "least": plain["least"],
        "most": plain["most"],
        "is_two_valued": plain["is_binary"],
    }
