"""Bytes by their digest: written once, never changed, verified when read.

Two places behind one protocol: a local folder (`LocalBlobs`), and any object store that obstore
knows (`RemoteBlobs`).
"""

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from blake3 import blake3

from modelyard._core.errors import IntegrityError, StorageError
from modelyard._core.files import fsync_file, fsync_folder, make_folder
from modelyard._core.forking import call_after_fork
from modelyard.storage.hashing import BlobRef, HashingWriter, in_background, verify
from modelyard.storage.objects import ObjectStore

Fill = Callable[[HashingWriter], None]
_INCOMING = "incoming"


@dataclass(frozen=True)
class StoredBlob:
    """A blob as a listing tells of it: its name and when it was written (UTC)."""

    digest: str
    modified_at: datetime


class BlobStore(Protocol):
    """Where bytes are kept. All calls are safe across threads and processes."""

    def put(self, fill: Fill) -> BlobRef:
        """Store what `fill` writes. Equal bytes are stored once. Durable after `sync`.

        A blob of the same name that turns out to be damaged is replaced.
        """
        ...

    def start_sync(self, digest: str) -> None:
        """Begin to bring a blob to the disk, and return at once; `sync` tells how it went."""
        ...

    def sync(self, digests: Iterable[str]) -> None:
        """Return once these blobs, and their names, have reached the disk."""
        ...

    def has(self, digest: str) -> bool:
        """Whether a blob of this name is there; its bytes are not looked at."""
        ...

    def open_verified(self, digest: str) -> Path:
        """A local file with the blob's bytes, its digest checked just now.

        Raises:
            IntegrityError: Missing, or other bytes than were stored.
        """
        ...

    def check(self, digest: str) -> None:
        """Verify the blob itself, not a copy of it kept here.

        Raises:
            IntegrityError: Missing, or other bytes than were stored.
        """
        ...

    def link(self, digest: str, path: Path) -> None:
        """Make the blob visible to people at `path` (local stores only; else nothing)."""
        ...

    def is_linked(self, digest: str, path: Path) -> bool:
        """Whether what people see at `path` is the sound blob; remote stores show nothing."""
        ...

    def remove(self, digest: str) -> None:
        """Forget the blob; no error if it is gone already."""
        ...

    def stored(self) -> Iterator[StoredBlob]:
        """Every blob there is, in no order."""
        ...

    def leftovers(self) -> Iterator[StoredBlob]:
        """Files of saves that were cut off, by the names that `remove_leftover` takes."""
        ...

    def remove_leftover(self, name: str) -> None:
        """Forget such a file; no error if it is gone already."""
        ...


class LocalBlobs:
    """Blobs in `folder/<first 2 hex>/<digest>`, read-only files.

    Thread-safe: files appear whole under their names; `_lock` guards `_syncing`.

    Args:
        folder: Where they lie.
        is_cache: Whether they are copies, which nobody syncs.
    """

    def __init__(self, folder: Path, *, is_cache: bool = False) -> None:
        self._folder = folder
        self._is_cache = is_cache
        self._lock = threading.Lock()
        self._syncing: dict[str, Future[None]] = {}
        call_after_fork(self._after_fork)

    def path_of(self, digest: str) -> Path:
        """Where the blob lies."""
        return self._folder / digest[:2] / digest

    def put(self, fill: Fill) -> BlobRef:
        """As `BlobStore.put`: stream to a temporary file, rename."""
        temporary = self._folder / _INCOMING / secrets.token_hex(8)
        try:
            try:
                return self._put(temporary, fill)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise self._refused(error) from error

    def start_sync(self, digest: str) -> None:
        """As `BlobStore.start_sync`, in a thread that all blob stores share."""
        with self._lock:
            begun = in_background("sync", fsync_file, self.path_of(digest))
            if begun is not None:
                self._syncing[digest] = begun

    def sync(self, digests: Iterable[str]) -> None:
        """As `BlobStore.sync`; also of blobs another process has written and perhaps not synced.

        Raises:
            StorageError: The disk refuses.
        """
        folders = set()
        try:
            for digest in digests:
                with self._lock:
                    begun = self._syncing.pop(digest, None)
                # The system tells of a failed write once: whoever began must be asked.
                if begun is None:
                    fsync_file(self.path_of(digest))
                else:
                    begun.result()
                folders.add(self.path_of(digest).parent)
            for folder in (*folders, self._folder) if folders else ():
                fsync_folder(folder)
        except OSError as error:
            raise self._refused(error) from error

    def has(self, digest: str) -> bool:
        """As `BlobStore.has`."""
        return self.path_of(digest).exists()

    def open_verified(self, digest: str) -> Path:
        """As `BlobStore.open_verified`."""
        path = self.path_of(digest)
        verify(path, digest)
        return path

    def check(self, digest: str) -> None:
        """As `BlobStore.check`."""
        verify(self.path_of(digest), digest)

    def link(self, digest: str, path: Path) -> None:
        """Hard link, or a copy where the file system has none."""
        make_folder(path.parent)
        try:
            os.link(self.path_of(digest), path)
        except OSError:
            pass  # something stands there, or there are no hard links
        else:
            return
        # Beside it first: what stands at `path` may be the last copy of something.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            try:
                os.link(self.path_of(digest), temporary)
            except OSError:
                shutil.copyfile(self.path_of(digest), temporary)
            temporary.replace(path)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def is_linked(self, digest: str, path: Path) -> bool:
        """As `BlobStore.is_linked`; a copy of its own is read."""
        with contextlib.suppress(OSError):
            if path.samefile(self.path_of(digest)):
                return True
        try:
            verify(path, digest)
        except IntegrityError:
            return False
        return True

    def remove(self, digest: str) -> None:
        """Unlink, never truncate: a loaded tensor may still be mapped to the file."""
        self.path_of(digest).unlink(missing_ok=True)

    def stored(self) -> Iterator[StoredBlob]:
        """As `BlobStore.stored`."""
        return self._entries("??/*")

    def leftovers(self) -> Iterator[StoredBlob]:
        """As `BlobStore.leftovers`."""
        return self._entries(f"{_INCOMING}/*")

    def remove_leftover(self, name: str) -> None:
        """As `BlobStore.remove_leftover`."""
        (self._folder / _INCOMING / name).unlink(missing_ok=True)

    def _after_fork(self) -> None:
        """In a child: the thread that was at the syncs is not here."""
        self._lock = threading.Lock()
        self._syncing = {}

    def _put(self, temporary: Path, fill: Fill) -> BlobRef:
        made = HashingWriter(lambda: _created(temporary), should_sync=not self._is_cache)
        with contextlib.closing(made) as writer:
            fill(writer)
            path = self.path_of(writer.digest)
            if not self._is_sound(writer.digest):
                writer.flush()
                path.parent.mkdir(exist_ok=True)
                temporary.chmod(0o444)
                temporary.replace(path)
            return writer.ref()

    def _is_sound(self, digest: str) -> bool:
        """Whether the blob is there with the bytes of its name."""
        path = self.path_of(digest)
        if not path.exists():
            return False
        try:
            verify(path, digest)
        except IntegrityError:
            return False
        return True

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"Cannot store a blob under {str(self._folder)!r}: {error}. "
            "Nothing already stored was touched."
        )

    def _entries(self, pattern: str) -> Iterator[StoredBlob]:
        for path in self._folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield StoredBlob(path.name, modified_at)


