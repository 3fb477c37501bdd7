"""Checks of what a bandit is given."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelyard._core.chance import generator
from modelyard._core.errors import ConfigError
from modelyard.ab_testing.bandits.learner import Learner, Outcome
from modelyard.ab_testing.durability import check_durability
from modelyard.ab_testing.variant import ModelVariant


def check_options(pending_timeout_s: float | None, log_size: int, durability: str) -> None:
    """Check what has no place of its own.

    Raises:
        ConfigError: One of them breaks its rule.
    """
    check_durability(durability)
    if pending_timeout_s is not None and not pending_timeout_s > 0.0:
        raise ConfigError(
            f"pending_timeout_s must be above 0 seconds, or None to wait for ever; got "
            f"{pending_timeout_s!r}."
        )
    if type(log_size) is not int or log_size < 1:
        raise ConfigError(f"log_size must be a number of choices, 1 or more; got {log_size!r}.")


def checked_generator(seed: int | None) -> np.random.Generator:
    """A generator of this seed; of None one that nobody can predict.

    Raises:
        ConfigError: It is no seed.
    """
    try:
        return generator(seed)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"seed must be a whole number, 0 or more, or None; got {seed!r}.") from (
            error
        )


def checked_ids(n: int, request_ids: Sequence[str | None] | None) -> list[str | None]:
    """A request id for each of `n` choices; None for each where none are given.

    Raises:
        ConfigError: `n` is no number of choices, or there are more or fewer ids.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise ConfigError(f"n must be a whole number of choices, 0 or more; got {n!r}.")
    if request_ids is None:
        return [None] * int(n)
    refuse_text(request_ids, what="request_ids")
    if len(request_ids) != n:
        raise ConfigError(f"select_many({n}) needs {n} request_ids, got {len(request_ids)}.")
    return [None if one is None else str(one) for one in request_ids]


def refuse_text(given: Any, *, what: str) -> None:
    """Refuse one text where a list is meant: its letters would be taken for names.

    Raises:
        ConfigError: It is a text.
    """
    if isinstance(given, str | bytes):
        raise ConfigError(f"{what} must be a list of names or ids, got the text {given!r}.")


def name_of(variant: str | ModelVariant) -> str:
    """Name of a variant, given as such or as a model with a name.

    Raises:
        ConfigError: Neither, or an empty name.
    """
    name = variant.name if isinstance(variant, ModelVariant) else variant
    if not isinstance(name, str) or not name:
        raise ConfigError(f"A variant is a name or a ModelVariant, got {variant!r}.")
    return name


def checked_variants(variants: Sequence[str | ModelVariant]) -> tuple[str, ...]:
    """Names of two variants or more.

    Raises:
        ConfigError: Fewer, or two of one name.
    """
    refuse_text(variants, what="variants")
    names = tuple(name_of(variant) for variant in variants)
    if len(names) < 2 or len(set(names)) < len(names):  # noqa: PLR2004 - a choice
        raise ConfigError(f"A bandit needs two or more variants of different names: {names}.")
    return names


def checked_reward(
    reward: Any, variant: str, reward_range: tuple[float, float] | None = None
) -> float:
    """A reward as a float; NaN and infinities stay.

    Raises:
        ConfigError: It is no number, or outside of the known range.
    """
    if isinstance(reward, str | bytes | bool | np.bool_):
        raise _no_number(reward, variant)
    try:
        value = float(reward)
    except (TypeError, ValueError, OverflowError) as error:
        raise _no_number(reward, variant) from error
    if reward_range is not None and math.isfinite(value):
        least, most = reward_range
        if not least <= value <= most:
            raise ConfigError(
                f"The reward of {variant!r} must be in reward_range {reward_range}, got {value}."
            )
    return value


def checked_outcome(
    learner: Learner, variant: str, reward: Any, request_id: Any, propensity: Any
) -> Outcome:
    """What came of a use of a variant.

    Raises:
        VariantNotFoundError: There never was such a variant.
        ConfigError: The reward is no number, or the propensity no chance.
    """
    learner.require_known(variant)
    return Outcome(
        variant,
        checked_reward(reward, variant, learner.rules.reward_range),
        None if request_id is None else str(request_id),
        None if propensity is None else checked_propensity(propensity),
    )


def checked_propensity(propensity: Any) -> float:
    """A propensity as a float.

    Raises:
        ConfigError: It is no chance above 0.
    """
    if isinstance(propensity, bool) or not isinstance(propensity, int | float | np.number):
        raise ConfigError(f"propensity must be a number, got {propensity!r}.")
    if not 0.0 < propensity <= 1.0:
        raise ConfigError(
            f"propensity must be in (0, 1], got {propensity}. It is the chance with which this "
            "variant had to be chosen; what has no chance is never chosen."
        )
    return float(propensity)


def checked_columns(
    variants: Sequence[str],
    rewards: Sequence[float],
    request_ids: Sequence[str | None] | None,
    propensities: Sequence[float | None] | None,
) -> list[Sequence[Any]]:
    """The four columns, all as long as the first; None becomes a column of None.

    Raises:
        ConfigError: They differ in length, or names or ids are one text.
    """
    refuse_text(variants, what="variants")
    refuse_text(request_ids, what="request_ids")
    n = len(variants)
    columns = (variants, rewards, request_ids, propensities)
    full = [[None] * n if column is None else column for column in columns]
    if any(len(column) != n for column in full):
        lengths = [len(column) for column in full]
        raise ConfigError(f"One entry for each choice is needed; the lists have {lengths}.")
    return full


def _no_number(reward: Any, variant: str) -> ConfigError:
    return ConfigError(
        f"The reward of {variant!r} must be a number, got {type(reward).__qualname__} {reward!r}. "
        "Won and lost are 1.0 and 0.0."
    )
