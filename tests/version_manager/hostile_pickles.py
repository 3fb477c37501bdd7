"""Pickles that a pickler would never write, made of single instructions."""

import pickle
import struct

NO_ARGUMENTS = b")"


def number(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(full):
    home, _, last = full.rpartition(".")
    return f"c{home}\n{last}\n".encode()


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return name(function) + tuple_of(*arguments) + b"R"


def raw_bytes(value):
    return call("_codecs.encode", text(value), text("latin1"))


def pickled(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def storage(n_elements, key="0", kind="torch.FloatStorage"):
    identity = tuple_of(text("storage"), name(kind), text(key), text("cpu"), number(n_elements))
    return identity + b"Q"


def view(offset, shape, strides, *, kept=None):
    where = (number(offset), tuple_of(*map(number, shape)), tuple_of(*map(number, strides)))
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", kept or storage(1), *where, b"\x89", hooks)


def dtype(code, *, order="<", fields=None, sizes=(-1, -1, 0)):
    made = call("numpy.dtype", text(code), b"\x89", b"\x88")
    return made + dtype_state(order=order, fields=fields, sizes=sizes)


def dtype_state(*, order="<", fields=None, sizes=(-1, -1, 0)):
    parts = fields or (b"N", b"N")
    return tuple_of(number(3), text(order), b"N", *parts, *map(number, sizes)) + b"b"


def array(shape, form, data):
    empty = call(
        "numpy._core.multiarray._reconstruct",
        name("numpy.ndarray"),
        tuple_of(number(0)),
        raw_bytes("b"),
    )
    return empty + tuple_of(number(1), tuple_of(*map(number, shape)), form, b"\x89", data) + b"b"


def module(*attributes, of="torch.nn.modules.module.Module"):
    """An object of a class of torch with these attributes, given as pairs."""
    return name(of) + NO_ARGUMENTS + b"\x81" + mapping(*attributes) + b"b"


def mapping(*pairs):
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def tables(parts=b"}"):
    return [
        (text("_parameters"), b"}"),
        (text("_buffers"), b"}"),
        (text("_modules"), parts),
        (text("_non_persistent_buffers_set"), call("builtins.set", b"]")),
        (text("training"), b"\x88"),
    ]


def nested_tuples(depth, step=b"\x85"):
    return number(1) + step * depth


def doubled_tuples(depth):
    """Sixty steps of `t = (t, t)`: nothing to make, 2^60 things to hash."""
    steps = (b"q\x00h\x00\x86" for _ in range(depth))
    return number(1) + b"".join(steps)


def colliding_keys(n):
    keys = (number(i * (2**61 - 1)) + b"N" for i in range(n))
    return b"}(" + b"".join(keys) + b"u"


def calls_of_known_functions():
    twelve = number(10**12)
    return {
        "bytearray": call("builtins.bytearray", twelve),
        "bytearray of python 2": call("__builtin__.bytearray", twelve),
        "tensor": call("torch.Tensor", twelve),
        "float tensor": call("torch.FloatTensor", twelve),
        "storage": call("torch.storage.UntypedStorage", twelve),
        "new storage": name("torch.storage.UntypedStorage") + tuple_of(twelve) + b"\x81",
        "punycode": call("_codecs.encode", text("\u00e4" * 400_000), text("punycode")),
        "module of a codec": call("_codecs.encode", text("x"), text("../../x")),
        "function of torch": call("torch.nn.functional.softplus", view(0, [10**12], [0])),
        "size": call("torch.Size", view(0, [10**12], [0])),
        "set of a tensor": call("builtins.set", view(0, [10**12], [0])),
        "ordered dict of a tensor": call("collections.OrderedDict", view(0, [10**12], [0])),
        "quantized": call(
            "torch._utils._rebuild_qtensor",
            *(storage(1), number(0), tuple_of(twelve), tuple_of(number(1))),
            tuple_of(name("torch.per_tensor_affine"), number(1), number(0)),
            *(b"\x89", call("collections.OrderedDict")),
        ),
        "wrapper": call("torch._utils._rebuild_wrapper_subclass", name("torch.Tensor")),
        "any function with a type": call(
            "torch._tensor._rebuild_from_type_v2",
            *(name("builtins.bytearray"), name("torch.Tensor"), tuple_of(twelve), b"}"),
        ),
        "old state of a tensor": view(0, [1], [1])
        + tuple_of(storage(1), number(0), tuple_of(number(10**9)), tuple_of(number(1)))
        + b"b",
        "numpy constructor": call("numpy.void", twelve),
        "new array": name("numpy.ndarray") + tuple_of(tuple_of(twelve)) + b"\x81",
        "shape of an array": call(
            "numpy._core.multiarray._reconstruct",
            *(name("numpy.ndarray"), tuple_of(twelve), raw_bytes("b")),
        ),
        "array of objects": array([100_000], dtype("O8"), b"]"),
        "array beyond its bytes": array([10**12], dtype("f8"), raw_bytes("x" * 8)),
        "dtype of fields": dtype(
            "V8", order="|", fields=(tuple_of(text("a")), b"}"), sizes=(8, 1, 1)
        ),
        "dtype of objects by flag": dtype("V8", order="|", sizes=(8, 1, 1)),
        "dtype that grows": dtype("U1", sizes=(4, 4, 8)) + dtype_state(sizes=(4_000, 4, 8)),
        "large scalar": call(
            "numpy._core.multiarray.scalar",
            dtype("V999999999", order="|", sizes=(999_999_999, 1, 0)),
            raw_bytes("x"),
        ),
        "scalar of less than nothing": call(
            "numpy._core.multiarray.scalar", dtype("V8", order="|"), raw_bytes("x")
        ),
        "text of another size": dtype("U1", sizes=(2**30, 4, 8)),
    }


def calls_of_others():
    return {
        "eval": call("__builtin__.eval", text("open('ran', 'w')")),
        "exec": call("builtins.exec", text("open('ran', 'w')")),
        "posix": call("posix.system", text("touch ran")),
        "subprocess": call("subprocess.Popen", text("touch ran")),
        "torch.load": call("torch.serialization.load", text("ran")),
        "torch.hub": call("torch.hub.load", text("x"), text("y")),
        "numpy's own eval": call(
            "numpy.testing._private.utils.runstring", text("open('ran', 'w')"), b"}"
        ),
        "numpy.load": call("numpy.load", text("ran")),
        "attribute of a known one": call("torch.Tensor.__init__.__globals__.get", text("os")),
        "built by name": call("torch.nn.modules.linear.Linear", number(10**6), number(10**6)),
        "state of a class": name("torch.nn.modules.module.Module") + mapping() + b"b",
        "instance": b"(" + text("touch ran") + b"ios\nsystem\n",
        "object": b"(" + name("os.system") + text("touch ran") + b"o",
        "extension": b"\x82\x01",
        "stack global": text("os") + text("system") + b"\x93",
    }


def sizes_that_lie():
    huge = 10**9
    return {
        "view is longer": view(0, [huge], [1]),
        "view takes larger steps": view(0, [2], [huge]),
        "view begins later": view(huge, [1], [1]),
        "view goes back": view(1, [2], [-1]),
        "view before the beginning": view(-1, [1], [1]),
        "product beyond 64 bits": view(0, [2**40, 2**40], [2**40, 1]),
        "dtype is wider": call(
            "torch._utils._rebuild_tensor_v3",
            *(storage(4, kind="torch.storage.UntypedStorage"), number(0), tuple_of(number(4))),
            *(tuple_of(number(1)), b"\x89", call("collections.OrderedDict")),
            name("torch.float64"),
        ),
        "storage has more": view(0, [huge], [1], kept=storage(huge)),
        "storage has less than nothing": view(0, [0], [1], kept=storage(-1)),
        "no such storage": view(0, [1], [1], kept=storage(1, key="7")),
        "storage outside": view(0, [1], [1], kept=storage(1, key="../data.pkl")),
        "meta tensor beyond 64 bits": call(
            "torch._utils._rebuild_meta_tensor_no_storage",
            *(name("torch.float32"), tuple_of(number(2**40), number(2**40))),
            *(tuple_of(number(2**40), number(1)), b"\x89"),
        ),
        "text of 4 GB": b"X\xff\xff\xff\xff",
        "text of 2^60": b"\x8d" + struct.pack("<Q", 2**60),
        "bytes of 2^60": b"\x8e" + struct.pack("<Q", 2**60),
        "bytearray of 2^60": b"\x96" + struct.pack("<Q", 2**60),
        "number of 2 GB": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "decimal number": b"I" + b"9" * 1_000_000 + b"\n",
        "frame": b"\x95" + struct.pack("<Q", 2**60),
    }


def never_ending():
    again = b"h\x00\x85R"
    return {
        "deep key": b"}" + nested_tuples(200_000) + b"Ns",
        "wide key": b"}" + doubled_tuples(60) + b"Ns",
        "wide element of a set": call("builtins.set", b"](" + doubled_tuples(60) + b"e"),
        "keys of one hash": colliding_keys(20_000),
        "set made over and over": b"]("
        + number(5) * 10_000
        + b"eq\x00"
        + (name("builtins.set") + again) * 20_000,
        "very many instructions": b"N" * 4_000_000,
        "very deep lists": b"]" * 200_000 + b"a" * 199_999,
        "marks without end": b"(" * 200_000,
        "layers of a recurrent module": module(
            (text("num_layers"), number(10**9)),
            (text("bidirectional"), b"\x89"),
            (text("bias"), b"\x89"),
            (text("_all_weights"), b"](](K\x00ee"),
            of="torch.nn.modules.rnn.LSTM",
        ),
        "layers given late": module(
            (text("num_layers"), number(1)),
            (text("bidirectional"), b"\x89"),
            (text("bias"), b"\x89"),
            (text("_all_weights"), b"](](K\x00ee"),
            of="torch.nn.modules.rnn.LSTM",
        )
        + mapping((text("num_layers"), number(10**9)))
        + b"b",
        "function of a nest": module(
            *tables(),
            (
                text("act"),
                module(
                    (text("name"), doubled_tuples(60)),
                    of="modelyard.version_manager.module_format.TorchFunction",
                ),
            ),
        ),
        "method replaced": module(*tables(), (text("eval"), module(*tables()))),
        "setstate replaced": module(*tables(), (text("__setstate__"), module(*tables())))
        + mapping()
        + b"b",
        "no tables": module((text("a"), b"N")),
        "tables of another kind": module(*tables(module(*tables()))),
        "parts of another kind": module(*tables(mapping((text("a"), number(1))))),
        "names of another kind": module(*tables(mapping((number(1), b"N")))),
    }
