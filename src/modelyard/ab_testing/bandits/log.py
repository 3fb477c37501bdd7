"""The log of choices as plain values, and in files of JSON lines or CSV."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, cast

from modelyard._core.clock import Clock
from modelyard._core.errors import ConfigError
from modelyard._core.files import replacing
from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.choices import BanditChoice, fill_propensities


class LoggedChoice(TypedDict):
    """One choice and what came of it.

    `propensity` is the chance with which `variant` was chosen out of `among`, given all that was
    known then. `reward` is None while it has not come (`has_reward` is False), and where it was
    not finite. `at` is ISO 8601, UTC.
    """

    at: str
    variant: str
    among: list[str]
    propensity: float
    has_reward: bool
    reward: float | None
    request_id: str | None


@dataclass(frozen=True)
class Times:
    """What turns monotonic seconds of this process into times, and back.

    Attributes:
        now: Wall-clock time.
        now_s: Monotonic seconds at that time.
    """

    now: datetime
    now_s: float

    @classmethod
    def of(cls, clock: Clock) -> "Times":
        """As the clock tells both now."""
        return cls(clock.now(), clock.monotonic_s())

    def to_iso(self, at_s: float) -> str:
        """ISO 8601 of monotonic seconds."""
        return (self.now + timedelta(seconds=at_s - self.now_s)).isoformat()

    def to_s(self, at: str) -> float:
        """Monotonic seconds of ISO 8601."""
        return self.now_s + (datetime.fromisoformat(at) - self.now).total_seconds()


def logged(choices: Iterable[BanditChoice], times: Times) -> list[LoggedChoice]:
    """Choices as plain values, propensities worked out."""
    known = list(choices)
    fill_propensities(known)
    return [
        {
            "at": times.to_iso(choice.at_s),
            "variant": choice.variant,
            "among": list(choice.among),
            "propensity": cast("float", choice.propensity),
            "has_reward": choice.has_reward,
            "reward": finite_or_none(choice.reward) if choice.has_reward else None,
            "request_id": choice.request_id,
        }
        for choice in known
    ]


def choice_of(plain: Mapping[str, Any], times: Times) -> BanditChoice:
    """The choice that `logged` described; one without a reward is not waited for."""
    among = tuple(plain["among"])
    choice = BanditChoice(among.index(plain["variant"]), among, times.to_s(plain["at"]))
    choice.propensity = plain["propensity"]
    choice.request_id = plain["request_id"]
    choice.is_pending = False
    if plain["has_reward"]:
        choice.end(math.nan if plain["reward"] is None else plain["reward"])
    return choice


def write_log(path: Path, entries: Iterable[LoggedChoice]) -> None:
    """Write entries as JSON lines (`.jsonl`) or CSV (`.csv`), whole or not at all.

    Raises:
        ConfigError: Another kind of file.
    """
    kind = _kind(path)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
            return
        table = csv.DictWriter(file, list(LoggedChoice.__annotations__))
        table.writeheader()
        # A name may hold any character, so the list of them is JSON in its cell.
        table.writerows({**entry, "among": json.dumps(entry["among"])} for entry in entries)


def read_log(path: str | Path) -> list[LoggedChoice]:
    """Read what `MultiArmedBandit.export_choices` wrote.

    Raises:
        ConfigError: Neither `.jsonl` nor `.csv`.
    """
    path = Path(path)
    kind = _kind(path)
    with path.open(encoding="utf-8", newline="") as file:
        if kind == ".jsonl":
            return [json.loads(line) for line in file]
        return [_from_cells(row) for row in csv.DictReader(file)]


def _from_cells(row: dict[str, Any]) -> LoggedChoice:
    return {
        "at": row["at"],
        "variant": row["variant"],
        "among": json.loads(row["among"]),
        "propensity": float(row["propensity"]),
        "has_reward": row["has_reward"] == "True",
        "reward": float(row["reward"]) if row["reward"] else None,
        "request_id": row["request_id"] or None,
    }


def _kind(path: Path) -> str:
    kind = path.suffix.lower()
    if kind not in {".jsonl", ".csv"}:
        raise ConfigError(f"The log is written as .jsonl or .csv, not as {path.name!r}.")
    return kind
