"""From a bandit to an experiment that can prove which variant is better."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard._core.errors import ConfigError, VariantNotFoundError
from modelyard.ab_testing.bandits.learner import Learner
from modelyard.ab_testing.experiment import ABTest
from modelyard.ab_testing.variant import ModelVariant


def experiment_of(
    learner: Learner,
    variants: Sequence[str] | None,
    models: Mapping[str, Any],
    weights: Mapping[str, float] | None,
    **options: Any,
) -> ABTest:
    """An `ABTest` of some variants with fixed traffic.

    Args:
        learner: The bandit.
        variants: Which of its variants; None for all that it has now.
        models: Their models.
        weights: Their traffic weights; equal ones by default.
        options: Of `ABTest`.

    Raises:
        ConfigError: A variant without a model or a weight.
        VariantNotFoundError: No such variant, or a weight of none.
    """
    names = learner.names if variants is None else tuple(variants)
    for name in names:
        learner.require_known(name)
    missing = [name for name in names if name not in models]
    if missing:
        raise ConfigError(
            f"The experiment needs a model for {', '.join(missing)}. Pass models={{name: model}}, "
            "or make the bandit of ModelVariants."
        )
    for name in weights or {}:
        if name not in names:
            raise VariantNotFoundError(f"No variant {name!r}. There are: {', '.join(names)}.")
    sides = [
        ModelVariant(name, models[name], 1.0 if weights is None else _weight(weights, name))
        for name in names
    ]
    return ABTest(variants=sides, **options)


def _weight(weights: Mapping[str, float], name: str) -> float:
    if name not in weights:
        raise ConfigError(f"No weight for {name!r}. Give every variant one.")
    return weights[name]
