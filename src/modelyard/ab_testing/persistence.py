"""An experiment's rows in the store, shared by every process that runs it.

Results are only ever appended. A process sends its own and takes what others sent since it last
asked, in one transaction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from modelyard._core.errors import (
    ConfigError,
    ExperimentExistsError,
    ExperimentNotFoundError,
)
from modelyard._core.plain import without_non_finite
from modelyard.ab_testing.recording.results import Result, checked_metrics
from modelyard.ab_testing.serving.assignment import Assignment
from modelyard.storage import Store
from modelyard.storage.tables import experiment, experiment_result

RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"
_ROWS_AT_ONCE = 10_000
# Settings that may differ when an experiment is taken up again.
_MAY_CHANGE = frozenset({"forced"})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The experiment as it stands in the store.

    Attributes:
        status: `running`, `paused` or `stopped`.
        assignment: Slot table and weight epochs.
    """

    status: str
    assignment: Assignment

    @property
    def variants(self) -> list[list[str]]:
        """The variants of each weight epoch, in order."""
        return [list(epoch.weights) for epoch in self.assignment.epochs]


@dataclass(frozen=True, kw_only=True)
class News:
    """What others have stored since last time.

    Attributes:
        results: Their results, in the store's order.
        last_seq: Everything up to this row is known now.
        stored: The experiment as it stands.
    """

    results: list[Result]
    last_seq: int
    stored: Stored


class ExperimentRows:
    """The rows of one experiment. Thread-safe: it holds no state of its own.

    Args:
        store: Where they are.
        test_name: Whose they are.
    """

    def __init__(self, store: Store, test_name: str) -> None:
        self._database = store.database
        self._test_name = test_name

    def open(
        self, settings: Mapping[str, Any], assignment: Assignment, *, at: str, resume: bool
    ) -> Stored:
        """Create the experiment, or take up the stored one.

        Raises:
            ExperimentExistsError: It exists and `resume` is False.
            ConfigError: It exists with other variants, metric or mode.
        """
        row = {
            "test_name": self._test_name,
            "status": RUNNING,
            "settings": dict(settings),
            "slots": assignment.to_plain(),
            "created_at": at,
        }
        with self._database.writing() as connection:
            insert = _insert_new(connection, experiment).values(row)
            # Returned only when inserted; PostgreSQL's driver gives no row count here.
            if connection.execute(insert.returning(experiment.c.test_name)).first() is not None:
                return Stored(status=RUNNING, assignment=assignment)
            known = connection.execute(self._select(experiment.c.settings))
            stored_settings = known.scalar_one()
            stored = self._stored(connection)
            self._check(stored, stored_settings, settings, resume=resume)
            if assignment.salt not in ("", stored.assignment.salt):
                raise ConfigError(
                    f"The stored experiment {self._test_name!r} has salt "
                    f"{stored.assignment.salt!r}, not {assignment.salt!r}. Leave salt out to go "
                    "on, or choose another test_name to deal the users anew."
                )
            return stored

    def exchange(self, own: Sequence[Result], *, after_seq: int) -> News:
        """Append `own` results and get those that others appended after `after_seq`.

        A result whose request id and variant are stored already is not stored again.
        """
        with self._database.writing() as connection:
            # Writers of one experiment take turns, so that rows appear in the order of `seq`.
            connection.execute(self._select(experiment.c.test_name).with_for_update())
            news = self._news(connection, after_seq)
            if not own:
                return news
            rows = [_row(self._test_name, result) for result in own]
            connection.execute(_insert_new(connection, experiment_result), rows)
            newest = select(func.max(experiment_result.c.seq)).where(self._is_mine)
            last_seq = connection.execute(newest).scalar_one()
            return News(results=news.results, last_seq=last_seq, stored=news.stored)

    def news(self, *, after_seq: int) -> News:
        """What others appended after `after_seq`."""
        with self._database.reading() as connection:
            return self._news(connection, after_seq)

    def all_news(self) -> Iterator[News]:
        """Everything that was ever appended, a part at a time: of months it is too much at once.

        Results that share a request are of one part.
        """
        after_seq = 0
        while True:
            with self._database.reading() as connection:
                query = self._newer(after_seq).limit(_ROWS_AT_ONCE)
                rows = _whole_requests(connection.execute(query).all(), _ROWS_AT_ONCE)
                stored = self._stored(connection)
            if rows:
                after_seq = rows[-1].seq
            yield News(results=[_result(row) for row in rows], last_seq=after_seq, stored=stored)
            if not rows:
                return

    def reassign(self, change: Callable[[Assignment], Assignment]) -> Assignment:
        """Replace the stored assignment by what `change` makes of it."""
        with self._database.writing() as connection:
            query = self._select(experiment.c.settings).with_for_update()
            settings = connection.execute(query).scalar_one()
            changed = change(self._stored(connection).assignment)
            settings = {**settings, "variants": list(changed.weights)}
            self._update(connection, slots=changed.to_plain(), settings=settings)
        return changed

    def set_status(self, status: str) -> str:
        """Change the status, unless the experiment has ended; the status now."""
        with self._database.writing() as connection:
            query = self._select(experiment.c.status).with_for_update()
            if connection.execute(query).scalar_one() == STOPPED:
                return STOPPED
            self._update(connection, status=status)
        return status

    def settings(self) -> dict[str, Any]:
        """What the experiment was made with.

        Raises:
            ExperimentNotFoundError: There is none of this name.
        """
        with self._database.reading() as connection:
            found = connection.execute(self._select(experiment.c.settings)).scalar_one_or_none()
            if found is None:
                names = connection.execute(select(experiment.c.test_name)).scalars().all()
                raise ExperimentNotFoundError(
                    f"No experiment {self._test_name!r} is stored. "
                    f"There are: {', '.join(sorted(names)) or 'none'}."
                )
        return dict(found)

    def history(self) -> Iterator[Result]:
        """Every stored result in the order of the store, a part at a time."""
        after_seq = 0
        while True:
            query = self._newer(after_seq).limit(_ROWS_AT_ONCE)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield from (_result(row) for row in rows)
            after_seq = rows[-1].seq

    @property
    def _is_mine(self) -> Any:
        return experiment_result.c.test_name == self._test_name

    def _select(self, *columns: Any) -> Any:
        return select(*columns).where(experiment.c.test_name == self._test_name)

    def _update(self, connection: Connection, **values: Any) -> None:
        mine = experiment.c.test_name == self._test_name
        connection.execute(update(experiment).where(mine).values(**values))

    def _stored(self, connection: Connection) -> Stored:
        status, slots = connection.execute(
            self._select(experiment.c.status, experiment.c.slots)
        ).one()
        return Stored(status=status, assignment=Assignment.from_plain(self._test_name, slots))

    def _news(self, connection: Connection, after_seq: int) -> News:
        rows = connection.execute(self._newer(after_seq)).all()
        return News(
            results=[_result(row) for row in rows],
            last_seq=rows[-1].seq if rows else after_seq,
            stored=self._stored(connection),
        )

    def _newer(self, after_seq: int) -> Any:
        return (
            select(experiment_result)
            .where(self._is_mine, experiment_result.c.seq > after_seq)
            .order_by(experiment_result.c.seq)
        )

    def _check(
        self, known: Stored, stored: Mapping[str, Any], asked: Mapping[str, Any], *, resume: bool
    ) -> None:
        if not resume:
            raise ExperimentExistsError(
                f"An experiment named {self._test_name!r} is stored already ({known.status}). "
                "Pass resume=True to go on with it, or choose another test_name."
            )
        for key, value in asked.items():
            # What an older modelyard did not store yet cannot differ.
            if key == "variants" and list(value) in known.variants:
                continue  # of an earlier weight epoch: some were added or removed since
            if key in stored and stored[key] != value and key not in _MAY_CHANGE:
                raise ConfigError(
                    f"The stored experiment {self._test_name!r} has {key} {stored.get(key)!r}, "
                    f"not {value!r}. Resume it with the same, or choose another test_name."
                )


