"""The outcomes as a file: JSON, CSV or Parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.extras import require
from modelyard._core.files import write_bytes, write_json
from modelyard._core.plain import without_non_finite
from modelyard.ab_testing.recording.results import Result

SUFFIXES = (".json", ".csv", ".parquet")


def export(
    path: Path,
    overview: Callable[[], dict[str, Any]],
    history: Callable[[], Iterator[Result]],
) -> str:
    """Write an experiment to a file, whole or not at all.

    Args:
        path: Where to; its ending says how, none means JSON.
        overview: Everything but the outcomes, as plain values.
        history: The outcomes, oldest first.

    Raises:
        ConfigError: Another ending.
        MissingDependencyError: Parquet without pyarrow.
    """
    suffix = path.suffix.lower() or ".json"
    if suffix not in SUFFIXES:
        raise ConfigError(f"Results go to {', '.join(SUFFIXES)}; got {path.name!r}.")
    if suffix == ".json":
        write_json(path, {**overview(), "outcomes": list(rows(history()))})
    elif suffix == ".csv":
        write_bytes(path, as_csv(list(history())))
    else:
        write_bytes(path, as_parquet(list(history())))
    return str(path)


def rows(results: Iterable[Result]) -> Iterator[dict[str, Any]]:
    """Each outcome as plain values."""
    for result in results:
        yield {
            "at": result.at,
            "variant": result.variant,
            "weight_epoch": result.epoch,
            "user_id": result.unit,
            "request_id": result.request_id,
            "metrics": without_non_finite(dict(result.metrics)),
        }


def columns(results: Iterable[Result]) -> dict[str, list[Any]]:
    """The outcomes as columns of one length; a metric that an outcome lacks is None there."""
    plain = list(rows(results))
    names = dict.fromkeys(name for row in plain for name in row["metrics"])
    fixed = ("at", "variant", "weight_epoch", "user_id", "request_id")
    table = {name: [row[name] for row in plain] for name in fixed}
    return table | {
        f"metric_{name}": [row["metrics"].get(name) for row in plain] for name in names
    }


def as_csv(results: Iterable[Result]) -> bytes:
    """A header, then one outcome in each line; UTF-8."""
    table = columns(results)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue().encode()


def as_parquet(results: Iterable[Result]) -> bytes:
    """A Parquet file with one outcome in each row.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    sink = io.BytesIO()
    parquet.write_table(arrow.table(columns(results)), sink)
    return sink.getvalue()
