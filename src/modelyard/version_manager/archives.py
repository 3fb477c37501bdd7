"""The zip archive around a module that `torch.save` wrote, checked before torch reads it.

`torch.save` writes one entry after the other, none compressed, then one directory. Only that form
passes: a directory that fills the place between the entries and the end exactly, entries that do
not overlap and hold as many bytes as they declare. So nothing in it is larger than the file, and
there is no second way to read it.
"""

import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modelyard._core.errors import IntegrityError

_MOST_ENTRIES = 100_000
_LARGEST_PROGRAM_BYTES = 32_000_000
# Sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3 of PKWARE's APPNOTE 6.3.10. Torch always
# writes the 64-bit form of the end.
_LOCAL = struct.Struct("<4s5H3I2H")
_DIRECTORY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_IN_EXTRA, _EXTRA64 = 0xFFFFFFFF, 1


Bytes = mmap.mmap | bytes


@dataclass(frozen=True)
class Archive:
    """What is needed to check a stored module before it is unpickled.

    Attributes:
        program: The pickle.
        sizes_bytes: Size of every entry by name, without the common folder.
    """

    program: bytes
    sizes_bytes: dict[str, int]


@dataclass(frozen=True)
class _Entry:
    name: bytes
    offset: int
    size_bytes: int


def checked_archive(path: Path) -> Archive:
    """The archive at `path`.

    Raises:
        IntegrityError: It is none that `torch.save` wrote, or it is damaged.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return archive_in(data)
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{str(path)!r} is no archive as torch.save writes it: {error}. "
            "Save the module once more with torch.save(model, path) of a current torch."
        ) from error


def archive_in(data: Bytes) -> Archive:
    """The archive that `data` is.

    Raises:
        ValueError: It is none that `torch.save` wrote, or it is damaged; also struct.error.
    """
    start, end, n_entries = _directory_of(data)
    entries = sorted(_entries(data, start, end, n_entries), key=lambda entry: entry.offset)
    places: dict[str, tuple[int, int]] = {}
    free = 0
    for entry in entries:
        if entry.offset < free:
            raise ValueError(f"its entry {entry.name!r} overlaps another")
        begin = _data_of(data, entry)
        free = begin + entry.size_bytes
        places[entry.name.decode("utf-8")] = begin, free
    if free > start:
        raise ValueError("an entry reaches into the directory")
    if len({name.lower() for name in places}) < n_entries:  # torch's reader ignores the case
        raise ValueError("several entries have one name")
    names = _without_folder(places)
    begin, end = _program_of(names)
    sizes_bytes = {name: stop - at for name, (at, stop) in names.items()}
    return Archive(program=data[begin:end], sizes_bytes=sizes_bytes)


def _directory_of(data: Bytes) -> tuple[int, int, int]:
    """Where the directory begins and ends, and how many entries it has."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != b"PK\5\6":
        raise ValueError("it does not end as a zip file without a comment does")
    _, *disks, n_here, n_entries, size, start, n_comment = _END.unpack_from(data, end)
    locator = end - _LOCATOR.size
    if locator >= _END64.size and data[locator : locator + 4] == b"PK\6\7":
        end = locator - _END64.size
        _, _, place, n_disks = _LOCATOR.unpack_from(data, locator)
        if place != end or n_disks > 1 or data[end : end + 4] != b"PK\6\6":
            raise ValueError("its end is not where it says")
        short = n_here, n_entries, size, start
        _, _, _, _, *disks, n_here, n_entries, size, start = _END64.unpack_from(data, end)
        _check_ends_agree(short, (n_here, n_entries, size, start))
    if any(disks) or n_comment or n_here != n_entries:
        raise ValueError("it is in several parts or has a comment")
    if start + size != end:
        raise ValueError("its directory is not where its end says")
    if not 0 < n_entries <= _MOST_ENTRIES:
        raise ValueError(f"it has {n_entries} entries; 1 to {_MOST_ENTRIES} are expected")
    return start, end, n_entries


def _check_ends_agree(short: tuple[int, ...], long: tuple[int, ...]) -> None:
    for a, b, too_large in zip(short, long, (0xFFFF, 0xFFFF, _IN_EXTRA, _IN_EXTRA), strict=True):
        if a not in {b, too_large}:
            raise ValueError("its two ends contradict each other")


def _entries(data: Bytes, start: int, end: int, n_entries: int) -> Iterator[_Entry]:
    at = start
    for _ in range(n_entries):
        fields = _DIRECTORY.unpack_from(data, at)
        magic, _, _, flags, method, _, _, _, packed, size, n_name, n_extra, n_comment = fields[:13]
        attributes, offset = fields[15:]
        at += _DIRECTORY.size
        name, extra = data[at : at + n_name], data[at + n_name : at + n_name + n_extra]
        at += n_name + n_extra + n_comment
        if magic != b"PK\1\2" or at > end:
            raise ValueError("its directory is damaged")
        size, packed, offset = _wide(size, packed, offset, extra)
        if method or packed != size or flags & 1:
            raise ValueError(f"its entry {name!r} is compressed or encrypted")
        if stat.S_ISLNK(attributes >> 16):
            raise ValueError(f"its entry {name!r} is a link")
        yield _Entry(name, offset, size)
    if at != end:
        raise ValueError("its directory is longer than its entries")


def _wide(size: int, packed: int, offset: int, extra: bytes) -> tuple[int, int, int]:
    """The three numbers, those that do not fit into 32 bits from the extra field."""
    wide = b""
    while len(extra) >= 4:  # noqa: PLR2004 - kind and length of a field
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _EXTRA64:
            wide = extra[4 : 4 + length]
        extra = extra[4 + length :]
    numbers = []
    for number in (size, packed, offset):
        if number == _IN_EXTRA:
            (number,), wide = struct.unpack_from("<Q", wide), wide[8:]  # noqa: PLW2901 - the same
        numbers.append(number)
    return numbers[0], numbers[1], numbers[2]


def _data_of(data: Bytes, entry: _Entry) -> int:
    """Where the bytes of an entry begin."""
    magic, *_, n_name, n_extra = _LOCAL.unpack_from(data, entry.offset)
    named = entry.offset + _LOCAL.size
    if magic != b"PK\3\4" or data[named : named + n_name] != entry.name:
        raise ValueError(f"its entry {entry.name!r} is not where the directory says")
    start: int = named + n_name + n_extra
    return start


def _without_folder(places: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Entries by their name inside the one folder that all are in."""
    folders = {name.partition("/")[0] for name in places}
    for name in places:
        if "\\" in name or "\0" in name or any(p in {"", ".", ".."} for p in name.split("/")):
            raise ValueError(f"its entry {name!r} points out of it")
    if len(folders) > 1:
        raise ValueError(f"its entries are in {len(folders)} folders")
    return {name.partition("/")[2]: place for name, place in places.items()}


def _program_of(names: dict[str, tuple[int, int]]) -> tuple[int, int]:
    if "constants.pkl" in names:
        raise ValueError("it is TorchScript, which runs code of its own")
    if "archive_format" in names:
        raise ValueError("it is an exported program (.pt2), which runs code of its own")
    if "data.pkl" not in names:
        raise ValueError("it has no data.pkl")
    begin, end = names["data.pkl"]
    if end - begin > _LARGEST_PROGRAM_BYTES:
        raise ValueError(f"its data.pkl of {end - begin} bytes is over {_LARGEST_PROGRAM_BYTES}")
    return begin, end
