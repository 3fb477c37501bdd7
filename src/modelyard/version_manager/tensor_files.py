"""Tensors in safetensors files: what may be stored, written while it is hashed, read back."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from modelyard._core.errors import InputError, IntegrityError
from modelyard.storage import HashingWriter

# dtype names of the safetensors format that its reader turns into tensors again. It has names for
# 4- and 6-bit floats too, but no way back from them; complex128 it does not know.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}
_METADATA = "__metadata__"  # where the format keeps what is no tensor
# Of what precedes the tensors in a file. The format's own limit of 100 MB takes its reader 1 GB.
LONGEST_HEADER_BYTES = 32_000_000
# What the format's reader and torch raise for a header or sizes that make no sense.
_UNREADABLE = (
    *(safetensors.SafetensorError, RuntimeError, ValueError, TypeError, struct.error),
    *(OverflowError, MemoryError),
)


def can_name_entry(name: str) -> bool:
    """Whether a tensor can have this name in a file; the reader takes no halves of surrogates."""
    return name != _METADATA and not any("\ud800" <= char <= "\udfff" for char in name)


def storable(tensor: torch.Tensor, *, where: str) -> torch.Tensor:
    """`tensor`, if `write_tensors` can write it.

    Raises:
        InputError: It is of a kind that cannot be stored; the message says `where` and what to do.
    """
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        raise InputError(f"{where} is lazy: run the model once before saving it.")
    if tensor.is_meta:
        raise InputError(
            f"{where} is on the meta device and has no values. Give it some before "
            "saving: model.to_empty(device='cpu'), then load or initialise the weights."
        )
    if hasattr(tensor, "__tensor_flatten__"):  # how torch knows tensors made of tensors
        raise InputError(
            f"{where} is a {type(tensor).__qualname__}, which keeps its values in other "
            "tensors and cannot be stored. Replace it by a plain tensor before saving."
        )
    if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided:
        raise InputError(
            f"{where} has dtype {tensor.dtype} and layout {tensor.layout}, which cannot "
            f"be stored. Known dtypes: {', '.join(str(d) for d in _DTYPES)}, dense."
        )
    return tensor


def write_tensors(
    tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str] | None = None
) -> Callable[[HashingWriter], None]:
    """A function that streams `tensors` in safetensors form to a writer, without a second copy."""

    def fill(file: HashingWriter) -> None:
        header = _header(tensors, metadata or {})
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for tensor in tensors.values():
            # Conjugate and negated views keep their sign apart from their bytes.
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            # as_strided: the stride of what has one element or none may be anything.
            flat = plain.as_strided((plain.numel(),), (1,))
            file.write(flat.view(torch.uint8).numpy().data)

    return fill


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file (memory-mapped, private).

    Raises:
        IntegrityError: It is damaged, or declares more than it holds.
    """
    try:
        _check_header_length(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return safetensors.torch.load_file(path), metadata
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise IntegrityError(
            f"{str(path)!r} is no safetensors file that can be read: {error}. "
            "Restore it from a backup."
        ) from error


def _check_header_length(path: Path) -> None:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    if length > LONGEST_HEADER_BYTES:
        raise ValueError(f"its header of {length} bytes is over {LONGEST_HEADER_BYTES}")


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    if len(text) > LONGEST_HEADER_BYTES:
        raise InputError(
            f"{len(tensors)} tensors need {len(text)} bytes for their names and shapes; "
            f"{LONGEST_HEADER_BYTES} is the limit. Put small tensors into larger ones."
        )
    return text + b" " * (-len(text) % 8)  # the format asks for aligned data
