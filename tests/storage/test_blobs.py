"""Blobs: equal bytes once, verified when read, whole or absent."""

import contextlib
import errno
import hashlib
import io
import os
import signal
import sys
import tempfile
import threading

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import (
    ConfigError,
    IntegrityError,
    MissingDependencyError,
    StorageError,
)
from modelyard.storage import HashingWriter, LocalBlobs, open_store
from modelyard.storage.blobs import RemoteBlobs
from modelyard.storage.hashing import (
    CHUNK_BYTES,
    SMALL_BYTES,
    SYNCED_BYTES,
    WORTH_THREADS_BYTES,
    background_thread,
)
from modelyard.storage.objects import ObjectStore


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


def writing(data):
    return lambda file: file.write(data)


def files_under(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class FullDisk:
    """A file that takes `n_bytes` and then has no room."""

    def __init__(self, n_bytes):
        self._left = n_bytes

    def write(self, data):
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


def repeated(data, n_bytes):
    return (data * (n_bytes // max(1, len(data)) + 1))[:n_bytes]


# Around the sizes at which a file is opened and at which sha256 moves to a thread of its own.
SIZES = st.sampled_from([0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1]) | st.sampled_from(
    [CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7, 9 * CHUNK_BYTES]
)


@pytest.mark.slow
@given(chunks=st.lists(st.builds(repeated, st.binary(min_size=1, max_size=9), SIZES), max_size=3))
def test_writer_hashes_what_passes_through_it(chunks):
    writer = HashingWriter(tempfile.TemporaryFile)
    for chunk in chunks:
        writer.write(chunk)
    writer.flush()
    data = b"".join(chunks)
    ref = writer.ref()
    writer.to_file().seek(0)
    assert writer.to_file().read() == data
    writer.close()
    assert ref.size_bytes == len(data)
    assert ref.digest == blake3(data).hexdigest()
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert ref.size_bytes == len(data)


def test_blob_comes_back_as_it_was_put(blobs):
    ref = blobs.put(writing(b"weights"))
    assert blobs.open_verified(ref.digest).read_bytes() == b"weights"


def test_equal_bytes_are_stored_once(blobs, tmp_path):
    assert blobs.put(writing(b"same")) == blobs.put(writing(b"same"))
    assert len(files_under(tmp_path)) == 1


def test_blob_file_is_read_only(blobs):
    ref = blobs.put(writing(b"weights"))
    assert blobs.path_of(ref.digest).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("position", [0, 3, 6])
def test_flipped_byte_is_found(blobs, position):
    ref = blobs.put(writing(b"weights"))
    path = blobs.path_of(ref.digest)
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=r"damaged: expected blake3 .*backup"):
        blobs.open_verified(ref.digest)


def test_missing_blob_is_an_integrity_error(blobs):
    with pytest.raises(IntegrityError, match="cannot be read"):
        blobs.open_verified("0" * 64)


def test_large_data_goes_through_a_file_and_ends_the_same(blobs, tmp_path):
    data = bytes(range(256)) * (5 * CHUNK_BYTES // 256)
    ref = blobs.put(writing(memoryview(data)))
    assert blobs.open_verified(ref.digest).read_bytes() == data
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert [path.name for path in files_under(tmp_path)] == [ref.digest]


def test_sync_waits_for_what_was_begun_and_tells_how_it_went(blobs, monkeypatch):
    refs = [blobs.put(writing(bytes([n]) * 100_000)) for n in range(3)]
    blobs.start_sync(refs[0].digest)
    blobs.sync([ref.digest for ref in refs])
    blobs.sync([])

    def no_room(_path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("modelyard.storage.blobs.fsync_file", no_room)
    blobs.start_sync(refs[0].digest)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="Input/output error"):
        blobs.sync([refs[0].digest])
    blobs.sync([refs[0].digest])


def test_a_disk_that_fails_while_the_rest_is_written_leaves_no_blob(blobs, tmp_path, monkeypatch):
    data = memoryview(bytes(3 * SYNCED_BYTES))

    def broken(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("modelyard.storage.hashing._sync_data", broken)
    with pytest.raises(StorageError, match="Input/output error"):
        blobs.put(writing(data))
    assert files_under(tmp_path) == []
    monkeypatch.undo()
    ref = blobs.put(writing(data))
    assert blobs.open_verified(ref.digest).stat().st_size == len(data)


def test_the_disk_begins_before_all_is_written(blobs, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "modelyard.storage.hashing._sync_data", lambda it: sizes.append(os.fstat(it).st_size)
    )
    blobs.put(writing(memoryview(bytes(3 * SYNCED_BYTES + 1))))
    assert sizes
    assert SYNCED_BYTES <= sizes[0] <= 3 * SYNCED_BYTES + 1
    sizes.clear()
    blobs.put(writing(memoryview(bytes(SYNCED_BYTES - 1))))
    copies = LocalBlobs(tmp_path / "copies", is_cache=True)
    copies.put(writing(memoryview(bytes(3 * SYNCED_BYTES))))
    assert sizes == []


def test_a_writer_takes_what_is_no_file_of_the_systems():
    with contextlib.closing(HashingWriter(io.BytesIO)) as writer:
        writer.write(bytes(2 * SYNCED_BYTES))
        writer.flush()
        assert len(writer.to_file().getvalue()) == writer.ref().size_bytes == 2 * SYNCED_BYTES


def test_large_files_are_verified_by_several_threads_also_after_a_fork(blobs):
    data = bytes(range(256)) * (WORTH_THREADS_BYTES // 256)
    ref = blobs.put(writing(memoryview(data)))
    blobs.open_verified(ref.digest)
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        signal.alarm(20)  # should it hang, it ends by this
        blobs.open_verified(ref.digest)
        os._exit(0)
    if child is not None:
        assert os.waitpid(child, 0)[1] == 0
    path = blobs.path_of(ref.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(len(data) - 1)
        file.write(b"x")
    with pytest.raises(IntegrityError, match="is damaged"):
        blobs.open_verified(ref.digest)


def test_listing_names_blobs_and_what_cut_off_saves_left(blobs, tmp_path):
    ref = blobs.put(writing(b"whole"))
    (tmp_path / "blobs" / "incoming").mkdir(exist_ok=True)
    (tmp_path / "blobs" / "incoming" / "half").write_bytes(b"ha")
    assert [blob.digest for blob in blobs.stored()] == [ref.digest]
    assert [blob.digest for blob in blobs.leftovers()] == ["half"]
    blobs.remove_leftover("half")
    assert not list(blobs.leftovers())


def test_full_disk_leaves_no_file_and_keeps_the_others(blobs, tmp_path):
    kept = blobs.put(writing(b"kept"))

    def fill(file):
        file.write(b"part of it")
        FullDisk(0).write(b"the rest")

    with pytest.raises(StorageError, match=r"No space left.*Nothing already stored was touched"):
        blobs.put(fill)
    assert [path.name for path in files_under(tmp_path)] == [kept.digest]


def test_removing_twice_is_no_error(blobs):
    ref = blobs.put(writing(b"gone"))
    blobs.remove(ref.digest)
    blobs.remove(ref.digest)
    assert not blobs.has(ref.digest)


def test_link_shows_the_blob_under_another_name(blobs, tmp_path):
    ref = blobs.put(writing(b"weights"))
    for _ in range(2):  # a second link replaces the first
        blobs.link(ref.digest, tmp_path / "version" / "weights")
    assert (tmp_path / "version" / "weights").read_bytes() == b"weights"


@pytest.fixture(params=["memory", "file"])
def remote(request, tmp_path):
    url = "memory://" if request.param == "memory" else (tmp_path / "remote").as_uri()
    return RemoteBlobs(ObjectStore(url), tmp_path / "cache")


def test_remote_blob_is_fetched_when_the_cache_is_empty(remote, tmp_path):
    ref = remote.put(writing(b"weights"))
    for path in files_under(tmp_path / "cache"):
        path.unlink()
    assert remote.open_verified(ref.digest).read_bytes() == b"weights"


def test_damaged_copy_in_the_cache_is_fetched_again(remote, tmp_path):
    ref = remote.put(writing(b"weights"))
    (path,) = files_under(tmp_path / "cache")
    path.chmod(0o644)
    path.write_bytes(b"w3ights")
    assert remote.open_verified(ref.digest).read_bytes() == b"weights"


def test_remote_blob_may_be_removed_twice(remote):
    ref = remote.put(writing(b"weights"))
    assert remote.has(ref.digest)
    remote.remove(ref.digest)
    remote.remove(ref.digest)
    assert not remote.has(ref.digest)
    with pytest.raises(IntegrityError, match="cannot be read"):
        remote.open_verified(ref.digest)


def test_damaged_remote_object_is_found(tmp_path):
    remote = RemoteBlobs(ObjectStore((tmp_path / "remote").as_uri()), tmp_path / "cache")
    ref = remote.put(writing(b"weights"))
    for path in files_under(tmp_path):
        path.chmod(0o644)
        path.write_bytes(b"w3ights")
    with pytest.raises(IntegrityError, match="damaged"):
        remote.open_verified(ref.digest)


@pytest.mark.parametrize("url", ["nonsense://bucket", "s3://"])
def test_url_that_cannot_be_used_says_which_can(tmp_path, url):
    with pytest.raises(ConfigError, match="cannot be used"):
        open_store(tmp_path, database_url="sqlite://", storage_url=url)


def test_missing_extra_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'modelyard\[cloud\]'"):
        open_store(tmp_path, database_url="sqlite://", storage_url="memory://")


def test_data_that_change_after_they_were_written_have_one_digest(tmp_path):
    data = bytearray(CHUNK_BYTES)
    path = tmp_path / "file"
    may_go = threading.Event()
    background_thread("sha256").submit(may_go.wait, 10)
    with contextlib.closing(HashingWriter(lambda: path.open("xb"))) as writer:
        writer.write(data)
        data[:] = b"x" * len(data)
        may_go.set()
        ref = writer.ref()
        writer.flush()
    assert ref.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ref.digest == blake3(path.read_bytes()).hexdigest()


def test_a_large_blob_is_written_where_no_thread_can_be_had(blobs, monkeypatch):
    def refuse(*_):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(background_thread("sha256"), "submit", refuse)
    monkeypatch.setattr(background_thread("sync"), "submit", refuse)
    data = bytes(range(256)) * (9 * CHUNK_BYTES // 256)
    ref = blobs.put(writing(data))
    blobs.start_sync(ref.digest)
    blobs.sync([ref.digest])
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert blobs.open_verified(ref.digest).read_bytes() == data
