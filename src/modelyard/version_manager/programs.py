"""The pickle in a stored module, read through before torch's restricted unpickler runs it.

A pickle is a program for a machine with a stack. The unpickler runs no code it was not allowed,
but among what it always allows are calls that take any amount of memory (`bytearray(10**12)`),
keys that take forever to hash, and arrays whose declared form does not fit their bytes. This
machine runs the program on stand-ins, makes nothing, and lets pass only what modules are made of.
"""

import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any

from torch import _weights_only_unpickler as unpickler

from modelyard.version_manager.archives import Archive
from modelyard.version_manager.calls import (
    Name,
    check_state,
    checked_call,
    is_hashable,
    may_collide,
    refuse,
    stored_for,
)

_MOST_INSTRUCTIONS = 3_000_000
# Elements that calls such as set(list) take, all together: one list may be taken often.
_MOST_TAKEN = 2_000_000
_MOST_ODD_KEYS = 3_000
_UINT32 = struct.Struct("<I")
_PROTOCOL = 2  # what torch.save writes, and all that torch's unpickler knows


def names_in(archive: Archive) -> list[str]:
    """Classes and functions that the module in `archive` is made of and torch does not know.

    Raises:
        pickle.UnpicklingError: It asks for more than a module is made of.
        ValueError: It is damaged; also IndexError, KeyError and struct.error.
    """
    machine = _Machine(archive.program, archive.sizes_bytes)
    machine.run()
    return sorted(machine.names)


class _Machine:
    """Runs one program; not shared between threads."""

    def __init__(self, program: bytes, sizes_bytes: Mapping[str, int]) -> None:
        self.names: set[str] = set()
        self._program = program
        self._sizes_bytes = sizes_bytes
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._n_taken = 0
        self._n_odd_keys = 0

    def run(self) -> None:
        program, instructions = self._program, _INSTRUCTIONS
        for _ in range(_MOST_INSTRUCTIONS):
            code = program[self._at]
            self._at += 1
            if code == _STOP:
                self._stack.pop()
                return
            instruction = instructions.get(code)
            if instruction is None:
                raise refuse(f"uses the pickle instruction {code:#x}")
            instruction(self)
        raise refuse(f"has more than {_MOST_INSTRUCTIONS} instructions")

    def _take(self, n_bytes: int) -> bytes:
        start = self._at
        self._at = end = start + n_bytes
        if end > len(self._program):
            raise ValueError("its pickle ends in the middle of a value")
        return self._program[start:end]

    def _byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._program[at]

    def _number(self, layout: struct.Struct) -> Any:
        at = self._at
        self._at = at + layout.size
        return layout.unpack_from(self._program, at)[0]

    def _line(self) -> bytes:
        end = self._program.index(b"\n", self._at) + 1
        return self._take(end - self._at)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    # ── values ──────────────────────────────────────────────────────────────────────────────

    def protocol(self) -> None:
        if (found := self._byte()) != _PROTOCOL:
            raise refuse(f"is of pickle protocol {found} and not {_PROTOCOL}")

    def name(self) -> None:
        # torch's own reading of it: it knows what the names of Python 2 became.
        name = Name(".".join(unpickler._read_global_instruction(self._line)))  # noqa: SLF001
        if not name.is_known:
            self.names.add(name.full)
        self._push(name)

    def text(self) -> None:
        self._push(str(self._take(self._number(_UINT32)), "utf-8", "surrogatepass"))

    def short_text(self) -> None:
        self._push(str(self._take(self._byte()), "utf-8"))

    def long_number(self) -> None:
        self._push(pickle.decode_long(self._take(self._byte())))

    def stored(self) -> None:
        self._push(stored_for(self._stack.pop(), self._sizes_bytes))

    # ── containers ──────────────────────────────────────────────────────────────────────────

    def mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def marked_tuple(self) -> None:
        items = self._pop_mark()
        self._push(tuple(items))

    def append(self) -> None:
        item = self._stack.pop()
        self._list().append(item)

    def extend(self) -> None:
        items = self._pop_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        target = self._stack[-1]
        if type(target) is not list:
            raise refuse("appends to what is no list")
        return target

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set(key, value)

    def set_items(self) -> None:
        items = self._pop_mark()
        for i in range(0, len(items), 2):
            self._set(items[i], items[i + 1])

    def _set(self, key: Any, value: Any) -> None:
        target = self._stack[-1]
        if not is_hashable(key):
            raise refuse("has keys that may take forever to hash")
        self._n_odd_keys += may_collide(key)
        if self._n_odd_keys > _MOST_ODD_KEYS:
            raise refuse(f"has more than {_MOST_ODD_KEYS} keys that are neither text nor small")
        # Only text names attributes; other keys need not be remembered.
        if type(target) is dict and type(key) is str:
            target[key] = value

    # ── calls ───────────────────────────────────────────────────────────────────────────────

    def call(self) -> None:
        arguments = self._stack.pop()
        made = checked_call(self._stack[-1], arguments)
        self._n_taken += sum(len(item) for item in arguments if isinstance(item, list | dict))
        if self._n_taken > _MOST_TAKEN:
            raise refuse("copies the same lists over and over")
        self._stack[-1] = made

    def build(self) -> None:
        state = self._stack.pop()
        check_state(self._stack[-1], state)

    # ── memory ──────────────────────────────────────────────────────────────────────────────

    def recall(self) -> None:
        self._stack.append(self._memo[self._byte()])

    def recall_long(self) -> None:
        self._stack.append(self._memo[self._number(_UINT32)])

    def remember(self) -> None:
        self._memo[self._byte()] = self._stack[-1]

    def remember_long(self) -> None:
        self._memo[self._number(_UINT32)] = self._stack[-1]


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine._push(value)  # noqa: SLF001 - part of the machine


