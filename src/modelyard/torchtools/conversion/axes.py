"""Which sizes of a graph vary, as callers say it."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.plain import as_whole

DynamicAxes = Mapping[str, Mapping[int, str] | Sequence[int]]


def checked_axes(axes: Any) -> DynamicAxes | None:
    """Names of sizes that vary, by input or output and axis.

    Raises:
        ConfigError: Another form.
    """
    if axes is None:
        return None
    if not isinstance(axes, Mapping):
        raise ConfigError(_axes_rule(axes))
    checked: dict[str, dict[int, str] | list[int]] = {}
    for name, by_axis in axes.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(_axes_rule(axes))
        if isinstance(by_axis, Mapping):
            pairs = [(as_whole(axis), size) for axis, size in by_axis.items()]
            if not all(k is not None and isinstance(v, str) and v for k, v in pairs):
                raise ConfigError(_axes_rule(axes))
            checked[name] = {k: v for k, v in pairs if k is not None}
        else:
            is_list = isinstance(by_axis, Sequence) and not isinstance(by_axis, str)
            found = [as_whole(axis) for axis in by_axis] if is_list else [None]
            if any(axis is None for axis in found):
                raise ConfigError(_axes_rule(axes))
            checked[name] = [axis for axis in found if axis is not None]
    return checked


def _axes_rule(given: Any) -> str:
    return (
        'dynamic_axes must be such as {"input": {0: "batch_size", 1: "time"}} or '
        f'{{"input": [0, 1]}}, {{}} for none; got {given!r}.'
    )
