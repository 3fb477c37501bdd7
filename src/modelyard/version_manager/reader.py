"""What a registry tells, without changing anything."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard._core.plain import as_whole
from modelyard.stats.direction import contradicts_name
from modelyard.storage import Store
from modelyard.version_manager import catalog, contents, facts, lineage, promotion
from modelyard.version_manager.comparison import compared, relation
from modelyard.version_manager.needs import ancestors
from modelyard.version_manager.records import AuditRecord, Comparison, Lineage, Statistics, Version

_logger = logging.getLogger("modelyard")
_MOST_ROWS = 1 << 62  # databases count no further


class RegistryReader:
    """The questions a registry answers. Thread-safe: all state is in the store.

    Args:
        store: Where the registry is.
        clock: Where the time comes from.
    """

    def __init__(self, store: Store, *, clock: Clock | None = None) -> None:
        self.store = store
        self.base_dir: Path = store.shown
        self._clock = clock or SystemClock()

    def __enter__(self) -> Self:
        """The registry itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the database's connections; what is stored stays, and a later call opens new ones.

        Not needed at the end of a program. A database in memory (`sqlite://`) ends with it.
        """
        self.store.close()

    def get_version(self, version_id: str) -> Version:
        """What is known about a version.

        Raises:
            VersionNotFoundError: No such version.
        """
        with self.store.database.reading() as connection:
            return self._placed(catalog.find(connection, version_id))

    def list_versions(
        self,
        model_name: str | None = None,
        tags: Iterable[str] | None = None,
        sort_by: str = "timestamp",
        ascending: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Version]:
        """Versions that are not removed, newest first unless told otherwise.

        Args:
            model_name: Only of this model.
            tags: Only those that have all of these.
            sort_by: `timestamp`, `version_id`, `model_name`, `size_bytes`, or a metric as
                `sharpe` or `metrics.sharpe`; versions without the metric come last.
            ascending: Smallest or oldest first.
            limit: At most so many; None for all.
            offset: How many to pass over first.

        Raises:
            ConfigError: `sort_by` is neither a column nor a metric that any version has, or a
                negative `limit` or `offset`.
        """
        _check_number("limit", 0 if limit is None else limit)
        _check_number("offset", offset)
        if not isinstance(sort_by, str):
            raise ConfigError(f"sort_by must be text such as 'timestamp', got {sort_by!r}.")
        with self.store.database.reading() as connection:
            catalog.check_sort_key(connection, sort_by)
            found = catalog.listed(
                connection,
                model_name=model_name,
                tags=facts.checked_tags(tags),
                sort_by=sort_by,
                ascending=ascending,
                limit=limit,
                offset=offset,
            )
        return [self._placed(version) for version in found]

    def get_best_version(
        self,
        model_name: str,
        metric: str,
        maximize: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
    ) -> Version:
        """The version with the best finite value of a metric; of equals, the newest.

        Args:
            model_name: Of which model.
            metric: Its name.
            maximize: Whether the larger value is the better one. A warning tells where the
                metric's name says otherwise, as `val_loss` does.

        Raises:
            VersionNotFoundError: No version of the model has it.
        """
        with self.store.database.reading() as connection:
            found = catalog.best(connection, model_name, metric, maximize=maximize)
            ends = [found]
            if contradicts_name(metric, (), maximize=maximize):
                # Whether a drawdown's sign is turned both ends tell: the best may be none, 0.
                ends += [catalog.best(connection, model_name, metric, maximize=not maximize)]
        if contradicts_name(metric, [end["metrics"][metric] for end in ends], maximize=maximize):
            _logger.warning(
                "get_best_version(%r, %r, maximize=%s): by its name the other way is better. Pass "
                "maximize=%s if that was meant.",
                model_name,
                metric,
                maximize,
                not maximize,
            )
        return self._placed(found)

    def compare_versions(
        self, version_id1: str, version_id2: str, metrics: Sequence[str] | None = None
    ) -> Comparison:
        """Two versions side by side: metrics, config, size, lineage.

        Raises:
            VersionNotFoundError: One of them is unknown.
        """
        if isinstance(metrics, str):
            metrics = [metrics]
        with self.store.database.reading() as connection:
            first = catalog.find(connection, version_id1)
            second = catalog.find(connection, version_id2)
            related = relation(
                version_id1,
                version_id2,
                ancestors(connection, version_id1),
                ancestors(connection, version_id2),
            )
        return compared(first, second, metrics=metrics, lineage=related)

    def get_statistics(self, model_name: str | None = None) -> Statistics:
        """The registry, or one model of it, in numbers."""
        with self.store.database.reading() as connection:
            return catalog.statistics(connection, model_name)

    def get_history(
        self,
        model_name: str | None = None,
        *,
        version_id: str | None = None,
        alias: str | None = None,
    ) -> list[AuditRecord]:
        """Who did what, oldest first; append-only.

        Args:
            model_name: Only of this model.
            version_id: Only of this version.
            alias: Only moves of this alias, as `production`.
        """
        with self.store.database.reading() as connection:
            return catalog.history(
                connection, model_name=model_name, version_id=version_id, alias=alias
            )

    def get_lineage(self, version_id: str) -> Lineage:
        """Everything a version was made from, and everything made from it.

        Raises:
            VersionNotFoundError: No such version.
        """
        with self.store.database.reading() as connection:
            return lineage.graph(connection, version_id)

    def get_by_alias(self, model_name: str, alias: str = "production") -> Version:
        """The version an alias points to.

        Raises:
            VersionNotFoundError: There is no such alias.
        """
        with self.store.database.reading() as connection:
            version_id = promotion.required_target(connection, model_name, alias)
            return self._placed(catalog.find(connection, version_id))

    def read_attachment(self, version_id: str, name: str) -> Any:
        """What was attached under this name, verified.

        Raises:
            NotFoundError: Nothing is; the message names what there is.
            IntegrityError: The stored bytes are damaged.
        """
        self.get_version(version_id)
        return contents.read(self.store, "attachment", version_id, name)

    def read_artifact(self, version_id: str, name: str) -> Any:
        """An artifact given at save; `example_input` and `training_state` are among them.

        Raises:
            NotFoundError: There is none of this name; the message names what there is.
            IntegrityError: The stored bytes are damaged.
        """
        self.get_version(version_id)
        return contents.read(self.store, "artifact", version_id, name)

    def _placed(self, version: Version) -> Version:
        """The version with its path in this store."""
        version["path"] = self.store.path_of(version["path"])
        return version


def _check_number(name: str, given: Any) -> None:
    number = as_whole(given)
    if number is None or not 0 <= number < _MOST_ROWS:
        raise ConfigError(f"{name} must be a whole number of 0 or more, got {given!r}.")
