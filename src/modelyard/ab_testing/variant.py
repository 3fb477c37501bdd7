"""A side of an experiment: a name, a model and its share of the traffic."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from modelyard._core.errors import ConfigError, VariantNotFoundError
from modelyard._core.ids import checked_name


@dataclass(frozen=True)
class ModelVariant:
    """One of the models that an experiment compares.

    Attributes:
        name: Letters, digits, `.`, `_`, `-`; unique in its experiment.
        model: Anything with `predict(data)`, or any callable of the data.
        traffic_weight: Share of the traffic relative to the other variants, 0 or more.
    """

    name: str
    model: Any
    traffic_weight: float = 1.0

    def __post_init__(self) -> None:
        checked_name(self.name, what="variant name")
        if not callable(getattr(self.model, "predict", self.model)):
            raise ConfigError(
                f"The model of variant {self.name!r} is a {type(self.model).__qualname__}: "
                "give a callable or an object with predict(data)."
            )
        weight: Any = self.traffic_weight
        if not isinstance(weight, Real) or not 0.0 <= float(weight) < math.inf:
            raise ConfigError(
                f"traffic_weight of variant {self.name!r} must be a number of 0 or more, got "
                f"{weight!r}. 0 gives it no traffic."
            )

    def predict(self, data: Any) -> Any:
        """The model's answer to `data`, without gradients where it is an `nn.Module`.

        Args:
            data: Passed on as it is; an `nn.Module` gets a tensor made of it, shape kept.

        Raises:
            Exception: Whatever the model raises.
        """
        call = getattr(self.model, "predict", self.model)
        # An nn.Module cannot exist before torch was imported, so torch is never imported here.
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(self.model, torch.nn.Module):
            return call(data)
        with torch.inference_mode():
            is_tensor = isinstance(data, torch.Tensor)
            return call(data if is_tensor else torch.as_tensor(data, dtype=torch.float32))


def checked_variants(variants: Sequence[ModelVariant]) -> dict[str, ModelVariant]:
    """The variants by name.

    Raises:
        ConfigError: Fewer than two, or two of one name.
    """
    by_name = {variant.name: variant for variant in variants}
    if len(by_name) < max(2, len(variants)):
        names = [variant.name for variant in variants]
        raise ConfigError(f"An experiment needs two or more variants of different names: {names}.")
    return by_name


def require_known(name: str, known: Sequence[str]) -> None:
    """Check that a variant of this name exists.

    Raises:
        VariantNotFoundError: It does not; the message lists those that do.
    """
    if name not in known:
        raise VariantNotFoundError(f"No variant {name!r}. There are: {', '.join(known)}.")


class _Absent:
    """Stands for a model that was not handed in."""

    def __init__(self, name: str) -> None:
        self._name = name

    def predict(self, data: Any) -> Any:  # noqa: ARG002 - a model's signature
        raise ConfigError(
            f"Variant {self._name!r} was loaded without its model. Pass "
            f"ABTest.load(..., models={{{self._name!r}: model}})."
        )


def variant_without_model(name: str) -> ModelVariant:
    """A variant that can be compared, but says so where it is asked to answer."""
    return ModelVariant(name, _Absent(name))
