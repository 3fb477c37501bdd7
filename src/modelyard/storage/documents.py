"""Small files under names of their own, beside the blobs: manifests, and what happened since.

They say in plain JSON what the database knows, so that a lost one can be made again. A name is a
path such as `ppo/ppo_v20231120_120000/manifest.json`.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from modelyard._core.errors import StorageError
from modelyard._core.files import make_folder, write_bytes
from modelyard.storage.objects import ObjectStore, StoredObject

_NOT_DOCUMENTS = frozenset({"blobs", "cache"})
_DEEPEST = 3  # model/version/artifacts/file


class Documents(Protocol):
    """Where small named files are kept."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all; durable on return."""
        ...

    def read(self, name: str, *, fresh: bool = False) -> bytes | None:
        """A file's bytes, or None if there is none; `fresh` ones are no copy kept here."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove every file whose name begins with `name` and a slash."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        ...

    def entries(self) -> Iterator[StoredObject]:
        """All files by name and age, in no order; files of cut-off writes end in `.tmp`."""
        ...

    def remove(self, name: str) -> None:
        """Remove one file; no error if it is gone already."""
        ...


class LocalDocuments:
    """Files in a folder that people look at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, data: bytes) -> None:
        """As `Documents.write`."""
        path = self._folder / name
        try:
            make_folder(path.parent)
            write_bytes(path, data)
        except OSError as error:
            raise StorageError(
                f"Cannot write {str(path)!r}: {error}. Nothing already stored was touched."
            ) from error

    def read(self, name: str, *, fresh: bool = False) -> bytes | None:  # noqa: ARG002 - there are no copies
        """As `Documents.read`."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"Cannot read {str(self._folder / name)!r}: {error}") from error

    def remove_folder(self, name: str) -> None:
        """As `Documents.remove_folder`."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def has(self, name: str) -> bool:
        """As `Documents.has`."""
        return (self._folder / name).exists()

    def entries(self) -> Iterator[StoredObject]:
        """As `Documents.entries`."""
        for folder, folders, files in os.walk(self._folder):
            depth = len(Path(folder).relative_to(self._folder).parts)
            # The folder may be any: people keep a registry beside other things.
            hidden = _NOT_DOCUMENTS if depth == 0 else ()
            folders[:] = [
                name
                for name in folders
                if depth < _DEEPEST and name not in hidden and not name.startswith(".")
            ]
            for file in files:
                path = Path(folder, file)
                with contextlib.suppress(FileNotFoundError):
                    modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                    yield StoredObject(path.relative_to(self._folder).as_posix(), modified_at)

    def remove(self, name: str) -> None:
        """As `Documents.remove`."""
        (self._folder / name).unlink(missing_ok=True)


class RemoteDocuments:
    """Files in an object store; read ones are kept in a local folder.

    Args:
        objects: Where they are.
        cache: Folder of the copies. Documents are never written twice with other bytes but by
            a repair, so a copy is as good as the original; each carries its own checksum.
    """

    def __init__(self, objects: ObjectStore, cache: Path) -> None:
        self._objects = objects
        self._cache = LocalDocuments(cache)

    def write(self, name: str, data: bytes) -> None:
        """As `Documents.write`."""
        self._objects.put(name, data)
        self._cache.write(name, data)

    def read(self, name: str, *, fresh: bool = False) -> bytes | None:
        """As `Documents.read`."""
        data = None if fresh else self._cache.read(name)
        if data is None:
            data = self._objects.get(name)
            if data is not None:
                self._cache.write(name, data)
        return data

    def remove_folder(self, name: str) -> None:
        """As `Documents.remove_folder`."""
        self._objects.delete(entry.name for entry in self._objects.entries(f"{name}/"))
        self._cache.remove_folder(name)

    def has(self, name: str) -> bool:
        """As `Documents.has`, in the object store: the copies do not count."""
        return self._objects.has(name)

    def entries(self) -> Iterator[StoredObject]:
        """As `Documents.entries`."""
        return self._objects.entries()

    def remove(self, name: str) -> None:
        """As `Documents.remove`."""
        self._objects.delete([name])
        self._cache.remove(name)
