"""A file being written and hashed in one pass."""

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blake3 import blake3

from modelyard._core.errors import IntegrityError

# As much as a core's cache holds: hashed and written while it is there.
CHUNK_BYTES = 1 << 20
# Below this the bytes wait in memory, where their name can be known before a file is made.
SMALL_BYTES = 64 << 10
_WORTH_A_THREAD_BYTES = 256 << 10
# Below this, starting threads takes as long as they save.
WORTH_THREADS_BYTES = 16 << 20
# So much is worth a sync while the rest is written: of 50 MB, a third of the time is saved.
SYNCED_BYTES = 8 << 20
# How many chunks may wait for sha256: they are copies.
_MOST_WAITING = 16


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
    """Takes bytes once: hashes them by both digests and writes them to a file.

    sha256 takes longer than blake3 and the write together, so for large data it runs beside them
    in a thread that all writers share; so does the disk, which begins with what it has. Not
    thread-safe; `close` it, or use it in a `with` block.

    Args:
        open_file: Opens the file; called when there are more than 64 kB, or by `to_file`.
        should_sync: Whether the file will be made durable, so that the disk may as well begin.
    """

    def __init__(self, open_file: Callable[[], IO[bytes]], *, should_sync: bool = True) -> None:
        self._open_file = open_file
        self._should_sync = should_sync
        self._file: IO[bytes] | None = None
        self._small: list[bytes] = []
        self._blake3 = blake3()
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._waiting: deque[Future[None]] = deque()
        self._unsynced_bytes = 0
        self._syncing: Future[None] | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash `data`, a chunk of it at a time; its length."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        for start in range(0, len(view), CHUNK_BYTES):
            # Copied once and read from the cache after that: weights may be trained meanwhile,
            # and two hashes and the file must all be of the same bytes.
            self._write(bytes(view[start : start + CHUNK_BYTES]))
        return len(view)

    @property
    def digest(self) -> str:
        """blake3 of what has been written so far; known before sha256 is."""
        return self._blake3.hexdigest()

    def ref(self) -> BlobRef:
        """What identifies all that has been written so far."""
        while self._waiting:
            self._waiting.popleft().result()
        return BlobRef(
            digest=self._blake3.hexdigest(),
            sha256=self._sha256.hexdigest(),
            size_bytes=self._size_bytes,
        )

    def to_file(self) -> IO[bytes]:
        """The file with everything written so far in it."""
        if self._file is None:
            self._file = self._open_file()
            for part in self._small:
                self._file.write(part)
            self._small.clear()
        return self._file

    def flush(self) -> None:
        """Hand all that was written to the system, and wait for the part that the disk is at.

        Durable once the file is synced after that.

        Raises:
            OSError: The disk refuses, or has refused some of it: of that it tells only once.
        """
        self.to_file().flush()
        if self._syncing is not None:
            self._syncing.result()

    def close(self) -> None:
        """Close the file, if there is one; nothing of it is used any more after that."""
        while self._waiting:
            self._waiting.popleft().cancel()
        if self._syncing is not None:
            wait([self._syncing])  # it uses the file
        if self._file is not None:
            self._file.close()

    def _write(self, chunk: bytes) -> None:
        is_small = self._file is None and self._size_bytes + len(chunk) <= SMALL_BYTES
        self._size_bytes += len(chunk)
        if is_small:
            self._small.append(chunk)
            self._sha256.update(chunk)
        else:
            self._update_sha256(chunk)
            self.to_file().write(chunk)
            self._unsynced_bytes += len(chunk)
        self._blake3.update(chunk)
        if self._should_sync and self._unsynced_bytes >= SYNCED_BYTES:
            self._begin_to_sync()

    def _update_sha256(self, chunk: bytes) -> None:
        if not self._waiting and len(chunk) < _WORTH_A_THREAD_BYTES:
            self._sha256.update(chunk)
            return
        if len(self._waiting) == _MOST_WAITING:
            self._waiting.popleft().result()
        # One thread takes the chunks in the order they come.
        begun = in_background("sha256", self._sha256.update, chunk)
        if begun is not None:
            self._waiting.append(begun)
            return
        while self._waiting:
            self._waiting.popleft().result()
        self._sha256.update(chunk)

    def _begin_to_sync(self) -> None:
        """Have the disk take what has been written, unless it is still at what came before."""
        if self._syncing is not None and not self._syncing.done():
            return
        self._unsynced_bytes = 0
        try:
            descriptor = self.to_file().fileno()
        except OSError:
            return  # no file of the system's
        self.flush()
        self._syncing = in_background("sync", _sync_data, descriptor) or self._syncing


# Without the file's times, where the system makes a difference.
_sync_data = getattr(os, "fdatasync", os.fsync)


@functools.lru_cache(maxsize=4)
def background_thread(purpose: str) -> ThreadPoolExecutor:
    """A thread that does things in order; kept, because starting one costs 0.2 ms.

    Args:
        purpose: What it is for; one thread each.
    """
    if hasattr(os, "register_at_fork"):
        # A forked child has no threads, but would believe in this one.
        os.register_at_fork(after_in_child=background_thread.cache_clear)
    return ThreadPoolExecutor(1, thread_name_prefix=f"modelyard-{purpose}")


def in_background(purpose: str, work: Callable[..., None], *args: Any) -> Future[None] | None:
    """Have work done in `background_thread`; None where no thread is to be had.

    In threads that outlive the main one nothing can be begun any more, for instance.
    """
    try:
        return background_thread(purpose).submit(work, *args)
    except RuntimeError:
        return None


@functools.cache
def _n_cores() -> int:
    """Cores that hash one file: more than a few wait for memory."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return min(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1, 4)


def verify(path: Path, digest: str) -> None:
    """Check that the file's bytes have this blake3 digest.

    Raises:
        IntegrityError: The file is missing, unreadable or has other bytes.
    """
    try:
        # `update_mmap` hashes without copying the file through Python. Threads of its own: those
        # that all hashers may share do not live on in a forked child, which would wait forever.
        n_threads = _n_cores() if path.stat().st_size >= WORTH_THREADS_BYTES else 1
        found = blake3(max_threads=n_threads).update_mmap(path).hexdigest()
    except OSError as error:
        raise IntegrityError(f"{str(path)!r} cannot be read: {error}") from error
    if found != digest:
        raise IntegrityError(
            f"{str(path)!r} is damaged: expected blake3 {digest}, found {found}. "
            "Restore the file from a backup or save the version again."
        )
