"""Archives like those of `torch.save`, around any pickle, and with lies about themselves."""

import io
import pickle
import struct
import tarfile
import zipfile

import torch
from hostile_pickles import module, pickled, tables
from torch import nn


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_program(program, folder="archive", data=(("data/0", b"\0\0\0\0"),)):
    """An archive like torch's around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in (("data.pkl", program), *data, ("version", b"3\n")):
            archive.writestr(f"{folder}/{entry}", content)
    return buffer.getvalue()


def endless_modules():
    looped = nn.Sequential(nn.Sequential())
    looped[0].append(looped)
    # In as many places as the Fibonacci numbers; `eval` would go to each.
    parts = [nn.Sequential(), nn.Sequential()]
    for _ in range(80):
        parts.append(nn.Sequential(parts[-1], parts[-2]))
    # A megabyte for each step; the pickle holds it once, full names add it up.
    named, long = [nn.Module()], "x" * 1_000_000
    for _ in range(200):
        named.append(nn.Module())
        named[-1]._modules[long] = named[-2]
    # The deepest first: a pickler that finds it among what it wrote needs no stack.
    return {
        "module of itself": saved(looped),
        "module in many places": saved(nn.Sequential(*parts)),
        "module of long names": saved(nn.Sequential(*named)),
    }


def archive_of(*entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def legacy_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(entry)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"\x80\x02N."))
    return buffer.getvalue()


def legacy_pickle():
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def link_entry():
    info = zipfile.ZipInfo("archive/data.pkl")
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return archive_of((info, b"/etc/passwd"))


def sound():
    return with_program(pickled(module(*tables())))


def with_field(data, magic, offset, layout, value):
    """`data` with one number changed in its first record that begins with `magic`."""
    at = data.index(magic) + offset
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, value)
    return bytes(changed)


def overlapping():
    """Every entry of the directory leads to the bytes of the first."""
    data = bytearray(archive_of(*((f"archive/{i:08}", b"\0" * 1_000) for i in range(50))))
    at = 0
    while (at := data.find(b"PK\1\2", at)) >= 0:
        struct.pack_into("<I", data, at + 42, 0)
        at += 46
    return bytes(data)


def archives():
    good = sound()
    wide = saved(nn.ReLU())
    bomb = archive_of(("archive/data.pkl", b"\0" * 50_000_000), compression=zipfile.ZIP_DEFLATED)
    directory, end = b"PK\1\2", b"PK\5\6"
    return {
        "empty file": b"",
        "text": b"no archive\n" * 10,
        "half of one": good[: len(good) // 2],
        "legacy pickle": legacy_pickle(),
        "legacy tar": legacy_tar(),
        "exported program": archive_of(
            ("archive/archive_format", b"pt2"),
            ("archive/models/model.json", b"{\"expr_str\": \"open('ran', 'w')\"}"),
            ("archive/data/sample_inputs/model.pt", saved(torch.ones(1))),
        ),
        "exported program with a module": archive_of(
            ("archive/archive_format", b"pt2"), ("archive/data.pkl", pickled(b"N"))
        ),
        "torchscript": archive_of(
            ("archive/data.pkl", pickled(b"N")),
            ("archive/constants.pkl", pickled(b"N")),
            ("archive/code/__torch__.py", b"import os"),
        ),
        "climbing name": archive_of(
            ("archive/data.pkl", pickled(b"N")), ("archive/../../ran", b"x")
        ),
        "absolute name": archive_of(("/archive/data.pkl", pickled(b"N"))),
        "windows name": archive_of(
            ("archive/data.pkl", pickled(b"N")), ("archive/..\\..\\ran", b"x")
        ),
        "link": link_entry(),
        "bomb": bomb,
        "overlapping entries": overlapping(),
        "several of one name": archive_of(
            ("archive/data.pkl", pickled(b"N")), ("archive/DATA.pkl", pickled(b"N"))
        ),
        "several folders": archive_of(("a/data.pkl", pickled(b"N")), ("b/data.pkl", b"x")),
        "very many entries": archive_of(*((f"archive/{i}", b"") for i in range(120_000))),
        "entry beyond the file": with_field(good, directory, 24, "<I", 2**31),
        "packed beyond the file": with_field(
            with_field(good, directory, 24, "<I", 2**31), directory, 20, "<I", 2**31
        ),
        "size in an extra field that is not there": with_field(
            good, directory, 24, "<I", 2**32 - 1
        ),
        "entry elsewhere": with_field(good, directory, 42, "<I", 2**31),
        "directory elsewhere": with_field(good, end, 16, "<I", 2**31),
        "more entries than there are": with_field(
            with_field(good, end, 10, "<H", 9_999), end, 8, "<H", 9_999
        ),
        "several disks": with_field(good, end, 4, "<H", 3),
        "comment": with_field(good, end, 20, "<H", 5) + b"12345",
        "second end": good + good[good.index(end) :],
        "wide end elsewhere": with_field(wide, b"PK\6\7", 8, "<Q", 2**60),
        "wide directory elsewhere": with_field(wide, b"PK\6\6", 48, "<Q", 2**60),
        "wide count": with_field(wide, b"PK\6\6", 32, "<Q", 2**60),
        "two ends that differ": with_field(wide, end, 16, "<I", 0),
        "encrypted": with_field(good, directory, 8, "<H", 1),
        "other name inside": good.replace(b"archive/version", b"archive/sneaked", 1),
        "other pickle protocol": with_program(pickle.dumps(nn.ReLU(), protocol=4)),
        "no pickle": archive_of(("archive/other.pkl", b"x")),
        "order of bytes": with_program(
            pickled(module(*tables())), data=[("byteorder", b"middle")]
        ),
        "no number": with_program(
            pickled(module(*tables())), data=[(".storage_alignment", b"9" * 1_000_000)]
        ),
    }
