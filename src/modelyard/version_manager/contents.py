"""The parts of a version in the blob store: put there, and read back verified."""

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, select
from torch import nn

from modelyard._core.errors import ConfigError, IntegrityError, NotFoundError
from modelyard._core.ids import checked_name
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.storage.hashing import WORTH_THREADS_BYTES
from modelyard.version_manager import module_format, payloads, saving
from modelyard.version_manager.loading import ModelPaths
from modelyard.version_manager.saving import StoredPart
from modelyard.version_manager.tensor_files import write_tensors


def put(store: Store, kind: str, name: str, encoding: str, fill: payloads.Fill) -> StoredPart:
    """Store what `fill` writes; part of no version yet, and durable when it is."""
    ref = store.blobs.put(fill)
    return StoredPart(kind=kind, name=name, encoding=encoding, ref=ref, fill=fill)


def encode(store: Store, kind: str, name: str, value: Any) -> StoredPart:
    """Store an artifact or attachment.

    Raises:
        ConfigError: A name or value that cannot be stored.
    """
    checked_name(name, what=kind)
    encoding, fill = payloads.encoded(value, where=f"{kind} {name!r}")
    return put(store, kind, name, encoding, fill)


def extras_of(
    artifacts: Mapping[str, Any] | None, *, example_input: Any, training_state: Any
) -> dict[str, Any]:
    """What travels with a version by name, from the arguments of a save.

    Raises:
        ConfigError: An artifact has a name that an argument of its own stands for, or the training
            state is no dict of things with a `state_dict`.
    """
    extras = dict(artifacts or {})
    for name, value in (
        (saving.EXAMPLE_INPUT, example_input),
        (saving.TRAINING_STATE, _states_of(training_state)),
    ):
        if name in extras:
            raise ConfigError(f"artifacts may not be called {name!r}; pass {name}= instead.")
        if value is not None:
            extras[name] = value
    return extras


def _states_of(training_state: Any) -> dict[str, Any] | None:
    if training_state is None:
        return None
    if not isinstance(training_state, Mapping):
        raise ConfigError(
            'training_state must be a dict such as {"optimizer": optimizer}, got a '
            f"{type(training_state).__name__}."
        )
    return {
        str(name): part.state_dict() if hasattr(part, "state_dict") else part
        for name, part in training_state.items()
    }


def put_module(store: Store, model: nn.Module) -> tuple[list[StoredPart], str | None]:
    """Store what a module is made of; its parts, and why it cannot be rebuilt whole, if so.

    Raises:
        InputError: It holds tensors that cannot be stored.
        StorageError: The disk refuses.
    """
    tensors = module_format.storable_tensors(model)
    fill = write_tensors(tensors, metadata=module_format.part_versions(model))
    weights = put(store, "model", saving.WEIGHTS, "safetensors", fill)
    # The disk takes the weights while the module is described.
    store.blobs.start_sync(weights.ref.digest)
    description, reason = module_format.description_of(model)
    if description is None:
        return [weights], reason
    fill = payloads.writes(description)
    return [weights, put(store, "model", saving.DESCRIPTION, "module", fill)], None


def put_artifacts(store: Store, artifacts: Mapping[str, Any]) -> list[StoredPart]:
    """Store what travels with a version.

    Raises:
        ConfigError: An artifact that cannot be stored.
    """
    return [encode(store, "artifact", name, value) for name, value in artifacts.items()]


def read(store: Store, kind: str, version_id: str, name: str) -> Any:
    """An artifact or attachment as it was given.

    Raises:
        NotFoundError: There is none of this name; the message names what there is.
        IntegrityError: The stored bytes are damaged.
    """
    row = t.artifact.c
    query = select(row.name, row.encoding, row.digest).where(
        row.version_id == version_id, row.kind == kind
    )
    with store.database.reading() as connection:
        known = {r.name: (r.encoding, r.digest) for r in connection.execute(query)}
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise NotFoundError(f"{version_id} has no {kind} {name!r}. There are: {names}.")
    encoding, digest = known[name]
    return payloads.decoded(encoding, store.blobs.open_verified(digest))


def model_paths(store: Store, version_id: str, *, needs_original: bool = False) -> ModelPaths:
    """The files a version's module is made of, every one verified: large weights when asked for.

    Args:
        store: Where they are.
        version_id: Whose.
        needs_original: Whether a copy kept here does not do: the blob itself must be there too.

    Raises:
        IntegrityError: One is missing or damaged.
    """
    with store.database.reading() as connection:
        rows = connection.execute(_MODEL_FILES, {"version_id": version_id}).all()
    digests = {row.name: row.digest for row in rows}
    if saving.WEIGHTS not in digests:
        raise IntegrityError(f"The database has no weights for {version_id}.")
    for name, digest in digests.items():
        if needs_original and not store.blobs.has(digest):
            raise IntegrityError(f"{name} of {version_id} is gone: there is no blob {digest}.")
    is_large = any(row.size_bytes >= WORTH_THREADS_BYTES for row in rows)
    begun = _begun if is_large else _done
    weights = begun(functools.partial(store.blobs.open_verified, digests.pop(saving.WEIGHTS)))
    files = {name: store.blobs.open_verified(digest) for name, digest in digests.items()}
    return ModelPaths(weights=weights, description=files.get(saving.DESCRIPTION))


_MODEL_FILES = (
    select(t.artifact.c.name, t.artifact.c.digest, t.blob.c.size_bytes)
    .join(t.blob, t.blob.c.digest == t.artifact.c.digest)
    .where(t.artifact.c.version_id == bindparam("version_id"), t.artifact.c.kind == "model")
)


def _begun(work: Callable[[], Path]) -> Callable[[], Path]:
    """Begin `work` in a thread of its own; what waits for its result."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="modelyard-verify")
    try:
        result = thread.submit(work)
    except RuntimeError:  # the main thread has ended, or there are no more threads to be had
        return _done(work)
    finally:
        thread.shutdown(wait=False)
    return result.result


def _done(work: Callable[[], Path]) -> Callable[[], Path]:
    """Do `work`; what gives its result."""
    path = work()
    return lambda: path
