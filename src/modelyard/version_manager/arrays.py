"""NumPy arrays as bytes in `.npy` form, and back without unpickling or trusting the header.

A header may declare any shape. It is believed only if the bytes after it are exactly as many as
the shape needs, so reading never takes more memory than the file is long.
"""

import ast
import io
import math
import struct
from typing import Any, BinaryIO

import numpy as np

from modelyard._core.errors import ConfigError, IntegrityError

# NumPy refuses longer headers too: parsing them as Python could exhaust the stack.
_LONGEST_HEADER_BYTES = 10_000
# Format of the header's length by the file's major version.
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
# What NumPy and Python's parser raise for a header or data that make no sense.
_UNREADABLE = (
    *(ValueError, TypeError, SyntaxError, KeyError, EOFError, struct.error),
    *(MemoryError, RecursionError, OverflowError),
)


def npy_bytes(value: np.ndarray[Any, Any], *, where: str) -> bytes:
    """`value` in `.npy` form.

    Raises:
        ConfigError: It holds Python objects or masks, or is of a dtype that cannot be read back;
            the message names `where`.
    """
    if value.dtype.hasobject:
        raise ConfigError(
            f"{where} is an array of Python objects; give it a number or text dtype."
        )
    if isinstance(value, np.ma.MaskedArray):
        raise ConfigError(f"{where} is a masked array; store its .data and .mask, or .filled().")
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    file.seek(0)
    try:
        _check_header(file, size_bytes=len(file.getbuffer()))
    except _UNREADABLE as error:
        raise ConfigError(
            f"{where} has dtype {value.dtype}, which cannot be read back: {error}. "
            "Store it as arrays of simple dtypes."
        ) from error
    return file.getvalue()


def read_npy(file: BinaryIO, *, size_bytes: int, name: str) -> np.ndarray[Any, Any]:
    """The array in a file in `.npy` form.

    Args:
        file: The file, at its beginning.
        size_bytes: Its length.
        name: What to call it in a message.

    Raises:
        IntegrityError: It is damaged, or declares more than it holds.
    """
    try:
        _check_header(file, size_bytes=size_bytes)
        file.seek(0)
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise IntegrityError(
            f"{name!r} holds no array that can be read: {error}. Restore it from a backup."
        ) from error
    return array


def _check_header(file: BinaryIO, *, size_bytes: int) -> None:
    major, _ = np.lib.format.read_magic(file)
    if major not in _LENGTHS:
        raise ValueError(f"format version {major} is not known")
    length = _LENGTHS[major]
    (n_header,) = struct.unpack(length, file.read(struct.calcsize(length)))
    if n_header > _LONGEST_HEADER_BYTES:
        raise ValueError(f"its header of {n_header} bytes is over {_LONGEST_HEADER_BYTES}")
    header = ast.literal_eval(file.read(n_header).decode("utf-8" if major > 2 else "latin-1"))  # noqa: PLR2004 - as the format says
    shape, dtype = header["shape"], np.lib.format.descr_to_dtype(header["descr"])
    if dtype.hasobject:
        raise ValueError("it declares Python objects")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"it declares the shape {shape!r}")
    n_values, n_data = math.prod(shape), size_bytes - file.tell()
    if n_values * dtype.itemsize != n_data or (n_values and not dtype.itemsize):
        raise ValueError(f"it declares {n_values} x {dtype.itemsize} bytes and holds {n_data}")
