"""From a user to a slot, by a formula any language can repeat.

The slot is the first four bytes of md5("test:salt:user"), read as a big-endian unsigned number,
modulo 10,000. md5 because every language has it; nothing here is a secret.
"""

import hashlib
import struct

N_SLOTS = 10_000

_md5 = hashlib.md5
_first_four = struct.Struct(">I12x").unpack
_first_four_and_eight = struct.Struct(">IQ4x").unpack


def slot_of(test_name: str, salt: str, user_id: str) -> int:
    """The user's slot in this test, 0 to 9,999.

    Another salt deals the users anew, so that two tests do not share their halves.

    Example:
        >>> slot_of("model_comparison", "", "user_0")
        6153
    """
    key = f"{test_name}:{salt}:{user_id}".encode()
    return _first_four(_md5(key, usedforsecurity=False).digest())[0] % N_SLOTS  # type: ignore[no-any-return]


def slot_and_mark_of(test_name: str, salt: str, user_id: str) -> tuple[int, int]:
    """The user's slot, and 64 other bits that tell users apart and are independent of it."""
    key = f"{test_name}:{salt}:{user_id}".encode()
    first, mark = _first_four_and_eight(_md5(key, usedforsecurity=False).digest())
    return first % N_SLOTS, mark
