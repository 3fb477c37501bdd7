"""One object store, whichever cloud it is in, through obstore."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from modelyard._core.errors import ConfigError, StorageError
from modelyard._core.extras import require

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing tells of it: its name and when it was written (UTC)."""

    name: str
    modified_at: datetime


class ObjectStore:
    """Named bytes under a URL.

    Args:
        url: `s3://bucket/prefix`, `gs://`, `az://`, `file://` (the folder is made) or `memory://`.
            Keys and endpoints come from the environment, as `AWS_ENDPOINT_URL`.

    Raises:
        ConfigError: A URL that cannot be used.
        MissingDependencyError: obstore is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._obstore = require("obstore", extra="cloud")
        from_url = require("obstore.store", extra="cloud").from_url
        options = {"mkdir": True} if url.startswith("file:") else {}
        try:
            self._store: Any = from_url(self.url, **options)
        except Exception as error:
            raise ConfigError(
                f"storage_url {url!r} cannot be used: {str(error).partition(chr(10))[0]}. "
                "Use s3://bucket/prefix, gs://, az://, file:// or memory://."
            ) from error

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, replacing one of that name.

        Raises:
            StorageError: The store does not take it.
        """
        try:
            self._obstore.put(self._store, name, content)
        except Exception as error:
            raise StorageError(f"{self.url} did not take {name!r}: {error}") from error

    def get(self, name: str) -> bytes | None:
        """An object's bytes, or None if there is none.

        Raises:
            StorageError: The store does not answer.
        """
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise StorageError(f"{self.url}/{name} cannot be read: {error}") from error

    def chunks(self, name: str) -> Iterator[bytes]:
        """An object's bytes, some MB at a time.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The store does not answer.
        """
        try:
            for chunk in self._obstore.get(self._store, name).stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StorageError(f"{self.url}/{name} cannot be read: {error}") from error

    def has(self, name: str) -> bool:
        """Whether there is an object of this name.

        Raises:
            StorageError: The store does not answer.
        """
        try:
            self._obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise StorageError(f"{self.url} cannot be asked for {name!r}: {error}") from error
        return True

    def entries(self, prefix: str = "") -> Iterator[StoredObject]:
        """Every object whose name begins with `prefix` (whole folders).

        Raises:
            StorageError: The store does not answer.
        """
        try:
            for page in self._obstore.list(self._store, prefix=prefix or None):
                for found in page:
                    yield StoredObject(found["path"], found["last_modified"])
        except Exception as error:
            raise StorageError(f"{self.url} cannot be listed: {error}") from error

    def delete(self, names: Iterable[str]) -> None:
        """Forget objects; no error if one is gone already.

        Raises:
            StorageError: The store does not answer.
        """
        for name in list(names):
            try:
                self._obstore.delete(self._store, [name])
            except FileNotFoundError:
                continue
            except Exception as error:
                raise StorageError(f"{self.url} cannot delete {name!r}: {error}") from error
