"""`ModelVersionManager`: the registry's public face; its sister modules decide."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, update
from torch import nn

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard._core.ids import checked_name
from modelyard.stats.direction import is_lower_better
from modelyard.storage import Store, open_store
from modelyard.storage import tables as t
from modelyard.torchtools.layers import unwrapped
from modelyard.torchtools.originals import warn_if_original
from modelyard.version_manager import (
    catalog,
    contents,
    garbage,
    loading,
    promotion,
    saving,
)
from modelyard.version_manager.comparison import compared, relation
from modelyard.version_manager.environment import current_environment, current_user
from modelyard.version_manager.module_format import to_files
from modelyard.version_manager.records import AuditRecord, Comparison, Statistics, Version
from modelyard.version_manager.retention import Ranking, removable
from modelyard.version_manager.signature import signature_of
from modelyard.version_manager.trust import full_name

_logger = logging.getLogger("modelyard")


class ModelVersionManager:
    """Saves versions of models, finds them again and moves the aliases that mean "in use".

    Thread-safe, and safe for several processes on one store: all state is in the store.

    Args:
        base_dir: Folder of the registry; made if needed.
        database_url: SQLAlchemy URL of a database instead of `base_dir/registry.db`.
        storage_url: Object store for the bytes instead of `base_dir/blobs`.
        auto_cleanup: Remove versions beyond the newest `keep_best_n` of a model after each save.
        keep_best_n: How many versions of a model a cleanup keeps.
        store: A store that is open already, instead of the three places above.
        clock: Where the time comes from.
        seed: Taken as every class with state takes it; nothing here is left to chance.
        actor: Who is written to the audit; by default the user of the process.

    Raises:
        ConfigError: A URL that cannot be used, or `keep_best_n` below 1.
        StorageError: The place cannot be opened or written.
    """

    def __init__(
        self,
        base_dir: str | Path = "models",
        *,
        database_url: str | None = None,
        storage_url: str | None = None,
        auto_cleanup: bool = False,
        keep_best_n: int = 10,
        store: Store | None = None,
        clock: Clock | None = None,
        seed: int | None = None,  # noqa: ARG002 - see the docstring
        actor: str | None = None,
    ) -> None:
        if keep_best_n < 1:
            raise ConfigError(f"keep_best_n must be 1 or more, got {keep_best_n}.")
        self.store = store or open_store(
            base_dir, database_url=database_url, storage_url=storage_url
        )
        self.base_dir = self.store.folder
        self._auto_cleanup = auto_cleanup
        self._keep_best_n = keep_best_n
        self._clock = clock or SystemClock()
        self._actor = actor or current_user()

    # ── saving and loading ──────────────────────────────────────────────────────────────────

    def save_model(
        self,
        model: nn.Module,
        model_name: str,
        metrics: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        description: str = "",
        tags: Iterable[str] | None = None,
        *,
        parents: str | Iterable[str | tuple[str, str]] = (),
        example_input: Any = None,
        artifacts: Mapping[str, Any] | None = None,
        signature: Mapping[str, Any] | None = None,
    ) -> str:
        """Store a version of a model. On return it is on the disk.

        Args:
            model: Any module; it is not changed. Wrappers of `torch.compile` and data-parallel
                training are taken off.
            model_name: Letters, digits, `.`, `_`, `-`.
            metrics: Numbers by name; NaN and infinities are stored as None.
            config: JSON values; the keys the constructor takes are passed to it by `load_model`.
            description: Free text.
            tags: Words to find it by; `production` and `milestone` protect from cleanup.
            parents: Ids of versions it was made from, or (id, kind) with kind "compressed",
                "quantized", "distilled", "exported" or "retrained" (the default).
            example_input: Tensor, or tuple or dict of tensors; travels with the version and gives
                its signature.
            artifacts: Bytes, arrays, tensors or JSON by name, which the model needs.
            signature: Names, shapes and dtypes of the inputs, instead of the example's.

        Returns:
            The version id, `ppo_v20231120_120000`.

        Raises:
            ConfigError: A name, metric, tag or config value that cannot be stored.
            InputError: `model` is no module or holds tensors that cannot be stored.
            VersionNotFoundError: An unknown parent.
            StorageError: The disk or the database refuses. Nothing already stored is harmed.
        """
        checked_name(model_name, what="model_name")
        module = unwrapped(model)
        warn_if_original(model, action="saved")
        files = to_files(module)
        plain_metrics, non_finite = saving.checked_metrics(metrics)
        facts = saving.Facts(
            model_name=model_name,
            metrics=plain_metrics,
            non_finite=non_finite,
            config=saving.checked_config(config),
            description=description,
            tags=saving.checked_tags(tags),
            parents=saving.checked_parents(parents),
            class_name=full_name(type(module)),
            cannot_load_full_reason=files.reason,
            signature=signature_of(signature, example_input),
            environment=current_environment(),
        )
        extras = dict(artifacts or {})
        if example_input is not None:
            extras[saving.EXAMPLE_INPUT] = example_input
        parts = contents.put_all(self.store, files, extras)
        version_id = saving.store_version(
            self.store, self.base_dir, facts, parts, now=self._clock.now(), actor=self._actor
        )
        if self._auto_cleanup:
            self.cleanup_old_versions(model_name)
        return version_id

    def load_model(
        self,
        version_id: str,
        model_class: type[nn.Module] | None = None,
        load_full: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        trust: bool = False,
        trusted_classes: Iterable[Any] = (),
    ) -> nn.Module:
        """A stored module in eval mode, its weights equal bit for bit, every file verified.

        Args:
            version_id: Which version.
            model_class: Class to make from the stored config and fill with the weights. With
                `load_full` it is only vouched for.
            load_full: Rebuild the module as it was saved; needs no class. Also what happens when
                neither this nor `model_class` is given.
            trust: Unpickle the stored module without restriction: runs code from the file. For
                files of your own only; written to the audit.
            trusted_classes: Classes (or functions) that may be rebuilt although this process
                neither saved nor registered them.

        Raises:
            VersionNotFoundError: No such version.
            IntegrityError: A file is missing or has other bytes than were saved.
            UntrustedClassError: The module is made of classes nobody has vouched for.
            InputError: It cannot be rebuilt whole, or its weights do not fit `model_class`.
        """
        version = self.get_version(version_id)
        paths = contents.model_paths(self.store, version_id)
        if trust:
            with self.store.database.writing() as connection:
                self._record(connection, "trust", version, {"reason": "load_model(trust=True)"})
        if load_full or model_class is None:
            classes = [*trusted_classes, *([model_class] if model_class else [])]
            return loading.load_whole(version, paths, trusted_classes=classes, trust=trust)
        return loading.load_into(model_class, version, paths)

    # ── finding ─────────────────────────────────────────────────────────────────────────────

    def get_version(self, version_id: str) -> Version:
        """What is known about a version.

        Raises:
            VersionNotFoundError: No such version.
        """
        with self.store.database.reading() as connection:
            return catalog.find(connection, version_id)

    def list_versions(
        self,
        model_name: str | None = None,
        tags: Iterable[str] | None = None,
        sort_by: str = "timestamp",
        ascending: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
    ) -> list[Version]:
        """Versions that are not removed, newest first unless told otherwise.

        Args:
            model_name: Only of this model.
            tags: Only those that have all of these.
            sort_by: `timestamp`, `version_id`, `model_name`, `size_bytes`, or a metric as
                `sharpe` or `metrics.sharpe`; versions without the metric come last.
            ascending: Smallest or oldest first.

        Raises:
            ConfigError: `sort_by` is neither a column nor a metric that any version has.
        """
        with self.store.database.reading() as connection:
            catalog.check_sort_key(connection, sort_by)
            return catalog.listed(
                connection,
                model_name=model_name,
                tags=saving.checked_tags(tags),
                sort_by=sort_by,
                ascending=ascending,
            )

    def get_best_version(
        self,
        model_name: str,
        metric: str,
        maximize: bool = True,  # noqa: FBT001, FBT002 - the design document's signature
    ) -> Version:
        """The version with the best finite value of a metric; of equals, the newest.

        Raises:
            VersionNotFoundError: No version of the model has it.
        """
        with self.store.database.reading() as connection:
            return catalog.best(connection, model_name, metric, maximize=maximize)

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
            lineage = relation(
                version_id1,
                version_id2,
                catalog.ancestors(connection, version_id1),
                catalog.ancestors(connection, version_id2),
            )
        return compared(first, second, metrics=metrics, lineage=lineage)

    def get_statistics(self, model_name: str | None = None) -> Statistics:
        """The registry, or one model of it, in numbers."""
        with self.store.database.reading() as connection:
            return catalog.statistics(connection, model_name)

    def get_history(
        self, model_name: str | None = None, *, version_id: str | None = None
    ) -> list[AuditRecord]:
        """Who did what, oldest first; append-only."""
        with self.store.database.reading() as connection:
            return catalog.history(connection, model_name=model_name, version_id=version_id)

    # ── aliases and tags ────────────────────────────────────────────────────────────────────

    def rollback_to_version(self, version_id: str) -> Version:
        """Make a version production again; nothing is deleted.

        Returns:
            The version that is production now, with `previous_version_id`.

        Raises:
            VersionNotFoundError: No such version.
            IntegrityError: Its files are damaged; production stays as it was.
        """
        model_name = self.verify_version(version_id)["model_name"]
        return self._move_alias(model_name, promotion.PRODUCTION, version_id, action="rollback")

    def set_alias(
        self,
        model_name: str,
        alias: str,
        version_id: str,
        *,
        expected_version_id: str | None = None,
        action: str = "set_alias",
        actor: str | None = None,
    ) -> Version:
        """Point an alias such as `production` or `candidate` to a version.

        Args:
            model_name: The model whose alias moves.
            alias: Its name.
            version_id: A version of that model.
            expected_version_id: If given, the alias must point there now; two who promote at
                once cannot both win.
            action: What the audit calls it.
            actor: Who asked, for the audit.

        Returns:
            The version, with `previous_version_id`.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: It belongs to another model.
            StaleRevisionError: The alias points elsewhere than expected.
            IntegrityError: Production may not be a version whose files are damaged.
        """
        checked_name(alias, what="alias")
        if alias == promotion.PRODUCTION:
            self.verify_version(version_id)
        return self._move_alias(
            model_name,
            alias,
            version_id,
            action=action,
            actor=actor,
            expected_version_id=expected_version_id,
        )

    def get_by_alias(self, model_name: str, alias: str = "production") -> Version:
        """The version an alias points to.

        Raises:
            VersionNotFoundError: There is no such alias.
        """
        with self.store.database.reading() as connection:
            version_id = promotion.required_target(connection, model_name, alias)
            return catalog.find(connection, version_id)

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove an alias; the version stays.

        Raises:
            VersionNotFoundError: There is no such alias.
        """
        with self.store.database.writing() as connection:
            promotion.drop_alias(
                connection, model_name, alias, actor=self._actor, at=self._clock.now()
            )

    def verify_version(self, version_id: str) -> Version:
        """Check that every file of a version's module holds the bytes that were saved.

        Returns:
            The version.

        Raises:
            VersionNotFoundError: No such version.
            IntegrityError: A file is missing or damaged.
        """
        version = self.get_version(version_id)
        contents.model_paths(self.store, version_id)
        return version

    def tag_version(self, version_id: str, tag: str) -> Version:
        """Add a tag; a tag never moves an alias.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: A tag with odd characters.
        """
        checked_name(tag, what="tag")
        with self.store.database.writing() as connection:
            version = catalog.find(connection, version_id)
            if tag not in version["tags"]:
                connection.execute(insert(t.tag).values(version_id=version_id, tag=tag))
                self._record(connection, "tag", version, {"tag": tag})
        return self.get_version(version_id)

    def untag_version(self, version_id: str, tag: str) -> Version:
        """Take a tag off; no error if the version does not have it.

        Raises:
            VersionNotFoundError: No such version.
        """
        row = t.tag.c
        with self.store.database.writing() as connection:
            version = catalog.find(connection, version_id)
            if tag in version["tags"]:
                connection.execute(
                    delete(t.tag).where(row.version_id == version_id, row.tag == tag)
                )
                self._record(connection, "untag", version, {"tag": tag})
        return self.get_version(version_id)

    # ── what travels with a version ─────────────────────────────────────────────────────────

    def attach(self, version_id: str, name: str, data: Any) -> None:
        """Add data to a stored version: a baseline, a tuning choice. Replaces one of that name.

        Args:
            version_id: Which version.
            name: Letters, digits, `.`, `_`, `-`.
            data: Bytes, array, tensors or JSON values.

        Raises:
            VersionNotFoundError: No such version.
            ConfigError: A name or data that cannot be stored.
        """
        version = self.get_version(version_id)
        part = contents.encode(self.store, "attachment", name, data)
        row = t.artifact.c
        with self.store.database.writing() as connection:
            connection.execute(
                delete(t.artifact).where(
                    row.version_id == version_id, row.kind == "attachment", row.name == name
                )
            )
            saving.add_part(connection, self.store.blobs, version_id, part)
            detail = {"name": name, "sha256": part.ref.sha256}
            self._record(connection, "attach", version, detail)

    def read_attachment(self, version_id: str, name: str) -> Any:
        """What was attached under this name, verified.

        Raises:
            NotFoundError: Nothing is; the message names what there is.
            IntegrityError: The stored bytes are damaged.
        """
        self.get_version(version_id)
        return contents.read(self.store, "attachment", version_id, name)

    def read_artifact(self, version_id: str, name: str) -> Any:
        """An artifact given at save; `example_input` is one of them.

        Raises:
            NotFoundError: There is none of this name; the message names what there is.
            IntegrityError: The stored bytes are damaged.
        """
        self.get_version(version_id)
        return contents.read(self.store, "artifact", version_id, name)

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
        case: production and the three before it, every aliased version, those in a rollout,
        tagged `production` or `milestone`, needed by another's lineage, younger than 24 h, or
        lacking the metric.

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
        if keep < 1:
            raise ConfigError(f"keep_best_n must be 1 or more, got {keep}.")
        if metric is not None and is_lower_better(metric) == maximize:
            _logger.warning(
                "cleanup_old_versions(metric=%r, maximize=%s) keeps the %s; by its name the "
                "other way is better. Pass maximize=%s if that was meant.",
                metric,
                maximize,
                "largest" if maximize else "smallest",
                not maximize,
            )
        ranking = Ranking(keep=keep, metric=metric, maximize=maximize)
        now = self._clock.now()
        with self.store.database.writing() as connection:
            used = catalog.in_use(connection)
            versions = catalog.listed(connection, model_name=model_name)
            ids = [
                version_id
                for name in dict.fromkeys(version["model_name"] for version in versions)
                for version_id in removable(
                    [v for v in versions if v["model_name"] == name], ranking, now=now, in_use=used
                )
            ]
            if not dry_run:
                garbage.bury(connection, ids, at=now, actor=self._actor)
        return ids

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

    def gc(self, *, dry_run: bool = False, grace_hours: float = 24.0) -> list[str]:
        """Free the bytes of versions removed more than `grace_hours` ago; the digests freed."""
        return garbage.collect(
            self.store, self.base_dir, now=self._clock.now(), dry_run=dry_run, grace_h=grace_hours
        )

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _move_alias(
        self,
        model_name: str,
        alias: str,
        version_id: str,
        *,
        action: str,
        actor: str | None = None,
        expected_version_id: str | None = None,
    ) -> Version:
        with self.store.database.writing() as connection:
            previous = promotion.move_alias(
                connection,
                alias,
                version_id,
                model_name=model_name,
                action=action,
                actor=actor or self._actor,
                at=self._clock.now(),
                expected_version_id=expected_version_id,
            )
            version = catalog.find(connection, version_id)
        return {**version, "previous_version_id": previous}

    def _record(
        self, connection: Connection, action: str, version: Version, detail: Mapping[str, Any]
    ) -> None:
        """Append to the audit, in the transaction that does what it tells of."""
        saving.record(
            connection,
            action=action,
            model_name=version["model_name"],
            version_id=version["version_id"],
            at=self._clock.now(),
            actor=self._actor,
            detail=detail,
        )