class RemoteBlobs:
    """Blobs in an object store, with verified local copies.

    Args:
        objects: Where they are.
        cache: Folder of the copies.
    """

    def __init__(self, objects: ObjectStore, cache: Path) -> None:
        self._objects = objects
        self._cache = LocalBlobs(cache, is_cache=True)

    def put(self, fill: Fill) -> BlobRef:
        """As `BlobStore.put`; the bytes pass through the local cache."""
        ref = self._cache.put(fill)
        # Whatever is there under this name has the same bytes: writing again is harmless.
        self._objects.put(_key(ref.digest), self._cache.path_of(ref.digest))
        return ref

    def start_sync(self, digest: str) -> None:
        """Nothing: an object store answers when an object is durable."""

    def sync(self, digests: Iterable[str]) -> None:
        """Nothing: an object store answers when an object is durable."""

    def has(self, digest: str) -> bool:
        """As `BlobStore.has`, in the object store: the cache does not count."""
        return self._objects.has(_key(digest))

    def open_verified(self, digest: str) -> Path:
        """As `BlobStore.open_verified`; a damaged copy in the cache is fetched again."""
        try:
            return self._cache.open_verified(digest)
        except IntegrityError:
            self._cache.remove(digest)
        where = f"{self._objects.url}/{_key(digest)}"
        found = self._cache.put(lambda file: self._fetch(digest, file)).digest
        if found != digest:
            self._cache.remove(found)
            raise IntegrityError(f"{where} is damaged: expected blake3 {digest}, found {found}.")
        return self._cache.path_of(digest)

    def check(self, digest: str) -> None:
        """As `BlobStore.check`: reads the object, whatever the cache has."""
        where = f"{self._objects.url}/{_key(digest)}"
        hasher = blake3()
        try:
            for chunk in self._objects.chunks(_key(digest)):
                hasher.update(chunk)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where} cannot be read: it is not there.") from error
        if (found := hasher.hexdigest()) != digest:
            raise IntegrityError(f"{where} is damaged: expected blake3 {digest}, found {found}.")

    def link(self, digest: str, path: Path) -> None:
        """Nothing: remote blobs have no place in a local folder."""

    def is_linked(self, digest: str, path: Path) -> bool:  # noqa: ARG002 - nothing is shown
        """Always: remote blobs have no place in a local folder."""
        return True

    def remove(self, digest: str) -> None:
        """Delete the object and its local copy."""
        self._cache.remove(digest)
        self._objects.delete([_key(digest)])

    def stored(self) -> Iterator[StoredBlob]:
        """As `BlobStore.stored`."""
        for entry in self._objects.entries("blobs/"):
            yield StoredBlob(entry.name.rpartition("/")[2], entry.modified_at)

    def leftovers(self) -> Iterator[StoredBlob]:
        """As `BlobStore.leftovers`, of the cache: an object store takes objects whole."""
        return self._cache.leftovers()

    def remove_leftover(self, name: str) -> None:
        """As `BlobStore.remove_leftover`."""
        self._cache.remove_leftover(name)

    def _fetch(self, digest: str, file: HashingWriter) -> None:
        try:
            for chunk in self._objects.chunks(_key(digest)):
                file.write(chunk)
        except FileNotFoundError as error:
            raise IntegrityError(
                f"{self._objects.url}/{_key(digest)} cannot be read: it is not there."
            ) from error


def _created(path: Path) -> IO[bytes]:
    make_folder(path.parent)
    return path.open("xb")


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
