"""What a search tells while it runs and in the end."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Console

from modelyard._core.errors import ConfigError
from modelyard.compression.records import CandidateTold
from modelyard.compression.search.candidates import Candidate

# None: a line a candidate on stderr, where that is a terminal.
Progress = Callable[[CandidateTold], object] | Literal[False] | None


def teller(progress: Progress) -> Callable[[Candidate], None]:
    """Who is told of each candidate."""
    if callable(progress):

        def hand_over(candidate: Candidate) -> None:
            progress(told(candidate, ()))

        return hand_over
    if progress is not None and progress is not False:
        raise ConfigError(
            "progress must be None (lines in a terminal), False (nothing) or a function of a "
            f"candidate, got {progress!r}."
        )

    def show(candidate: Candidate) -> None:
        console.print(in_words(candidate), markup=False, highlight=False)

    console = Console(stderr=True)
    if progress is False or not console.is_terminal:
        return lambda _: None
    return show


def in_words(candidate: Candidate) -> str:
    """A candidate in one line."""
    if not candidate.is_measured:
        return f"{candidate.name}: left out, {candidate.reason}"
    told_so = f", but {candidate.reason}" if candidate.reason else ""
    return (
        f"{candidate.name}: {candidate.size_mb:.3g} MB, {candidate.speedup:.2g} x, metric "
        f"{candidate.metric:.4g} ({-candidate.drop:+.2%}){told_so}"
    )


def told(candidate: Candidate, front: Sequence[Candidate]) -> CandidateTold:
    """A candidate as plain values; what was not measured is None."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": candidate.name,
        "pruned": candidate.pruned,
        "recipe": candidate.recipe,
        "metric": number(candidate.metric),
        "metric_drop": number(candidate.drop),
        "size_mb": number(candidate.size_mb),
        "latency_ms": number(candidate.latency_ms),
        "speedup": number(candidate.speedup),
        "error": number(candidate.error),
        "is_allowed": candidate.is_measured and not candidate.reason,
        "is_on_front": any(candidate is one for one in front),
        "reason": candidate.reason,
    }
