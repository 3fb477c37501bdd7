"""What an interval is, and the check of its level."""

from dataclasses import dataclass

from modelyard._core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Interval:
    """A range in the metric's unit; both ends NaN where nothing can be said.

    Attributes:
        lower: Lower end.
        upper: Upper end.
    """

    lower: float
    upper: float


def alpha_of(confidence_level: float) -> float:
    """Chance of a false alarm that goes with a confidence level: 0.05 for 0.95.

    Raises:
        ConfigError: `confidence_level` lies outside (0, 1).
    """
    if not 0.0 < confidence_level < 1.0:
        raise ConfigError(
            f"confidence_level must lie strictly between 0 and 1, got {confidence_level}. "
            "0.95 means 95 %."
        )
    return 1.0 - confidence_level
