"""Names and ids: what is allowed, and how new ones are made."""

import re
import secrets
from datetime import datetime

from modelyard._core.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


def checked_name(name: object, *, what: str) -> str:
    """`name` itself if it can be a folder's name on every system.

    Args:
        name: The name to check.
        what: The kind of thing, for the message ("model_name", "tag", ...).

    Raises:
        ConfigError: Not a string, empty, too long, or with anything but letters, digits and
            `.`, `_`, `-`; `../` can therefore never leave a folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what} {name!r} is not allowed: use 1 to 120 letters (A to Z, a to z), "
            "digits, '.', '_' or '-', beginning with a letter or digit and without '..'."
        )
    return name


def timestamp_of(moment: datetime) -> str:
    """`20231120_120000`: the second of `moment`, as it stands in a version id."""
    return moment.strftime("%Y%m%d_%H%M%S")


def version_id_of(model_name: str, timestamp: str, attempt: int) -> str:
    """`ppo_v20231120_120000` for attempt 1, then `..._2`, `..._3`."""
    base = f"{model_name}_v{timestamp}"
    return base if attempt == 1 else f"{base}_{attempt}"


def attempt_of(version_id: str | None, model_name: str, timestamp: str) -> int:
    """Which attempt made this id; 0 for one of another model or second, and for None."""
    base = version_id_of(model_name, timestamp, 1)
    if version_id == base:
        return 1
    number = (version_id or "").removeprefix(f"{base}_")
    is_one = number.isdecimal() and version_id == f"{base}_{number}"
    return int(number) if is_one else 0


def new_id(prefix: str) -> str:
    """A fresh random id such as `rollout-9f86d081884c7d65`."""
    return f"{prefix}-{secrets.token_hex(8)}"
