"""Comparing versions: pure functions of what is stored about them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.stats.direction import is_lower_better
from modelyard.version_manager.records import Comparison, MetricComparison, Version


def compared(
    first: Version,
    second: Version,
    *,
    metrics: Sequence[str] | None,
    lineage: str,
) -> Comparison:
    """Two versions side by side.

    Args:
        first: The one the other is compared to.
        second: The other.
        metrics: Names to compare; None for all that either has.
        lineage: How they are related, in words.
    """
    names = metrics if metrics is not None else sorted({*first["metrics"], *second["metrics"]})
    size1, size2 = first["size_bytes"], second["size_bytes"]
    return {
        "version_id1": first["version_id"],
        "version_id2": second["version_id"],
        "metrics": {name: _metric(name, first, second) for name in names},
        "config": _differences(first["config"], second["config"]),
        "size_bytes": {
            "value1": size1,
            "value2": size2,
            "ratio": size2 / size1 if size1 else None,
        },
        "lineage": lineage,
    }


def relation(id1: str, id2: str, ancestors1: set[str], ancestors2: set[str]) -> str:
    """How two versions are related, in words, from the ancestors of each."""
    if id1 == id2:
        return "same version"
    if id1 in ancestors2:
        return f"{id2} was made from {id1}"
    if id2 in ancestors1:
        return f"{id1} was made from {id2}"
    shared = sorted(ancestors1 & ancestors2)
    return f"both come from {shared[-1]}" if shared else "unrelated"


def _metric(name: str, first: Version, second: Version) -> MetricComparison:
    value1, value2 = first["metrics"].get(name), second["metrics"].get(name)
    if value1 is None or value2 is None:
        return {
            "value1": value1,
            "value2": value2,
            "difference": None,
            "relative_change": None,
            "better": None,
        }
    difference = value2 - value1
    gain = -difference if is_lower_better(name, (value1, value2)) else difference
    better = None if gain == 0 else (second if gain > 0 else first)["version_id"]
    return {
        "value1": value1,
        "value2": value2,
        "difference": _finite(difference),
        "relative_change": _finite(difference / abs(value1)) if value1 else None,
        "better": better,
    }


def _finite(value: float) -> float | None:
    """The value; None of what overflows."""
    return value if math.isfinite(value) else None


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Keys that are not equal in both; nested dicts by dotted key."""
    flat1, flat2 = _flattened(first), _flattened(second)
    return {
        key: {"value1": flat1.get(key), "value2": flat2.get(key)}
        for key in sorted(flat1.keys() | flat2.keys())
        if key not in flat1 or key not in flat2 or flat1[key] != flat2[key]
    }


def _flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
