"""A user's own data, from a file; no code runs from one."""

import csv
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelyard._core.errors import ConfigError, InputError
from modelyard._core.extras import require

_FORMS = (
    "an .npz with `inputs` (and `targets`), an .npy of inputs, a .csv with a header line, or a "
    ".parquet"
)
_TIMES = frozenset({"date", "datetime", "time", "timestamp"})


@dataclass(frozen=True, kw_only=True, eq=False)
class UserData:
    """Samples in order of time.

    Attributes:
        inputs: Shape (n, ...).
        targets: Shape (n, ...), or None.
        names: Names of the input columns where the file has them.
        times: When each sample was, as the file has it, where it has a column of dates.
    """

    inputs: Tensor
    targets: Tensor | None
    names: list[str] | None = None
    times: list[str] | None = None


def load_user_data(path: Path, *, target: str | None = None) -> UserData:
    """Samples from a file: .npz, .npy, .csv or .parquet.

    Of a table, a column of dates (ISO 8601, or one called `date`, `datetime`, `time` or
    `timestamp`) tells when each sample was and is no input; nor is a first column without a name,
    which is an index.

    Args:
        path: The file.
        target: Of a table the column, of an .npz the array, that is to be predicted; by default
            `targets` if an .npz has it.

    Raises:
        ConfigError: No such file, or a form that is not known.
        InputError: Values that are no numbers or not finite.
        MissingDependencyError: Parquet without pyarrow.
    """
    if not path.is_file():
        raise ConfigError(f"There is no data file {str(path)!r}.")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path.name!r} is of no known form; pass {_FORMS}.")
    try:
        data = read(path, target)
    except (ValueError, KeyError, OSError, csv.Error) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    for what, values in (("inputs", data.inputs), ("targets", data.targets)):
        if values is not None and not torch.isfinite(values).all():
            raise InputError(
                f"{str(path)!r} holds NaN or infinity in the {what}"
                f"{_where(values, data.names if what == 'inputs' else None)}; clean it first."
            )
    return data


def out_of_order(times: Sequence[str]) -> int | None:
    """Position of the first time that is before the one ahead of it; None where there is none.

    Raises:
        ValueError: A time that is neither a number nor ISO 8601.
    """
    try:
        moments: list[Any] = [float(time) for time in times]
    except ValueError:
        moments = [_moment(time) for time in times]
    pairs = enumerate(itertools.pairwise(moments), 1)
    return next((i for i, (before, after) in pairs if after < before), None)


def _from_npz(path: Path, target: str | None) -> UserData:
    with np.load(path, allow_pickle=False) as file:
        name = target or "targets"
        for wanted in ("inputs", target):
            if wanted is not None and wanted not in file.files:
                raise ValueError(f"no array {wanted!r}; there are {', '.join(file.files)}")
        targets = file[name] if name in file.files else None
        return UserData(
            inputs=_tensor(file["inputs"]),
            targets=None if targets is None else _tensor(targets),
        )


def _from_npy(path: Path, target: str | None) -> UserData:
    if target is not None:
        raise ValueError("an .npy file holds inputs alone; use .npz for targets")
    return UserData(inputs=_tensor(np.load(path, allow_pickle=False)), targets=None)


def _from_csv(path: Path, target: str | None) -> UserData:
    # What spreadsheets write begins with a mark of the encoding.
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        names = [name.strip() for name in next(lines, [])]
        first = next(lines, [])
    if not first:
        raise ValueError("it has no line of values under a header line")
    if all(_is_number(name) for name in names):
        raise ValueError("its first line holds numbers; it must name the columns")
    if len(first) != len(names):
        raise ValueError(f"it names {len(names)} columns, and its first line has {len(first)}")
    kinds = [
        _kind(i, name, value) for i, (name, value) in enumerate(zip(names, first, strict=True))
    ]
    numbers = [i for i, kind in enumerate(kinds) if kind == "number"]
    dates = [i for i, kind in enumerate(kinds) if kind == "time"]
    return _from_table(
        [names[i] for i in numbers],
        _columns(path, numbers, float) if numbers else np.empty((0, 0)),
        _columns(path, dates[:1], str)[:, 0].tolist() if dates else None,
        target,
    )


