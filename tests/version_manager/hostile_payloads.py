"""Files of tensors, arrays and plain values that lie about what they hold."""

import io
import json
import struct

import numpy as np
import torch
from hostile_pickles import call, pickled, text

from modelyard.version_manager.tensor_files import write_tensors


def safetensors_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype="F32", shape=(1,), offsets=(0, 4), **extra):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}, **extra}


def weights():
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    return {
        "empty file": b"",
        "short": b"\1\0\0",
        "header of 2^60": safetensors_of(b"{}", length=2**60),
        "header of 2^64 - 1": safetensors_of(b"{}", length=2**64 - 1),
        "header of 99 MB of spaces": safetensors_of(b" " * 99_000_000),
        "header of 30 MB of spaces": safetensors_of(b" " * 30_000_000),
        "no json": safetensors_of(b"hello"),
        "no utf-8": safetensors_of(b'{"\xff\xfe": 1}'),
        "deep json": safetensors_of(b'{"a":' * 100_000),
        "offsets outside": safetensors_of(one(offsets=(0, 4)), b""),
        "offsets far outside": safetensors_of(one(shape=(2**40,), offsets=(0, 2**42)), b"1234"),
        "offsets overlap": safetensors_of(
            one(b={"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}), b"123456"
        ),
        "offsets the same": safetensors_of(
            one(b={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}), b"1234"
        ),
        "hole": safetensors_of(one(offsets=(4, 8)), b"12345678"),
        "backward": safetensors_of(one(offsets=(4, 0)), b"1234"),
        "product beyond 64 bits": safetensors_of(one(shape=(2**32, 2**32, 4)), b"1234"),
        "product beyond 64 bits, then nothing": safetensors_of(
            one(shape=(2**40, 2**40, 0), offsets=(0, 0)), b""
        ),
        "negative": safetensors_of(one(shape=(-1,)), b"1234"),
        "number beyond 64 bits": safetensors_of(one(shape=(2**70,)), b"1234"),
        "one name twice": safetensors_of(
            twice + b"," + twice[1:].replace(b"[0,1]", b"[1,2]") + b"}", b"12"
        ),
        "unknown dtype": safetensors_of(one(dtype="O"), b"1234"),
        "dtype of half bytes": safetensors_of(one(dtype="F4", shape=(8,)), b"1234"),
        "metadata of another kind": safetensors_of(one(__metadata__={"a": [1]}), b"1234"),
        "bytes behind": safetensors_of(one(), b"12345678"),
        "pickle": pickled(call("posix.system", text("touch ran"))),
    }


def npy(header, data=b"", version=(1, 0)):
    text = header.encode() if isinstance(header, str) else header
    layout = "<H" if version == (1, 0) else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(layout, len(text)) + text + data


def described(descr="'<f8'", shape="(1,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def arrays():
    objects, several = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([print, {}], dtype=object), allow_pickle=True)
    np.savez(several, a=np.ones(2))
    return {
        "empty file": b"",
        "no npy": b"hello world",
        "pickle": pickled(call("posix.system", text("touch ran"))),
        "objects": objects.getvalue(),
        "several": several.getvalue(),
        "shape of 10^12": npy(described(shape=f"({10**12},)"), b"12345678"),
        "shape of 10^12 in columns": npy(
            described(shape=f"({10**12}, 1)", order="True"), b"1" * 8
        ),
        "product beyond 64 bits": npy(described(shape=f"({2**40}, {2**40})"), b"1" * 8),
        "product beyond 64 bits, then nothing": npy(described(shape=f"({2**40}, {2**40}, 0)")),
        "negative shape": npy(described(shape="(-1, -1)"), b"1" * 8),
        "very many dimensions": npy(described(shape="(" + "1," * 500 + ")"), b"1" * 8),
        "shape of no numbers": npy(described(shape="('a', [])"), b"1" * 8),
        "objects by code": npy(described(descr="'|O'"), b"1" * 8),
        "objects in a field": npy(described(descr="[('a', '|O')]"), b"1" * 8),
        "very wide": npy(described(descr="'|V2147483647'"), b"1" * 8),
        "parts of it": npy(described(descr="'(1000000000,)f8'"), b"1" * 8),
        "of no width": npy(described(descr="'|V0'", shape=f"({10**12},)")),
        "code": npy(described(descr="__import__('os').system('touch ran')"), b"1" * 8),
        "code in text": npy(described(descr='\'__import__("os").system("touch ran")\''), b"1" * 8),
        "very many fields": npy(described(descr="'" + "i4," * 3_000 + "'"), b"1" * 8),
        "deep header": npy("(" * 9_000),
        "long header": npy(" " * 50_000_000, version=(2, 0)),
        "header beyond the file": npy(described(), b"")[:20],
        "unknown version": npy(described(), b"1" * 8, version=(9, 0)),
        "half of it": npy(described(shape="(2,)"), b"1" * 8),
        "more than it": npy(described(), b"1" * 16),
    }


def jsons():
    return {
        "empty file": b"",
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": b'{"a":' * 100_000,
        "long number": b"9" * 10_000_000,
        "long exponent": b"1e" + b"9" * 10_000,
        "no utf-8": b'"\xff"',
        "pickle": pickled(call("posix.system", text("touch ran"))),
    }


def tree(description, **entries):
    buffer = io.BytesIO()
    text = description if isinstance(description, str) else json.dumps(description)
    write_tensors(
        {
            key: torch.frombuffer(bytearray(value), dtype=torch.uint8)
            for key, value in entries.items()
        },
        metadata={"tree": text},
    )(buffer)
    return buffer.getvalue()


def trees():
    keys = [[i * (2**61 - 1), 0] for i in range(50_000)]
    return {
        "no description": safetensors_of(one(), b"1234"),
        "no json": tree("hello"),
        "deep": tree("[" * 100_000 + "]" * 100_000),
        "deep tuples": tree('{"tuple":[' * 50_000 + "]}" * 50_000),
        "unknown kind": tree({"call": "os.system"}),
        "several kinds": tree({"tuple": [], "dict": []}),
        "no kind": tree({}),
        "no such entry": tree({"tensor": "7"}),
        "entry of a list": tree({"tensor": ["7"]}),
        "entry as a key": tree({"dict": [[{"tensor": "a"}, 0]]}, a=b"x"),
        "pairs of three": tree({"dict": [[1, 2, 3]]}),
        "keys of one hash": tree({"dict": keys}),
        "list as a key": tree({"dict": [[[1], 2]]}),
        "float of another size": tree({"float": "00"}),
        "float of text": tree({"float": "hello"}),
        "long number": tree("9" * 10_000_000),
        "array of 10^12": tree({"array": "a"}, a=npy(described(shape=f"({10**12},)"), b"1" * 8)),
        "scalar of objects": tree({"scalar": "a"}, a=npy(described(descr="'|O'"), b"1" * 8)),
        "tuple of a number": tree({"tuple": 3}),
    }


def tensor_payloads():
    tensors = [("a", torch.ones(1))]

    def of(**metadata):
        buffer = io.BytesIO()
        write_tensors(dict(tensors), metadata=metadata)(buffer)
        return buffer.getvalue()

    return {
        "tensor that is not there": of(kind="tensor"),
        "tuple that is not there": of(kind="tuple"),
        "order of others": of(kind="dict", order='["b"]'),
        "order of lists": of(kind="dict", order="[[1]]"),
        "deep order": of(kind="dict", order="[" * 100_000),
        "order that is a number": of(kind="dict", order="1"),
    }
