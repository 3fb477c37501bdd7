"""What was found, as rows that tell a reader why each backend won or lost."""

from collections.abc import Mapping, Sequence

from modelyard.inference_optimizer.backends import LARGEST, label_of
from modelyard.inference_optimizer.records import Candidate
from modelyard.inference_optimizer.tuning.contenders import BACKENDS, Contender
from modelyard.inference_optimizer.tuning.deciding import NEEDED_GAIN
from modelyard.inference_optimizer.tuning.record import TuningRecord
from modelyard.torchtools.timing import MS_PER_S

Times = Mapping[int, Mapping[str, float]]
_USUAL_ONLY = f"; inputs with NaN, infinity or more than {LARGEST:g} go to eager"


def lost_row(contender: Contender, reason: str, max_abs_diff: float | None = None) -> Candidate:
    """The row of what was not timed."""
    return {
        "name": contender.name,
        "settings": dict(contender.settings),
        "is_chosen": False,
        "chosen_at": [],
        "reason": reason,
        "max_abs_diff": max_abs_diff,
        "latency_ms": {},
        "speedup": {},
    }


def timed_row(
    contender: Contender,
    max_abs_diff: float | None,
    times: Times,
    winners: Mapping[int, str],
    *,
    asked: str,
    is_usual_only: bool,
) -> Candidate:
    """The row of what was timed.

    Args:
        contender: The backend.
        max_abs_diff: Largest difference from eager.
        times: Seconds of a call, by batch size and label.
        winners: Label of the chosen one by batch size.
        asked: "auto", or the family that had to be chosen.
        is_usual_only: Whether it gets usual numbers only.
    """
    label = contender.label
    reason = _reason(contender, times, winners, asked=asked)
    return {
        "name": contender.name,
        "settings": dict(contender.settings),
        "is_chosen": label in winners.values(),
        "chosen_at": [n for n, winner in winners.items() if winner == label],
        "reason": reason + _USUAL_ONLY * is_usual_only,
        "max_abs_diff": max_abs_diff,
        "latency_ms": {str(n): by_label[label] * MS_PER_S for n, by_label in times.items()},
        "speedup": {str(n): by_label["eager"] / by_label[label] for n, by_label in times.items()},
    }


def recorded_row(
    contender: Contender, max_abs_diff: float, record: TuningRecord, *, is_usual_only: bool
) -> Candidate:
    """The row of what is used again, with the figures it was chosen for."""
    won = {
        n: winner
        for n, winner in record.winners.items()
        if label_of(winner.name, winner.settings) == contender.label
    }
    told = (
        f"chosen before on equal hardware at batch {_listed([*won])}" if won else "compared with"
    )
    return {
        "name": contender.name,
        "settings": dict(contender.settings),
        "is_chosen": bool(won),
        "chosen_at": [*won],
        "reason": told + _USUAL_ONLY * is_usual_only,
        "max_abs_diff": max_abs_diff,
        "latency_ms": {str(n): one.latency_ms for n, one in won.items()},
        "speedup": {str(n): one.eager_latency_ms / one.latency_ms for n, one in won.items()},
    }


def _reason(contender: Contender, times: Times, winners: Mapping[int, str], *, asked: str) -> str:
    if asked not in {"auto", contender.name}:
        return f"timed to compare with; {asked} was asked for"
    label = contender.label
    won = [n for n, winner in winners.items() if winner == label]
    told = []
    if won and asked != "auto":
        told = [f"asked for, and with its best settings, at batch {_listed(won)}"]
    elif won:
        told = [_won(label, won, times)]
    lost: dict[str, list[int]] = {}
    for n, winner in winners.items():
        if winner != label:
            lost.setdefault(_lost(label, winner, times[n]), []).append(n)
    told += [f"{why} at batch {_listed(sizes)}" for why, sizes in lost.items()]
    return "; ".join(told)


def _won(label: str, won: Sequence[int], times: Times) -> str:
    is_fastest = all(times[n][label] <= min(times[n].values()) for n in won)
    if is_fastest:
        return f"fastest at batch {_listed(won)}"
    if label == "eager":
        return f"no other is faster by {NEEDED_GAIN:.0%} at batch {_listed(won)}"
    return f"as fast as the fastest, and simpler or used already, at batch {_listed(won)}"


def _lost(label: str, winner: str, at: Mapping[str, float]) -> str:
    if at[label] > at[winner]:
        return f"slower than {winner}"
    if winner == "eager":
        return f"not faster than eager by {NEEDED_GAIN:.0%}"
    return f"no faster than {winner} beyond noise"


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))


def in_order(rows: Sequence[Candidate]) -> list[Candidate]:
    """The simplest family first, and within a family what was chosen, then what was timed."""
    return sorted(
        rows,
        key=lambda row: (
            BACKENDS.index(row["name"]),
            not row["is_chosen"],
            not row["latency_ms"],
        ),
    )
