"""When what an experiment or a bandit recorded is stored."""

from modelyard._core.errors import ConfigError

# `batched`: by a flush, which any call makes when the last one is this long ago; `sync`: before
# the call returns.
DURABILITIES = ("batched", "sync")
FLUSH_INTERVAL_S = 1.0
# A store that refuses is asked again after twice as long each time, up to this.
LONGEST_PAUSE_S = 60.0


def check_durability(durability: str) -> None:
    """Check that there is such a way to store.

    Raises:
        ConfigError: There is not.
    """
    if durability not in DURABILITIES:
        raise ConfigError(
            f"durability must be one of {', '.join(DURABILITIES)}; got {durability!r}."
        )
