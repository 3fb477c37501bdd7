"""From a user to a slot, by a formula any language can repeat.

The slot is the first four bytes of md5("test:salt:user"), read as a big-endian unsigned number,
modulo 10,000. md5 because every language has it; nothing here is a secret.
"""

import hashlib

N_SLOTS = 10_000

_md5 = hashlib.md5


def slot_of(test_name: str, salt: str, user_id: str) -> int:
    """The user's slot in this test, 0 to 9,999.

    Another salt deals the users anew, so that two tests do not share their halves.

    Example:
        >>> slot_of("model_comparison", "", "user_0")
        6153
    """
    key = f"{test_name}:{salt}:{user_id}".encode()
    digest = _md5(key, usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % N_SLOTS
