"""A user's own data, as files have it."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from torch import Tensor, nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.pipeline.files import _judge
from modelyard.pipeline.samples import load_user_data, out_of_order

ROWS = [("2023-11-20", 1.5, 2.0, 3.0), ("2023-11-21", 4.0, 5.0, 6.5)]
Write = Callable[..., Path]


@pytest.fixture(params=["csv", "parquet"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes columns by name as a table; the path."""

    def as_csv(**columns: list[Any]) -> Path:
        lines = [
            ",".join(columns),
            *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
        ]
        path = tmp_path / "data.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def as_parquet(**columns: list[Any]) -> Path:
        path = tmp_path / "data.parquet"
        parquet.write_table(pa.table(columns), path)
        return path

    return as_csv if request.param == "csv" else as_parquet


def test_the_column_that_is_to_be_predicted_is_no_input(write: Write) -> None:
    path = write(a=[1.0, 4.0], b=[2.0, 5.0], y=[3.0, 6.5])
    data = load_user_data(path, target="y")
    assert data.inputs.tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert data.targets is not None
    assert data.targets.tolist() == [3.0, 6.5]
    assert data.names == ["a", "b"]
    assert data.times is None
    with pytest.raises(InputError, match="no column 'z'; there are a, b, y"):
        load_user_data(path, target="z")


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("date", ["2023-11-20", "2023-11-21"]),
        ("day", ["2023-11-20T16:00:00+00:00", "2023-11-21T16:00:00+00:00"]),
        ("Timestamp", [1700500000, 1700586400]),
        ("date", [20231120, 20231121]),
    ],
)
def test_dates_say_when_and_are_no_input(write: Write, name: str, times: list[Any]) -> None:
    data = load_user_data(write(**{name: times, "close": [1.0, 2.0]}))
    assert data.inputs.tolist() == [[1.0], [2.0]]
    assert data.names == ["close"]
    assert data.times == [str(time) for time in times]


def test_dates_may_stand_in_any_column(write: Write) -> None:
    data = load_user_data(write(close=[1.0, 2.0], day=["2023-11-20", "2023-11-21"]))
    assert data.times == ["2023-11-20", "2023-11-21"]


def test_parquet_may_hold_moments_and_an_index_without_a_name(tmp_path: Path) -> None:
    days = [datetime(2023, 11, day, tzinfo=UTC) for day in (20, 21)]
    table = pa.table({"close": [1, 2], "__index_level_0__": days})
    parquet.write_table(table, tmp_path / "data.parquet")
    data = load_user_data(tmp_path / "data.parquet")
    assert data.inputs.tolist() == [[1.0], [2.0]]
    assert data.times == ["2023-11-20T00:00:00+00:00", "2023-11-21T00:00:00+00:00"]


@pytest.mark.parametrize("index", [["0", "1"], ["2023-11-20", "2023-11-21"]])
def test_a_first_column_without_a_name_is_an_index(tmp_path: Path, index: list[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f",open,close\n{index[0]},1,2\n{index[1]},3,4\n")
    data = load_user_data(path)
    assert data.names == ["open", "close"]
    assert data.times == (index if "-" in index[0] else None)


def test_what_spreadsheets_write_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes('\ufeff"open, adjusted", "#2"\r\n"1.5",2\r\n3,4\r\n'.encode())
    data = load_user_data(path)
    assert data.inputs.tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert data.names is not None
    assert data.names[0] == "open, adjusted"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line of values"),
        ("a,b\n", "no line of values"),
        ("1,2\n3,4\n", "first line holds numbers"),
        ("a,b\n1\n", "names 2 columns, and its first line has 1"),
        ("a,side\n1,buy\n2,sell\n", "column 'side' holds 'buy'"),
        ("a,b\n1,2\n3,\n", "cannot be read"),
        ("a,b\n1,2\nnan,4\n", "inputs, first in sample 1, column 'a'"),
        ("date\n2023-11-20\n", "no column of numbers"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_user_data(path)


def test_targets_must_be_finite(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", inputs=np.ones((2, 1)), targets=np.array([1.0, np.inf]))
    with pytest.raises(InputError, match="targets, first in sample 1"):
        load_user_data(tmp_path / "x.npz")


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data file"):
        load_user_data(tmp_path / "none.npz")
    (tmp_path / "data.xlsx").touch()
    with pytest.raises(ConfigError, match=r"no known form.*\.parquet"):
        load_user_data(tmp_path / "data.xlsx")
    (tmp_path / "data.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        load_user_data(tmp_path / "data.parquet")
    np.save(tmp_path / "nan.npy", np.array([[np.nan]]))
    with pytest.raises(InputError, match="NaN"):
        load_user_data(tmp_path / "nan.npy")


@pytest.mark.parametrize(
    ("times", "position"),
    [
        ([], None),
        (["2023-11-20", "2023-11-20", "2023-11-21"], None),
        (["2023-11-21T00:00:00+02:00", "2023-11-20T22:30:00"], None),
        (["2023-11-20", "2023-11-22", "2023-11-21"], 2),
        (["9", "10"], None),
        (["10", "9"], 1),
    ],
)
def test_order_in_time(times: list[str], position: int | None) -> None:
    assert out_of_order(times) == position


def test_dates_that_cannot_be_read_are_an_error() -> None:
    with pytest.raises(ValueError, match="11/20/2023"):
        out_of_order(["11/20/2023"])


class Tells(nn.Module):
    """Answers the same for every sample."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answer.expand(len(inputs), *self.answer.shape)


@pytest.mark.parametrize(
    ("answer", "targets", "scores"),
    [
        ([0.1, 0.9], [1, 0], [1.0, 0.0]),
        ([0.1, 0.9], [[1], [0]], [1.0, 0.0]),
        ([[0.1, 0.9], [0.8, 0.2]], [[1, 0], [1, 1]], [1.0, 0.5]),
        ([3.0], [2, 3], [1.0, 0.0]),
        ([[3.0], [1.0]], [[[3.0], [2.0]], [[1.0], [1.0]]], [0.5, 2.0]),
    ],
)
def test_one_score_for_each_sample(answer: Any, targets: Any, scores: list[float]) -> None:
    model = Tells(torch.tensor(answer))
    judge = _judge(model, torch.zeros(2, 1), torch.tensor(targets))
    assert judge.unit_scores(model).tolist() == pytest.approx(scores)


@pytest.mark.parametrize(
    ("targets", "message"),
    [([1, 3], "from 0 to 1"), ([-1, 1], "from 0 to 1"), ([0.5, 1.0], "targets have 1")],
)
def test_targets_that_do_not_fit_the_answers_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _judge(Tells(torch.tensor([0.1, 0.9])), torch.zeros(2, 1), torch.tensor(targets))


def test_whole_numbers_of_a_table_are_classes(write: Write) -> None:
    data = load_user_data(write(a=[1.0, 4.0], y=[0, 2]), target="y")
    assert data.targets is not None
    assert data.targets.dtype == torch.int64
