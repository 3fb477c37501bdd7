"""Why a model is updated."""

from enum import Enum

from modelyard._core.errors import ConfigError


class UpdateTrigger(Enum):
    """What set an update off."""

    PERFORMANCE_DEGRADATION = "performance_degradation"
    DISTRIBUTION_DRIFT = "distribution_drift"
    HIGH_ERROR_RATE = "high_error_rate"
    SCHEDULED = "scheduled"
    MANUAL = "manual"


def as_trigger(trigger: UpdateTrigger | str) -> UpdateTrigger:
    """The trigger itself, or the one of this value.

    Raises:
        ConfigError: There is none.
    """
    try:
        return UpdateTrigger(trigger)
    except ValueError as error:
        known = ", ".join(item.value for item in UpdateTrigger)
        raise ConfigError(f"trigger {trigger!r} is not one of {known}.") from error
