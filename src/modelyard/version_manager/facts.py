"""What is said about a version at its save: checked, and as plain values."""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.ids import checked_name
from modelyard._core.plain import to_plain

# Folders and files of the registry itself.
_RESERVED = frozenset({"blobs", "cache"})
# As wide as the database's column.
_LONGEST_METRIC_NAME = 120
LINEAGE_KINDS = ("retrained", "compressed", "quantized", "distilled", "exported")


@dataclass(frozen=True, kw_only=True)
class Details:
    """What stands in tables beside the version's own: metrics, tags, parents (id and kind)."""

    model_name: str
    metrics: dict[str, float | None]
    tags: list[str]
    parents: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Facts(Details):
    """What is said about a version, checked and plain."""

    non_finite: list[str]
    config: dict[str, Any]
    description: str
    class_name: str
    cannot_load_full_reason: str | None
    signature: dict[str, Any] | None
    environment: dict[str, Any]


def checked_model_name(model_name: object) -> str:
    """`model_name` itself if a folder of the registry can have it.

    Raises:
        ConfigError: Odd characters, or the name of something that is there already.
    """
    name = checked_name(model_name, what="model_name")
    if name.lower() in _RESERVED or name.lower().startswith("registry."):
        raise ConfigError(
            f"model_name {name!r} is what the registry itself calls a folder or file of its own; "
            "choose another."
        )
    return name


def checked_metrics(
    metrics: Mapping[str, Any] | None,
) -> tuple[dict[str, float | None], list[str]]:
    """Metrics as plain floats, NaN and infinities as None, and the names of those.

    Raises:
        ConfigError: A value that is no number.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        raise ConfigError(f"metrics must be a dict of numbers by name, got {metrics!r}.")
    plain: dict[str, float | None] = {}
    non_finite = []
    for name, raw in (metrics or {}).items():
        if len(str(name)) > _LONGEST_METRIC_NAME:
            raise ConfigError(
                f"Metric name {str(name)[:40]!r}... has {len(str(name))} characters; "
                f"{_LONGEST_METRIC_NAME} is the limit."
            )
        if not str(name):
            raise ConfigError("A metric needs a name; got ''.")
        value = to_plain(raw, where=f"metrics.{name}")
        if not isinstance(value, int | float):
            raise ConfigError(f"metrics.{name} must be a number, got {raw!r}.")
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ConfigError(f"metrics.{name} is larger than any float can be.")
        if str(name) in plain:
            raise ConfigError(f"Two metrics are called {str(name)!r} once their names are text.")
        plain[str(name)] = float(value) if math.isfinite(value) else None
        if not math.isfinite(value):
            non_finite.append(str(name))
    return plain, non_finite


def checked_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """`config` as plain values.

    Raises:
        ConfigError: A key holds something JSON cannot; the message names the key.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config must be a dict, got {config!r}.")
    try:
        plain: dict[str, Any] = to_plain(dict(config or {}), where="config")
    except RecursionError as error:
        raise ConfigError("config holds itself, or is nested too deep for JSON.") from error
    _refuse_non_finite(plain, "config")
    return plain


def checked_tags(tags: Iterable[str] | None) -> list[str]:
    """Tags without repetition, in the order given.

    Raises:
        ConfigError: A single string instead of a list, or a tag with odd characters.
    """
    if isinstance(tags, str):
        raise ConfigError(f"tags must be a list such as [{tags!r}], got the string {tags!r}.")
    return list(dict.fromkeys(checked_name(tag, what="tag") for tag in tags or ()))


def checked_parents(parents: str | Iterable[str | tuple[str, str]]) -> list[tuple[str, str]]:
    """Parents as (version id, kind); the kind of a bare id is "retrained".

    Raises:
        ConfigError: An unknown kind, or something else than ids and pairs.
    """
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, Iterable):
        raise ConfigError(f"parents must be ids or (id, kind) pairs, got {parents!r}.")
    pairs = [(item, "retrained") if isinstance(item, str) else item for item in parents]
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2  # noqa: PLR2004 - id and kind
        if not is_pair or not isinstance(pair[0], str):
            raise ConfigError(f"parents must be ids or (id, kind) pairs, got {pair!r}.")
    for _, kind in pairs:
        if kind not in LINEAGE_KINDS:
            raise ConfigError(f"Lineage kind {kind!r} is not one of {', '.join(LINEAGE_KINDS)}.")
    return pairs


def checked_description(description: object) -> str:
    """`description` itself if it is text that can be stored.

    Raises:
        ConfigError: Anything but text, or text with half a character.
    """
    if not isinstance(description, str):
        raise ConfigError(f"description must be text, got {description!r}.")
    check_texts(description, where="description")
    return description


def check_texts(value: Any, *, where: str) -> None:
    """Check that every text in plain values, keys included, can be kept by every database.

    Raises:
        ConfigError: One holds half a character, as names of files from elsewhere do, or the
            character of number 0.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigError(
                f"{where} has text with a zero character, which not every database keeps: "
                f"{value!r}."
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{where} has text that is no UTF-8: {value!r} ({error})."
            ) from error
    if isinstance(value, dict):
        for key, item in value.items():
            check_texts(key, where=where)
            check_texts(item, where=f"{where}.{key}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            check_texts(item, where=f"{where}[{i}]")


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, which JSON cannot hold; store it as text or null.")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{where}.{key}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{i}]")


def provenance_of(version: Mapping[str, Any]) -> dict[str, Any]:
    """What a file exported from the version says of where it is from."""
    environment = version.get("environment") or {}
    found = {
        "version_id": version["version_id"],
        "model_name": version["model_name"],
        "metrics": version["metrics"],
        "git_commit": environment.get("git_commit"),
        "git_dirty": environment.get("git_dirty"),
    }
    return {key: value for key, value in found.items() if value is not None}