def _columns(path: Path, columns: list[int], kind: type) -> NDArray[Any]:
    table: NDArray[Any] = np.loadtxt(
        path,
        delimiter=",",
        skiprows=1,
        usecols=columns,
        quotechar='"',
        comments=None,
        encoding="utf-8-sig",
        dtype=kind,
        ndmin=2,
    )
    return table


def _from_parquet(path: Path, target: str | None) -> UserData:
    arrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    try:
        table = parquet.read_table(path)
    except arrow.ArrowException as error:
        raise ValueError(error) from error
    names: list[str] = []
    numbers: list[NDArray[Any]] = []
    times: list[str] | None = None
    for i, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        first = column[0].as_py() if len(column) else ""
        # What pandas calls an index that has no name.
        kind = _kind(i, "" if name.startswith("__index_level_") else name, _text(first))
        if kind == "time" and times is None:
            times = [_text(value) for value in column.to_pylist()]
        if kind == "number":
            names.append(name)
            numbers.append(np.asarray(column.to_numpy(), np.float64))
    return _from_table(
        names, np.column_stack(numbers) if numbers else np.empty((0, 0)), times, target
    )


def _from_table(
    names: list[str], table: NDArray[Any], times: list[str] | None, target: str | None
) -> UserData:
    if target is not None and target not in names:
        raise ValueError(f"no column {target!r}; there are {', '.join(names)}")
    inputs = [i for i, name in enumerate(names) if name != target]
    if not inputs:
        raise ValueError("no column of numbers is left for the inputs")
    return UserData(
        inputs=_tensor(table[:, inputs]),
        targets=None if target is None else _tensor(_whole(table[:, names.index(target)])),
        names=[names[i] for i in inputs],
        times=times,
    )


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """As integers where all are, which a table's numbers do not tell: classes, perhaps."""
    with np.errstate(invalid="ignore"):
        integers = values.astype(np.int64)
    return integers if np.array_equal(integers, values) else values


def _kind(position: int, name: str, value: str) -> str:
    """What a column holds, by its name and first value: "number", "time" or "index".

    Raises:
        ValueError: Something else.
    """
    if position == 0 and name in {"", "Unnamed: 0"}:
        return "time" if _is_time(value) and not _is_number(value) else "index"
    if name.lower() in _TIMES or (_is_time(value) and not _is_number(value)):
        return "time"
    if value == "" or _is_number(value):
        return "number"
    raise ValueError(
        f"column {name!r} holds {value!r}, which is no number; leave it out, or put "
        "numbers in its place"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        _moment(text)
    except ValueError:
        return False
    return True


def _moment(text: str) -> datetime:
    """The moment a text tells of; without a zone it is in UTC.

    Raises:
        ValueError: It is not ISO 8601.
    """
    moment = datetime.fromisoformat(text.strip())
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, date) else "" if value is None else str(value)


def _where(values: Tensor, names: Iterable[str] | None) -> str:
    """The first sample, and column if there are columns, that is not finite."""
    position = (~torch.isfinite(values)).nonzero()[0].tolist()
    if names is None or len(position) != 2:  # noqa: PLR2004 - (sample, column)
        return f", first in sample {position[0]}"
    return f", first in sample {position[0]}, column {list(names)[position[1]]!r}"


def _tensor(values: NDArray[Any]) -> Tensor:
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values))


_READERS: dict[str, Callable[[Path, str | None], UserData]] = {
    ".npz": _from_npz,
    ".npy": _from_npy,
    ".csv": _from_csv,
    ".parquet": _from_parquet,
}