def _number(layout: str) -> Callable[[_Machine], None]:
    compiled = struct.Struct(layout)
    return lambda machine: machine._push(machine._number(compiled))  # noqa: SLF001 - as above


def _tuple(length: int) -> Callable[[_Machine], None]:
    def instruction(machine: _Machine) -> None:
        stack = machine._stack  # noqa: SLF001 - as above
        if len(stack) < length:
            raise IndexError("its pickle takes more from the stack than there is")
        stack[-length:] = [tuple(stack[-length:])]

    return instruction


_STOP = pickle.STOP[0]
_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    code[0]: instruction
    for code, instruction in {
        pickle.PROTO: _Machine.protocol,
        pickle.GLOBAL: _Machine.name,
        pickle.NEWOBJ: _Machine.call,
        pickle.REDUCE: _Machine.call,
        pickle.BUILD: _Machine.build,
        pickle.APPEND: _Machine.append,
        pickle.APPENDS: _Machine.extend,
        pickle.SETITEM: _Machine.set_item,
        pickle.SETITEMS: _Machine.set_items,
        pickle.MARK: _Machine.mark,
        pickle.TUPLE: _Machine.marked_tuple,
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.NONE: _constant(None),
        pickle.NEWFALSE: _constant(False),
        pickle.NEWTRUE: _constant(True),
        pickle.EMPTY_TUPLE: _constant(()),
        pickle.EMPTY_LIST: lambda machine: machine._push([]),  # noqa: SLF001
        pickle.EMPTY_DICT: lambda machine: machine._push({}),  # noqa: SLF001
        # Nothing can be added: torch knows no instruction for it.
        pickle.EMPTY_SET: _constant(()),
        pickle.BININT: _number("<i"),
        pickle.BININT1: lambda machine: machine._push(machine._byte()),  # noqa: SLF001
        pickle.BININT2: _number("<H"),
        pickle.BINFLOAT: _number(">d"),
        pickle.BINUNICODE: _Machine.text,
        pickle.SHORT_BINSTRING: _Machine.short_text,
        pickle.LONG1: _Machine.long_number,
        pickle.BINPERSID: _Machine.stored,
        pickle.BINGET: _Machine.recall,
        pickle.LONG_BINGET: _Machine.recall_long,
        pickle.BINPUT: _Machine.remember,
        pickle.LONG_BINPUT: _Machine.remember_long,
    }.items()
}
