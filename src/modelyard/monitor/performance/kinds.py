"""What a prediction is: a number, a class, or the chances of classes."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError

_NEAR_ONE = 1e-3


class PredictionKind(StrEnum):
    """What the numbers of a prediction stand for."""

    NUMBER = "number"
    CLASS = "class"
    PROBABILITIES = "probabilities"


def checked_kind(name: str) -> PredictionKind | None:
    """The kind of this name; None for `auto`.

    Raises:
        ConfigError: There is no such kind.
    """
    if name == "auto":
        return None
    try:
        return PredictionKind(name)
    except ValueError as error:
        raise ConfigError(
            f"prediction_kind must be 'auto' or one of {', '.join(PredictionKind)}; got {name!r}."
        ) from error


def kind_of(rows: NDArray[np.float64], *, has_labels: bool) -> PredictionKind:
    """What predictions look like.

    Args:
        rows: shape (n, outputs).
        has_labels: Whether text was among them.
    """
    if has_labels:
        return PredictionKind.CLASS
    known = rows[np.isfinite(rows).all(axis=1)]
    is_spread = known.shape[1] > 1 and len(known) > 0
    if is_spread and (known >= 0.0).all() and (abs(known.sum(axis=1) - 1.0) < _NEAR_ONE).all():
        return PredictionKind.PROBABILITIES
    return PredictionKind.NUMBER
