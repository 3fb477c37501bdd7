"""Versions carried from registry to registry: whole, verified, all or none."""

import io
import json
import os
import tarfile
import tracemalloc

import pytest
import torch
from blake3 import blake3

from modelyard._core.errors import (
    ConfigError,
    ConflictError,
    InputError,
    IntegrityError,
    StorageError,
    VersionNotFoundError,
)
from modelyard.storage.sealed import sealed, unsealed
from modelyard.version_manager import ModelVersionManager, bundles


@pytest.fixture
def other(tmp_path, clock):
    manager = ModelVersionManager(tmp_path / "other", clock=clock, actor="bob")
    yield manager
    manager.store.close()


@pytest.fixture
def family(registry, save):
    """Ids of a version, one made from it, and one made from that."""
    first = save(metrics={"sharpe": 1.0, "bad": float("inf")}, tags=["a"], config={"x": 1})
    second = save(metrics={"sharpe": 2.0}, parents=[(first, "compressed")], artifacts={"s": [1]})
    third = save(parents=[(second, "quantized")])
    registry.attach(second, "baseline", {"mean": 0.5})
    registry.tag_version(first, "milestone")
    return first, second, third


def files_of(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def write_tar(path, files, change=None):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if change is not None:
                change(member)
            tar.addfile(member, io.BytesIO(data))
    return path


def without(version, *keys):
    return {key: value for key, value in version.items() if key not in keys}


def test_bundle_brings_a_version_with_its_whole_lineage(registry, other, family, tmp_path):
    path = registry.export_bundle(family[-1], tmp_path / "out" / "family.tar")
    assert other.import_bundle(path) == {key: key for key in family}
    for key in family:
        here, there = registry.get_version(key), other.get_version(key)
        assert without(there, "path") == without(here, "path")
        weights = registry.load_model(key).state_dict(), other.load_model(key).state_dict()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert other.read_attachment(family[1], "baseline") == {"mean": 0.5}
    assert other.read_artifact(family[1], "s") == [1]
    assert other.get_lineage(family[0]) == registry.get_lineage(family[0])
    assert [event["action"] for event in other.get_history(version_id=family[2])] == ["import"]
    assert other.verify()["problems"] == []


def test_importing_again_changes_nothing(registry, other, family, tmp_path):
    path = registry.export_bundle(family, tmp_path / "family.tar")
    other.import_bundle(path)
    before = other.list_versions(), other.get_history()
    assert other.import_bundle(path) == {key: key for key in family}
    assert (other.list_versions(), other.get_history()) == before


def test_bundle_without_ancestors_names_them(registry, other, family, tmp_path):
    path = registry.export_bundle(family[2], tmp_path / "one.tar", with_ancestors=False)
    assert other.import_bundle(path) == {family[2]: family[2]}
    assert other.get_version(family[2])["parents"] == [family[1]]
    assert other.get_lineage(family[2])["nodes"][0] == {
        "version_id": family[1],
        "model_name": None,
        "metrics": {},
        "is_removed": True,
    }


def test_id_taken_by_another_version_is_refused_or_given_a_free_one(
    registry, other, family, tmp_path, new_mlp
):
    path = registry.export_bundle(family[2], tmp_path / "family.tar")
    taken = other.save_model(new_mlp(seed=99), "ppo")  # the same second as the last of them
    assert taken == family[2]
    with pytest.raises(ConflictError, match="rename=True"):
        other.import_bundle(path)
    assert [v["version_id"] for v in other.list_versions()] == [taken]
    ids = other.import_bundle(path, rename=True)
    assert ids[family[2]] == f"{taken}_2"
    assert other.get_version(ids[family[2]])["parents"] == [ids[family[1]]]


def test_bundle_appears_whole_or_not_at_all(registry, family, tmp_path):
    with pytest.raises(VersionNotFoundError):
        registry.export_bundle([family[0], "ppo_v20200101_000000"], tmp_path / "x.tar")
    blob = next(path for path in (registry.base_dir / "blobs").glob("??/*") if path.is_file())
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="damaged"):
        registry.export_bundle(family, tmp_path / "x.tar")
    assert list(tmp_path.glob("*x.tar*")) == []


