"""`ModelVersionManager`: the registry's public face; its sister modules decide."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import delete, insert
from torch import nn

from modelyard._core.clock import Clock
from modelyard._core.errors import InputError
from modelyard._core.ids import checked_name
from modelyard.storage import Store, open_store
from modelyard.storage import tables as t
from modelyard.torchtools.layers import unwrapped
from modelyard.torchtools.originals import warn_if_original
from modelyard.torchtools.provenance import note_provenance
from modelyard.torchtools.signature import note_signature, signature_of
from modelyard.version_manager import (
    catalog,
    contents,
    facts,
    loading,
    manifests,
    promotion,
    rebuild,
    saving,
)
from modelyard.version_manager.environment import current_environment, differences
from modelyard.version_manager.keeper import RegistryKeeper
from modelyard.version_manager.parametrized import class_of
from modelyard.version_manager.records import Version
from modelyard.version_manager.tensor_files import read_tensors
from modelyard.version_manager.trust import checked_classes, full_name

_logger = logging.getLogger("modelyard")


class ModelVersionManager(RegistryKeeper):
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
        actor: Who is written to the history; by default the user of the process.

    Raises:
        ConfigError: A URL that cannot be used, or `keep_best_n` below 1.
        StorageError: The place cannot be opened or written, a newer modelyard made it, or its
            database was lost (`rebuild_registry` restores it).
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
        opened = store or open_store(base_dir, database_url=database_url, storage_url=storage_url)
        super().__init__(opened, keep_best_n=keep_best_n, clock=clock, actor=actor)
        self._auto_cleanup = auto_cleanup
        self._environment_warned: set[str] = set()
        rebuild.settle(self.store)

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
        training_state: Mapping[str, Any] | None = None,
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
            signature: Names, shapes and dtypes of inputs and outputs, instead of those that the
                example input and the model's answer to it have.
            training_state: What training needs to go on, by name: optimizers, schedulers,
                anything with a `state_dict`, or such a dict itself. `read_training_state` gives
                it back.

        Returns:
            The version id, `ppo_v20231120_120000`.

        Raises:
            ConfigError: A name, metric, tag, description or config value that cannot be stored.
            InputError: `model` is no module or holds tensors that cannot be stored.
            VersionNotFoundError: An unknown parent.
            StorageError: The disk or the database refuses. Nothing already stored is harmed.
        """
        facts.checked_model_name(model_name)
        module = unwrapped(model)
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                "A TorchScript module holds compiled code, which no version keeps. Save the "
                "module it was made from, or give its file as artifacts={'torchscript': bytes}."
            )
        warn_if_original(model, action="saved")
        extras = contents.extras_of(
            artifacts, example_input=example_input, training_state=training_state
        )
        plain_metrics, non_finite = facts.checked_metrics(metrics)
        said = facts.Facts(
            model_name=model_name,
            metrics=plain_metrics,
            non_finite=non_finite,
            config=facts.checked_config(config),
            description=facts.checked_description(description),
            tags=facts.checked_tags(tags),
            parents=facts.checked_parents(parents),
            class_name=full_name(class_of(module)),
            cannot_load_full_reason=None,
            signature=signature_of(module, signature, example_input),
            environment=current_environment(),
        )
        facts.check_texts({"metrics": said.metrics, "config": said.config}, where="save_model")
        # First what may be refused, then what is large.
        artifacts_stored = contents.put_artifacts(self.store, extras)
        module_stored, reason = contents.put_module(self.store, module)
        version_id = saving.store_version(
            self.store,
            replace(said, cannot_load_full_reason=reason),
            [*module_stored, *artifacts_stored],
            now=self._clock.now(),
            actor=self._actor,
        )
        if self._auto_cleanup:
            self._clean_up_after(version_id, model_name)
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
            IntegrityError: A file is missing or has other bytes than were saved; the manifest too.
            UntrustedClassError: The module is made of classes nobody has vouched for.
            InputError: It cannot be rebuilt whole, or its weights do not fit `model_class`.
            ConfigError: `model_class` or one of `trusted_classes` is no class (or function).
        """
        classes = checked_classes(trusted_classes, model_class)
        version = self.get_version(version_id)
        paths = contents.model_paths(self.store, version_id)
        manifests.check(self.store, version)
        self._warn_of_environment(version)
        if trust:
            with self.store.database.writing() as connection:
                self._record(connection, "trust", version, {"reason": "load_model(trust=True)"})
        if load_full or model_class is None:
            model = loading.load_whole(version, paths, trusted_classes=classes, trust=trust)
        else:
            model = loading.load_into(model_class, version, paths)
        note_signature(model, version["signature"])
        note_provenance(
            model,
            facts.provenance_of(version),
            lambda: read_tensors(paths.weights())[0],
        )
        return model

    def read_training_state(self, version_id: str) -> dict[str, Any]:
        """What was given as `training_state` at save, each as its `state_dict`, verified.

        Raises:
            NotFoundError: Nothing was.
            IntegrityError: The stored bytes are damaged.
        """
        state: dict[str, Any] = self.read_artifact(version_id, saving.TRAINING_STATE)
        return state

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

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove an alias; the version stays.

        Raises:
            VersionNotFoundError: There is no such alias.
        """
        with self.store.database.writing() as connection:
            promotion.drop_alias(
                connection,
                self.store,
                model_name,
                alias,
                actor=self._actor,
                at=self._clock.now(),
            )

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
        with self.store.database.writing() as connection:
            saving.attach(
                connection,
                self.store,
                version,
                part,
                now=self._clock.now(),
                actor=self._actor,
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
                self.store,
                alias,
                version_id,
                model_name=model_name,
                action=action,
                actor=actor or self._actor,
                at=self._clock.now(),
                expected_version_id=expected_version_id,
            )
            version = self._placed(catalog.find(connection, version_id))
        return {**version, "previous_version_id": previous}

    def _warn_of_environment(self, version: Version) -> None:
        """Say once a version what differs from where it was saved."""
        version_id = version["version_id"]
        if version_id in self._environment_warned:
            return
        self._environment_warned.add(version_id)
        found = differences(
            version["environment"], current_environment(), class_name=version["class_name"]
        )
        if found:
            _logger.warning(
                "%s was saved in another environment: %s. Its answers may differ.",
                version_id,
                "; ".join(found),
            )
