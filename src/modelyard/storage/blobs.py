"""Bytes by their digest: written once, never changed, verified when read.

Two places behind one protocol: a local folder (`LocalBlobs`), and any object store that obstore
knows (`RemoteBlobs`: `s3://`, `gs://`, `az://`, `file://`, `memory://`).
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from blake3 import blake3

from modelyard._core.errors import ConfigError, IntegrityError, StorageError
from modelyard._core.extras import require
from modelyard._core.files import fsync_folder

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BlobRef:
    """What identifies stored bytes.

    Attributes:
        digest: blake3 of the bytes, hexadecimal; the blob's name.
        sha256: sha256 of the same bytes, for people and other tools.
        size_bytes: How many there are.
    """

    digest: str
    sha256: str
    size_bytes: int


class HashingWriter:
    """A binary file for writing that hashes what passes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._blake3 = blake3()
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash `data`; its length in bytes."""
        self._blake3.update(data)
        self._sha256.update(data)
        self._size_bytes += len(data)
        self._file.write(data)
        return len(data)

    def ref(self) -> BlobRef:
        """What has been written so far."""
        return BlobRef(
            digest=self._blake3.hexdigest(),
            sha256=self._sha256.hexdigest(),
            size_bytes=self._size_bytes,
        )


class BlobStore(Protocol):
    """Where bytes are kept. All calls are safe across threads and processes."""

    def put(self, fill: Callable[[HashingWriter], None]) -> BlobRef:
        """Store what `fill` writes. Equal bytes are stored once. Durable on return."""
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

    def link(self, digest: str, path: Path) -> None:
        """Make the blob visible to people at `path` (local stores only; else nothing)."""
        ...

    def remove(self, digest: str) -> None:
        """Forget the blob; no error if it is gone already."""
        ...


class LocalBlobs:
    """Blobs in `folder/<first 2 hex>/<digest>`, read-only files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path_of(self, digest: str) -> Path:
        """Where the blob lies."""
        return self._folder / digest[:2] / digest

    def put(self, fill: Callable[[HashingWriter], None]) -> BlobRef:
        """As `BlobStore.put`: stream to a temporary file, fsync, rename, fsync the folder."""
        incoming = self._folder / "incoming"
        try:
            incoming.mkdir(parents=True, exist_ok=True)
            temporary = incoming / secrets.token_hex(8)
            try:
                ref = _write_hashed(temporary, fill)
                self._adopt(temporary, self.path_of(ref.digest))
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"Cannot store a blob under {str(self._folder)!r}: {error}. "
                "Nothing already stored was touched."
            ) from error
        return ref

    def has(self, digest: str) -> bool:
        """As `BlobStore.has`."""
        return self.path_of(digest).exists()

    def open_verified(self, digest: str) -> Path:
        """As `BlobStore.open_verified`."""
        path = self.path_of(digest)
        verify(path, digest)
        return path

    def link(self, digest: str, path: Path) -> None:
        """Hard link, or a copy where the file system has none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(self.path_of(digest), path)
        except OSError:
            shutil.copyfile(self.path_of(digest), path)

    def remove(self, digest: str) -> None:
        """Unlink, never truncate: a loaded tensor may still be mapped to the file."""
        self.path_of(digest).unlink(missing_ok=True)

    @staticmethod
    def _adopt(temporary: Path, path: Path) -> None:
        if path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        temporary.chmod(0o444)
        temporary.replace(path)
        fsync_folder(path.parent)


class RemoteBlobs:
    """Blobs in an object store, with verified local copies in `cache`.

    Args:
        url: `s3://bucket/prefix`, `gs://`, `az://`, `file://` (the folder is made) or `memory://`.
            Keys and endpoints come from the environment, as `AWS_ENDPOINT_URL`.
        cache: Folder of the copies.

    Raises:
        ConfigError: A URL that cannot be used.
        MissingDependencyError: obstore is not installed.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._url = url.rstrip("/")
        self._obstore = require("obstore", extra="cloud")
        self._store = _object_store(self._url)
        self._cache = LocalBlobs(cache)

    def put(self, fill: Callable[[HashingWriter], None]) -> BlobRef:
        """As `BlobStore.put`; the bytes pass through the local cache."""
        ref = self._cache.put(fill)
        try:
            # Whatever is there under this name has the same bytes: writing again is harmless.
            self._obstore.put(self._store, _key(ref.digest), self._cache.path_of(ref.digest))
        except Exception as error:
            raise StorageError(f"{self._url} did not take a blob: {error}") from error
        return ref

    def has(self, digest: str) -> bool:
        """As `BlobStore.has`, in the object store: the cache does not count."""
        try:
            self._obstore.head(self._store, _key(digest))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise StorageError(f"{self._url} cannot be asked for a blob: {error}") from error
        return True

    def open_verified(self, digest: str) -> Path:
        """As `BlobStore.open_verified`; a damaged copy in the cache is fetched again."""
        try:
            return self._cache.open_verified(digest)
        except IntegrityError:
            self._cache.remove(digest)
        try:
            data = bytes(self._obstore.get(self._store, _key(digest)).bytes())
        except Exception as error:
            raise IntegrityError(f"{self._url}/{_key(digest)} cannot be read: {error}") from error
        found = blake3(data).hexdigest()
        if found != digest:
            raise IntegrityError(
                f"{self._url}/{_key(digest)} is damaged: expected blake3 {digest}, found {found}."
            )
        self._cache.put(lambda file: _write_all(file, data))
        return self._cache.path_of(digest)

    def link(self, digest: str, path: Path) -> None:
        """Nothing: remote blobs have no place in a local folder."""

    def remove(self, digest: str) -> None:
        """Delete the object and its local copy."""
        self._cache.remove(digest)
        with contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, [_key(digest)])


def _object_store(url: str) -> Any:
    from_url = require("obstore.store", extra="cloud").from_url
    options = {"mkdir": True} if url.startswith("file:") else {}
    try:
        return from_url(url, **options)
    except Exception as error:
        raise ConfigError(
            f"storage_url {url!r} cannot be used: {error}. "
            "Use s3://bucket/prefix, gs://, az://, file:// or memory://."
        ) from error


def verify(path: Path, digest: str) -> None:
    """Check that the file's bytes have this blake3 digest.

    Raises:
        IntegrityError: The file is missing, unreadable or has other bytes.
    """
    try:
        # `update_mmap` hashes without copying the file through Python.
        found = blake3().update_mmap(path).hexdigest()
    except OSError as error:
        raise IntegrityError(f"{str(path)!r} cannot be read: {error}") from error
    if found != digest:
        raise IntegrityError(
            f"{str(path)!r} is damaged: expected blake3 {digest}, found {found}. "
            "Restore the file from a backup or save the version again."
        )


def _write_hashed(path: Path, fill: Callable[[HashingWriter], None]) -> BlobRef:
    with path.open("xb") as file:
        writer = HashingWriter(file)
        fill(writer)
        file.flush()
        os.fsync(file.fileno())
    return writer.ref()


def _write_all(file: HashingWriter, data: bytes) -> None:
    for start in range(0, len(data), _CHUNK_BYTES):
        file.write(memoryview(data)[start : start + _CHUNK_BYTES])


def _key(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"