def test_bundle_is_of_one_moment_whatever_is_removed_meanwhile(
    registry, family, tmp_path, monkeypatch, clock, other
):
    told = bundles._told

    def told_late(connection, version_id):
        monkeypatch.setattr(bundles, "_told", told)
        keeper = ModelVersionManager(registry.base_dir, clock=clock)
        keeper.untag_version(family[0], "milestone")
        keeper.remove_version(family[2])
        clock.advance(2 * 24 * 3600)
        keeper.gc()
        keeper.store.close()
        return told(connection, version_id)

    monkeypatch.setattr(bundles, "_told", told_late)
    path = registry.export_bundle(family[2], tmp_path / "x.tar")
    other.import_bundle(path)
    assert other.get_version(family[0])["tags"] == ["a", "milestone"]
    assert other.load_model(family[2]).weight.tolist() == [[2.0, 2.0]]


@pytest.mark.slow
def test_changed_byte_anywhere_in_a_bundle_imports_nothing(registry, other, family, tmp_path):
    path = tmp_path / "family.tar"
    registry.export_bundle(family, path)
    data = path.read_bytes()
    step = max(1, len(data) // 60)
    for position in range(0, len(data) - 2 * tarfile.BLOCKSIZE, step):
        changed = bytearray(data)
        changed[position] ^= 0x41
        path.write_bytes(changed)
        try:
            other.import_bundle(path)
        except (InputError, StorageError, ConfigError):
            assert other.list_versions() == []
        else:
            # Padding of the tar itself: nobody reads it, and nothing depends on it.
            assert other.verify()["problems"] == []
            assert {v["version_id"] for v in other.list_versions()} == set(family)
            other.store.close()
            other = ModelVersionManager(tmp_path / f"other-{position}")
    other.store.close()


def test_killed_import_leaves_nothing_that_gc_does_not_take(
    registry, other, family, tmp_path, clock
):
    path = registry.export_bundle(family, tmp_path / "family.tar")
    files = files_of(path)
    last = list(files)[-1]
    write_tar(tmp_path / "cut.tar", {name: files[name] for name in files if name != last})
    with pytest.raises(IntegrityError, match="lacks 1 file"):
        other.import_bundle(tmp_path / "cut.tar")
    assert other.list_versions() == []
    assert list(other.store.blobs.stored()) != []
    clock.advance(50 * 365 * 24 * 3600)  # blobs are as old as the machine's clock says
    other.gc()
    assert list(other.store.blobs.stored()) == []


class TestHostileBundles:
    """Files made to run code, climb out or fill the disk."""

    @pytest.fixture
    def files(self, registry, family, tmp_path):
        return files_of(registry.export_bundle(family[0], tmp_path / "good.tar"))

    @pytest.fixture
    def refused(self, other, tmp_path):
        def check(files, match=None, change=None):
            outside = {path for path in tmp_path.rglob("*") if other.base_dir not in path.parents}
            path = write_tar(tmp_path / "bad.tar", files, change)
            with pytest.raises((InputError, IntegrityError), match=match):
                other.import_bundle(path)
            assert other.list_versions() == []
            now = {path for path in tmp_path.rglob("*") if other.base_dir not in path.parents}
            assert now - outside <= {path}

        return check

    @pytest.mark.parametrize("name", ["../../x", "/etc/x", "blobs/../../x", "blobs/x", "C:\\x"])
    def test_name_that_climbs_is_refused(self, files, refused, name):
        refused({**files, name: b"x"}, "no file of its versions")

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"S"]
    )
    def test_links_folders_and_devices_are_refused(self, files, refused, kind):
        blob = next(name for name in files if name.startswith("blobs/"))

        def change(member):
            if member.name == blob:
                member.type = kind
                member.linkname = "/etc/passwd"

        refused(files, change=change)

    def told(self, files):
        return unsealed(files["bundle.json"], where="x")

    def with_told(self, files, contents):
        return {**files, "bundle.json": sealed(contents)}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("model_name", "../x"),
            ("model_name", "blobs/../.."),
            ("version_id", "../../x"),
            ("version_id", "other_v20231120_120000"),
            ("timestamp", ".*"),
            ("metrics", {"a": "text"}),
            ("metrics", 3),
            ("parents", [{"version_id": "../x", "kind": "exported"}]),
            ("parents", [{"version_id": "a", "kind": "nonsense"}]),
            ("config", []),
            ("created_at", "yesterday"),
            ("created_at", "2020-01-01T00:00:00+00:00"),
            ("files", {}),
            ("environment", {"packages": {}, "python": 5}),
        ],
    )
    def test_manifest_that_cannot_be_true_is_refused(self, files, refused, key, value):
        contents = self.told(files)
        contents["versions"][0]["manifest"][key] = value
        refused(self.with_told(files, contents))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("kind", "../../x"),
            ("name", "../../x"),
            ("blake3", "../../x"),
            ("size_bytes", 10**15),
            ("size_bytes", -1),
            ("size_bytes", "many"),
        ],
    )
    def test_file_that_cannot_be_true_is_refused(self, files, refused, key, value):
        contents = self.told(files)
        contents["versions"][0]["parts"][0][key] = value
        refused(self.with_told(files, contents))

    def test_version_without_weights_is_refused(self, files, refused):
        contents = self.told(files)
        told = contents["versions"][0]
        weights = next(part for part in told["parts"] if part["name"] == "weights.safetensors")
        told["parts"].remove(weights)
        told["manifest"]["files"].pop("weights.safetensors")
        files.pop(f"blobs/{weights['blake3']}")
        refused(self.with_told(files, contents), "no weights")

    def test_file_told_twice_is_refused(self, files, refused):
        contents = self.told(files)
        contents["versions"][0]["parts"] *= 2
        refused(self.with_told(files, contents), "files of the same name")

    def test_huge_declared_size_is_refused_without_reading_it(self, files, other, tmp_path):
        path = write_tar(tmp_path / "bad.tar", files)
        data = bytearray(path.read_bytes())
        header = tarfile.TarInfo("bundle.json")
        header.size = 10**12
        data[: tarfile.BLOCKSIZE] = header.tobuf(tarfile.GNU_FORMAT)
        path.write_bytes(data)
        with pytest.raises(InputError, match="too large"):
            other.import_bundle(path)

    @pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g", b"X"])
    @pytest.mark.parametrize("is_first", [True, False])
    def test_headers_with_bodies_are_refused_unread(self, files, other, tmp_path, kind, is_first):
        write_tar(path := tmp_path / "bad.tar", files)
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, 20_000_000
        data = path.read_bytes()
        size = -(-len(files["bundle.json"]) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        start = 0 if is_first else tarfile.BLOCKSIZE + size
        path.write_bytes(data[:start] + header.tobuf(tarfile.GNU_FORMAT))
        os.truncate(path, start + header.size + 10_240)  # a hole on the disk
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match="no file of its versions"):
                other.import_bundle(path)
            assert tracemalloc.get_traced_memory()[1] < header.size / 2
        finally:
            tracemalloc.stop()

    def test_size_of_a_very_large_file_may_have_a_header_of_its_own(self, files, other, tmp_path):
        def change(member):
            member.pax_headers = {"size": str(member.size)}

        other.import_bundle(write_tar(tmp_path / "large.tar", files, change))
        assert other.verify()["problems"] == []

    def test_compressed_tar_is_refused(self, files, other, tmp_path):
        with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo("bundle.json")
            member.size = 50_000_000
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        with pytest.raises(InputError, match="cannot be read as a bundle"):
            other.import_bundle(tmp_path / "bomb.tar.gz")

    @pytest.mark.parametrize(
        "contents", [b"", b"{}", b"[" * 100_000, json.dumps({"format": "x"}).encode()]
    )
    def test_what_is_no_bundle_is_refused(self, refused, contents):
        refused({"bundle.json": contents})

    def test_blob_with_other_bytes_is_refused(self, files, refused):
        blob = next(name for name in files if name.startswith("blobs/"))
        data = bytes(len(files[blob]))
        assert blake3(data).hexdigest() not in blob
        refused({**files, blob: data}, "found blake3")

    def test_missing_file_and_text_are_errors(self, other, tmp_path):
        (tmp_path / "text.tar").write_text("no tar at all")
        for name in ("nowhere.tar", "text.tar"):
            with pytest.raises(InputError, match=name):
                other.import_bundle(tmp_path / name)
