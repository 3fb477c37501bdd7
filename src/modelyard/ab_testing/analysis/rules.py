"""What a verdict needs, fixed before the first outcome."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, cast, get_args

from modelyard._core.errors import ConfigError
from modelyard.stats.intervals import alpha_of

Inference = Literal["always_valid", "fixed_horizon", "group_sequential"]


@dataclass(frozen=True, kw_only=True)
class VerdictRules:
    """What a verdict needs, fixed before the first outcome.

    Attributes:
        confidence_level: 1 - the accepted chance of a false winner, over all looks.
        min_samples: Outcomes of each variant below which there is no verdict.
        n_tuned: Outcomes of both variants together at which the always-valid interval is
            narrowest.
        inference: What decides. `always_valid`: a confidence sequence, at any look.
            `fixed_horizon`: one test at `planned_samples`. `group_sequential`: tests at `n_looks`
            equal parts of `planned_samples`, with O'Brien-Fleming bounds.
        planned_samples: Outcomes of each variant at which the experiment was planned to end; the
            two last need it.
        n_looks: How many looks `group_sequential` takes.
        cycle_s: Length of the cycle whose phases may differ, in seconds; a verdict before one is
            over comes with a warning. 0 for none.

    Raises:
        ConfigError: An attribute breaks its rule.
    """

    confidence_level: float
    min_samples: int
    n_tuned: float
    inference: Inference = "always_valid"
    planned_samples: int | None = None
    n_looks: int = 5
    cycle_s: float = 7 * 86_400.0

    def __post_init__(self) -> None:
        alpha_of(self.confidence_level)
        checked_count(self.min_samples, what="min_samples")
        checked_positive(self.n_tuned, what="n_tuned")
        checked_inference(self.inference)
        if not 0.0 <= self.cycle_s < math.inf:
            raise ConfigError(f"cycle_s must be 0 seconds or more, got {self.cycle_s!r}.")
        if self.inference == "always_valid":
            if self.planned_samples is not None:
                raise ConfigError(
                    f"planned_samples={self.planned_samples!r} goes with inference="
                    '"fixed_horizon" or "group_sequential"; "always_valid" plans no looks.'
                )
            return
        if self.planned_samples is None:
            raise ConfigError(
                f"inference={self.inference!r} needs planned_samples: the outcomes of each "
                "variant at which the experiment ends. `modelyard ab plan` works them out."
            )
        checked_count(self.planned_samples, what="planned_samples")
        checked_count(self.n_looks, what="n_looks")

    @property
    def planned_looks(self) -> tuple[int, ...]:
        """Outcomes of each variant at which a look is planned, ascending; none if any is free."""
        if self.planned_samples is None or self.inference == "always_valid":
            return ()
        n_looks = self.n_looks if self.inference == "group_sequential" else 1
        steps = [math.ceil(self.planned_samples * i / n_looks) for i in range(1, n_looks + 1)]
        return tuple(sorted(set(steps)))

    @property
    def fractions(self) -> Sequence[float]:
        """The planned looks as shares of the last."""
        looks = self.planned_looks
        return [look / looks[-1] for look in looks]


def checked_inference(inference: str) -> Inference:
    """`inference` itself.

    Raises:
        ConfigError: There is none of this name.
    """
    for known in get_args(Inference):
        if inference == known:
            return cast("Inference", known)
    raise ConfigError(
        f"inference must be one of {', '.join(get_args(Inference))}; got {inference!r}."
    )


def checked_count(value: Any, *, what: str) -> int:
    """`value` itself.

    Raises:
        ConfigError: Not a whole number of 1 or more.
    """
    try:
        count = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        count = -1
    if count < 1:
        raise ConfigError(f"{what} must be a whole number of 1 or more, got {value!r}.")
    return count


def checked_positive(value: Any, *, what: str) -> Any:
    """`value` itself.

    Raises:
        ConfigError: Not a number above 0.
    """
    try:
        is_positive = 0 < value < math.inf
    except TypeError:
        is_positive = False
    if not is_positive:
        raise ConfigError(f"{what} must be a number above 0, got {value!r}.")
    return value
