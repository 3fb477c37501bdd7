"""Which backend wins, from measured times alone."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

# Gains below 5 % over eager are not worth another backend's risk.
NEEDED_GAIN = 0.05
# Two measurements of one backend differ by about as much.
_NOISE = 0.03

Key = TypeVar("Key")


def winners(
    times: Mapping[int, Mapping[Key, float]], order: Sequence[Key], *, eager: Key | None
) -> dict[int, Key]:
    """The backend to use at each batch size.

    The fastest, except that among those within noise of it one that smaller sizes use already is
    preferred, then the simplest; and eager where none is faster by `NEEDED_GAIN`.

    Args:
        times: Seconds of a call, by batch size and backend.
        order: The backends, the simplest first.
        eager: Which is eager; None where it may not win.
    """
    found: dict[int, Key] = {}
    for n in sorted(times):
        by_key = {key: time for key, time in times[n].items() if key in order}
        best = min(by_key.values())
        if eager is not None and best > (1.0 - NEEDED_GAIN) * by_key[eager]:
            found[n] = eager
            continue
        close = [key for key in order if by_key.get(key, best * 2) <= best * (1.0 + _NOISE)]
        used = [key for key in close if key in found.values()]
        found[n] = (used or close)[0]
    return found


def chunk_size(times: Mapping[int, float], *, asked: Sequence[int]) -> int:
    """The batch size of the least time per sample, for answering many samples.

    Args:
        times: Seconds of a call of the winner, by batch size measured.
        asked: Batch sizes that matter. Where the largest took too long to be measured and the
            largest measured is the best, it is the largest asked: time per sample falls.
    """
    best = min(times, key=lambda n: (times[n] / n, -n))
    return max(asked) if best == max(times) else best


def worth_making(
    latency_s: Mapping[Key, Mapping[int, float]], *, n_most: int, factor: float
) -> list[Key]:
    """Settings of one engine that may be the fastest, by rough times from elsewhere.

    Args:
        latency_s: By settings and batch size.
        n_most: Settings kept for each batch size.
        factor: What is slower than the best by more than this is not kept.
    """
    kept: set[Key] = set()
    sizes = {n for by_size in latency_s.values() for n in by_size}
    for n in sizes:
        times = {key: by_size[n] for key, by_size in latency_s.items()}
        best = min(times.values())
        ranked = sorted(times, key=lambda key, at=times: at[key])  # type: ignore[misc]
        kept |= {key for key in ranked[:n_most] if times[key] <= factor * best}
    return [key for key in latency_s if key in kept]