class StoredExperiment(TypedDict):
    """One line of the list of experiments."""

    test_name: str
    status: str
    variants: list[str]
    primary_metric: str
    created_at: str


def stored_experiments(store: Store) -> list[StoredExperiment]:
    """All experiments of a store, the newest first."""
    columns = (
        experiment.c.test_name,
        experiment.c.status,
        experiment.c.settings,
        experiment.c.created_at,
    )
    query = select(*columns).order_by(experiment.c.created_at.desc(), experiment.c.test_name)
    with store.database.reading() as connection:
        return [
            {
                "test_name": row.test_name,
                "status": row.status,
                "variants": list(row.settings["variants"]),
                "primary_metric": row.settings["primary_metric"],
                "created_at": row.created_at,
            }
            for row in connection.execute(query)
        ]


def _insert_new(connection: Connection, table: Any) -> Any:
    """An insert that leaves rows alone whose key is there already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _whole_requests(rows: Sequence[Any], n_most: int) -> Sequence[Any]:
    """Rows without those of the last request, where the next part may have more of it."""
    if len(rows) < n_most or rows[-1].request_id is None:
        return rows
    n_whole = len(rows)
    while n_whole and rows[n_whole - 1].request_id == rows[-1].request_id:
        n_whole -= 1
    return rows[:n_whole] or rows


def _row(test_name: str, result: Result) -> dict[str, Any]:
    return {
        "test_name": test_name,
        "at": result.at,
        "variant": result.variant,
        "weight_epoch": result.epoch,
        "unit": result.unit,
        "request_id": result.request_id,
        "metrics": without_non_finite(dict(result.metrics)),
        "first_epoch": result.first_epoch,
    }


def _result(row: Any) -> Result:
    return Result(
        variant=row.variant,
        epoch=row.weight_epoch,
        metrics=checked_metrics(row.metrics),
        at=row.at,
        unit=row.unit,
        request_id=row.request_id,
        first_epoch=row.first_epoch,
    )
