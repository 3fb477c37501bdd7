"""Named files: whole or absent, listed, removed; locally and in an object store."""

import errno

import pytest

from modelyard._core.errors import StorageError
from modelyard.storage import LocalDocuments, RemoteDocuments
from modelyard.storage.objects import ObjectStore


@pytest.fixture(params=["local", "memory", "file"])
def documents(request, tmp_path):
    if request.param == "local":
        return LocalDocuments(tmp_path / "registry")
    url = "memory://" if request.param == "memory" else (tmp_path / "remote").as_uri()
    return RemoteDocuments(ObjectStore(url), tmp_path / "cache")


def names(documents):
    return sorted(entry.name for entry in documents.entries())


def test_document_comes_back_and_is_replaced(documents):
    assert documents.read("ppo/v1/manifest.json") is None
    for content in (b"one", b"two"):
        documents.write("ppo/v1/manifest.json", content)
        assert documents.read("ppo/v1/manifest.json") == content
    assert documents.has("ppo/v1/manifest.json")
    assert not documents.has("ppo/v2/manifest.json")
    assert names(documents) == ["ppo/v1/manifest.json"]


def test_folder_goes_with_all_that_is_in_it_and_nothing_else(documents):
    for name in ("a/v1/m.json", "a/v1/artifacts/x", "a/v10/m.json", "a/history/1.json"):
        documents.write(name, b"{}")
    documents.remove_folder("a/v1")
    documents.remove("a/history/1.json")
    documents.remove("a/history/1.json")
    assert names(documents) == ["a/v10/m.json"]
    assert documents.read("a/v1/m.json") is None


def test_remote_document_is_fetched_when_there_is_no_copy(tmp_path):
    objects = ObjectStore("memory://")
    RemoteDocuments(objects, tmp_path / "a").write("ppo/m.json", b"{}")
    assert RemoteDocuments(objects, tmp_path / "b").read("ppo/m.json") == b"{}"


def test_other_peoples_folders_are_not_looked_into(tmp_path):
    for name in (".git/a/b", "blobs/ab/cd", "cache/x", "one/two/three/four/five"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "m.json").touch()
    assert names(LocalDocuments(tmp_path)) == ["ppo/m.json"]


def test_full_disk_is_a_storage_error_and_leaves_the_old_content(tmp_path, monkeypatch):
    documents = LocalDocuments(tmp_path)
    documents.write("m.json", b"old")

    def no_room(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelyard._core.files.os.fsync", no_room)
    with pytest.raises(StorageError, match=r"No space left.*Nothing already stored"):
        documents.write("m.json", b"new")
    monkeypatch.undo()
    assert names(documents) == ["m.json"]
    assert documents.read("m.json") == b"old"
