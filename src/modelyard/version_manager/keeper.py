"""Keeping a registry in order: what goes, what is checked, what moves to another one."""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, update

from modelyard._core.clock import Clock
from modelyard._core.errors import (
    ConfigError,
    StorageError,
    VersionInUseError,
    VersionNotFoundError,
)
from modelyard.stats.direction import contradicts_name
from modelyard.storage import Store, drop_lease, write_lease
from modelyard.storage import tables as t
from modelyard.version_manager import (
    bundles,
    catalog,
    contents,
    garbage,
    history,
    manifests,
    rebuild,
    saving,
    verification,
)
from modelyard.version_manager.environment import current_user
from modelyard.version_manager.needs import ancestors, needs_of
from modelyard.version_manager.reader import RegistryReader
from modelyard.version_manager.records import GcReport, RebuildReport, VerifyReport, Version
from modelyard.version_manager.retention import Ranking, reasons_to_keep, removable

_logger = logging.getLogger("modelyard")
_LONGEST_GRACE_H = 876_000
_LONGEST_LEASE_NAME = 200  # the database's column


class RegistryKeeper(RegistryReader):
    """A registry whose versions can be removed, verified, rebuilt and carried elsewhere.

    Args:
        store: Where the registry is.
        keep_best_n: How many versions of a model a cleanup keeps.
        clock: Where the time comes from.
        actor: Who is written to the history; by default the user of the process.

    Raises:
        ConfigError: `keep_best_n` below 1.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep_best_n: int = 10,
        clock: Clock | None = None,
        actor: str | None = None,
    ) -> None:
        super().__init__(store, clock=clock)
        if not isinstance(keep_best_n, int) or keep_best_n < 1:
            raise ConfigError(
                f"keep_best_n must be a whole number of 1 or more, got {keep_best_n!r}."
            )
        self._keep_best_n = keep_best_n
        self._actor = actor or current_user()

    # ── removing ────────────────────────────────────────────────────────────────────────────

    def cleanup_old_versions(
        self,
        model_name: str | None = None,
        keep_best_n: int | None = None,
        metric: str | None = None,
        *,
        maximize: bool = True,
        dry_run: bool = False,
    ) -> list[str]:
        """Remove versions beyond the best (or newest) n of each model.

        A removed version can be brought back by `restore_version` until `gc` has run. Kept in any
        case: production and the three before it, every aliased version, those in a rollout, held
        by a lease, tagged `production` or `milestone`, needed by another's lineage, younger than
        24 h, or lacking the metric.

        Args:
            model_name: Only this model.
            keep_best_n: How many stay; None for the manager's own number.
            metric: What makes a version good; None keeps the newest.
            maximize: Whether a larger value of `metric` is better. Where the metric's name says
                otherwise, a warning does too.
            dry_run: Only say what would go.

        Returns:
            Ids removed.

        Raises:
            ConfigError: `keep_best_n` below 1.
        """
        keep = self._keep_best_n if keep_best_n is None else keep_best_n
        if not isinstance(keep, int) or keep < 1:
            raise ConfigError(f"keep_best_n must be a whole number of 1 or more, got {keep!r}.")
        ranking = Ranking(keep=keep, metric=metric, maximize=maximize)
        now = self._clock.now()
        with self.store.database.writing() as connection:
            needed = needs_of(connection, now_s=now.timestamp())
            versions = catalog.listed(connection, model_name=model_name)
            _warn_of_direction(versions, metric, maximize=maximize)
            ids = [
                version_id
                for name in dict.fromkeys(version["model_name"] for version in versions)
                for version_id in removable(
                    [v for v in versions if v["model_name"] == name],
                    ranking,
                    now=now,
                    needed=needed,
                )
            ]
            if not dry_run:
                garbage.bury(connection, self.store, ids, at=now, actor=self._actor)
        return ids

    def remove_version(self, version_id: str) -> None:
        """Remove one version; `restore_version` brings it back until `gc` has run.

        Raises:
            VersionNotFoundError: No such version.
            VersionInUseError: An alias, a protecting tag, a rollout, a rollback, another's lineage
                or a lease needs it; the message says which.
        """
        now = self._clock.now()
        with self.store.database.writing() as connection:
            version = catalog.find(connection, version_id)
            needs = needs_of(connection, now_s=now.timestamp()).get(version_id, [])
            if reasons := reasons_to_keep(version, needs):
                raise VersionInUseError(
                    f"{version_id!r} cannot be removed: {'; '.join(reasons)}. "
                    "Free it first; nothing was changed."
                )
            garbage.bury(connection, self.store, [version_id], at=now, actor=self._actor)

    def restore_version(self, version_id: str) -> Version:
        """Bring back a removed version.

        Raises:
            VersionNotFoundError: It never was, or `gc` has taken its bytes.
        """
        with self.store.database.writing() as connection:
            version = catalog.find(connection, version_id, removed=True)
            garbage.check_restorable(connection, version_id)
            connection.execute(
                update(t.version)
                .where(t.version.c.version_id == version_id)
                .values(removed_at=None)
            )
            self._record(connection, "restore", version, {})
        return self.get_version(version_id)

    def gc(self, *, dry_run: bool = False, grace_hours: float = 24.0) -> GcReport:
        """Free the bytes that nothing needs any more, in two steps.

        Bytes of versions removed more than `grace_hours` ago are condemned; a run that long
        afterwards frees them, unless a save has taken them up again. What saves that were cut
        off have left goes once it is that old.

        Args:
            dry_run: Only say what would go.
            grace_hours: How long what was removed can be restored; 0 or more.

        Raises:
            ConfigError: `grace_hours` below 0, or of more than a hundred years.
        """
        if not 0 <= grace_hours <= _LONGEST_GRACE_H:
            raise ConfigError(
                f"grace_hours must be between 0 and {_LONGEST_GRACE_H:,}, got {grace_hours}."
            )
        return garbage.collect(
            self.store, now=self._clock.now(), dry_run=dry_run, grace_h=grace_hours
        )

    def hold_version(self, version_id: str, *, holder: str, seconds: float) -> None:
        """Keep a version from being removed, by a lease that runs out by itself.

        Args:
            version_id: Which version.
            holder: Who needs it; the same holder renews its lease.
            seconds: How long from now.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: A holder's name that is too long, or `seconds` that are no number.
        """
        if not math.isfinite(seconds):
            raise ConfigError(f"seconds must be a finite number, got {seconds}.")
        name = _lease_name(version_id, holder)
        expires_at_s = self._clock.now().timestamp() + seconds
        with self.store.database.writing() as connection:
            catalog.find(connection, version_id)
            write_lease(connection, name, holder, expires_at_s=expires_at_s, version_id=version_id)

    def release_version(self, version_id: str, *, holder: str) -> None:
        """Give up a lease before it runs out; nothing if there is none."""
        drop_lease(self.store, _lease_name(version_id, holder), holder)

    # ── checking and restoring ──────────────────────────────────────────────────────────────

    def verify_version(self, version_id: str) -> Version:
        """Check that every file of a version's module, and its manifest, is as it was saved.

        Returns:
            The version.

        Raises:
            VersionNotFoundError: No such version.
            IntegrityError: A file is missing or damaged.
        """
        version = self.get_version(version_id)
        contents.model_paths(self.store, version_id, needs_original=True).weights()
        manifests.check(self.store, version)
        return version

    def verify(self, model_name: str | None = None, *, repair: bool = False) -> VerifyReport:
        """Read and hash everything that is stored; nothing is raised, all is told.

        Args:
            model_name: Only this model.
            repair: Write manifests and the history's documents anew where they are gone or
                damaged. Damaged weights need a backup.

        Raises:
            VersionNotFoundError: `model_name` has no version.
        """
        versions = self.list_versions(model_name, ascending=True)
        if model_name is not None and not versions:
            raise VersionNotFoundError(f"No version of {model_name!r} is stored.")
        events = self.get_history(model_name)
        with self.store.database.reading() as connection:
            return verification.verify(connection, self.store, versions, events, repair=repair)

    def rebuild(self) -> RebuildReport:
        """Take versions that have a manifest but are not in the database into it.

        An empty database gets the history as well, and with it tags, attachments, aliases and
        removals. Rollouts, experiments and monitoring live in the database only.
        """
        return rebuild.rebuild(self.store, now=self._clock.now(), actor=self._actor)

    # ── from registry to registry ───────────────────────────────────────────────────────────

    def export_bundle(
        self,
        version_ids: str | Iterable[str],
        path: str | Path,
        *,
        with_ancestors: bool = True,
    ) -> str:
        """Write versions, and all they were made from, to one verified tar.

        Args:
            version_ids: One or several.
            path: The file; replaced whole or not at all.
            with_ancestors: Whether the versions they were made from go too, as far as they are
                not removed. Without them the bundle still names them.

        Returns:
            The path.

        Raises:
            VersionNotFoundError: One is unknown.
            IntegrityError: A file of theirs is damaged.
            StorageError: `path` cannot be written.
        """
        wanted = [version_ids] if isinstance(version_ids, str) else list(version_ids)
        with self.store.database.snapshot() as connection:
            chosen = {key: catalog.find(connection, key) for key in wanted}
            if with_ancestors:
                related = {key for w in wanted for key in ancestors(connection, w)}
                chosen |= catalog.living(connection, related)
            ordered = catalog.in_order(connection, chosen)
            try:
                bundles.write_bundle(connection, self.store, ordered, Path(path))
            except OSError as error:
                if isinstance(error, StorageError):
                    raise
                raise StorageError(f"{str(path)!r} cannot be written: {error}") from error
        return str(path)

    def import_bundle(self, path: str | Path, *, rename: bool = False) -> dict[str, str]:
        """Take the versions of a bundle into this registry: all of them or none.

        Every byte is verified first. A version that is here already is left as it is; a removed
        one is restored.

        Args:
            path: What `export_bundle` wrote.
            rename: Give versions whose id is taken by another one a free id.

        Returns:
            The id each version of the bundle has here, by the id it has there.

        Raises:
            InputError: The file is no bundle.
            IntegrityError: It is damaged.
            ConflictError: An id is taken, and `rename` is not set.
        """
        bundle = bundles.read_bundle(self.store, Path(path))
        written: list[str] = []
        try:
            with self.store.database.writing() as connection:
                return bundles.insert_bundle(
                    connection,
                    self.store,
                    bundle,
                    written,
                    now=self._clock.now(),
                    actor=self._actor,
                    rename=rename,
                )
        except BaseException:
            saving.forget_folders(self.store, written)
            raise

    def _clean_up_after(self, version_id: str, model_name: str) -> None:
        """Remove old versions; the new one is stored whether or not that can be done."""
        try:
            self.cleanup_old_versions(model_name)
        except StorageError as error:
            _logger.warning(
                "%s is stored, but old versions of %s could not be removed: %s The next save "
                "tries again.",
                version_id,
                model_name,
                error,
            )

    def _record(
        self, connection: Connection, action: str, version: Version, detail: Mapping[str, Any]
    ) -> None:
        """Append to the history, in the transaction that does what it tells of."""
        event = history.Event(
            action=action,
            model_name=version["model_name"],
            version_id=version["version_id"],
            at=self._clock.now(),
            actor=self._actor,
            detail=detail,
        )
        history.record(connection, self.store, event)


def _lease_name(version_id: str, holder: str) -> str:
    name = f"version:{version_id}:{holder}"
    if len(name) > _LONGEST_LEASE_NAME:
        raise ConfigError(
            f"holder {holder[:40]!r}... is too long: with the version's id it may have "
            f"{_LONGEST_LEASE_NAME - len('version::')} characters."
        )
    return name


def _warn_of_direction(versions: list[Version], metric: str | None, *, maximize: bool) -> None:
    if metric is None:
        return
    values = [version["metrics"].get(metric) for version in versions]
    if contradicts_name(metric, values, maximize=maximize):
        _logger.warning(
            "cleanup_old_versions(metric=%r, maximize=%s) keeps the %s; by its name the other way "
            "is better. Pass maximize=%s if that was meant.",
            metric,
            maximize,
            "largest" if maximize else "smallest",
            not maximize,
        )
