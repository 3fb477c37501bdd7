"""The same rollout by a real `Deployment` and `UpdateStrategy`, on a clock moved by hand."""

import tempfile
from datetime import datetime
from unittest.mock import patch

import torch
from _rollout_ours import METRIC
from _rollout_traffic import MODEL, WINDOW, Answers, Traffic, user_id
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard.deployment import Deployment
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy
from modelyard.update_strategy.rollout import Move
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.version_manager import ModelVersionManager

_CHECKED_EVERY = 50
_X = torch.ones(1, 4)
_MOVES = {move.value: move.value for move in Move if move not in {Move.WAIT, Move.BEGIN}}
# What the end of the bake is written as.
_MOVES["promoted"] = Move.FINISH.value


class _Stopwatch:
    """Stands in for `time` where latencies are measured: the versions say how long they took."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class _Scripted(nn.Module):
    """Takes as long as it is told to, and fails when told to."""

    def __init__(self, stopwatch: _Stopwatch) -> None:
        super().__init__()
        self._stopwatch = stopwatch
        self.answers: Answers | None = None
        self.request = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.answers is None:
            return x
        self._stopwatch.now_s += float(self.answers.latencies_ms[self.request]) / 1000.0
        return x * float("nan") if self.answers.errors[self.request] else x


def real_moves(traffic: Traffic, settings: UpdateSettings) -> list[tuple[float, str, str]]:
    """Each move of the real thing, with its time from the rollout's beginning and its reason."""
    with tempfile.TemporaryDirectory() as folder:
        stopwatch = _Stopwatch()
        with patch("modelyard.deployment.attempts.time", stopwatch):
            return _moves(folder, stopwatch, traffic, settings)


def _moves(
    folder: str, stopwatch: _Stopwatch, traffic: Traffic, settings: UpdateSettings
) -> list[tuple[float, str, str]]:
    clock = ManualClock()
    registry = ModelVersionManager(folder, clock=clock)
    ids = [registry.save_model(nn.Linear(4, 4), MODEL) for _ in range(2)]
    registry.rollback_to_version(ids[0])
    deployment = Deployment(registry, MODEL, clock=clock, window_size=WINDOW)
    versions = {version_id: _Scripted(stopwatch) for version_id in ids}
    for version_id, version in versions.items():
        deployment.add_version(version_id, version)
    old, new = versions.values()
    deployment.serve(ids[0])
    old.answers = traffic.before
    for i, value in enumerate(traffic.before.values.tolist()):
        old.request = i
        deployment.predict(_X, request_id=f"before-{i}", fallback=None)
        deployment.record_outcome(f"before-{i}", {METRIC: value})
    strategy = UpdateStrategy(
        registry,
        ModelMonitor(MODEL, clock=clock, background=False),
        {"key_metric": settings.key_metric},
        deployment=deployment,
        clock=clock,
    )
    started, started_s = clock.now(), clock.monotonic_s()
    strategy.update_model(ids[1])
    bake_s = settings.bake_minutes * 60.0
    old.answers, new.answers = traffic.stable, traffic.candidate(None, bake_s=bake_s)
    is_watched, outcomes, n_told = traffic.case.is_changing, [], 0
    for i, at_s in enumerate(traffic.times_s.tolist()):
        clock.advance(started_s + at_s - clock.monotonic_s())
        while traffic.times_s[n_told] + traffic.case.delay_s <= at_s:
            deployment.record_outcome(str(n_told), {METRIC: outcomes[n_told]})
            n_told += 1
        old.request = new.request = i
        user = user_id(int(traffic.users[i]))
        answer = deployment.predict(_X, user_id=user, request_id=str(i), fallback=None)
        values = traffic.candidate_values if answer.version_id == ids[1] else traffic.stable.values
        outcomes.append(float(values[i]))
        if is_watched and registry.get_by_alias(MODEL)["version_id"] == ids[1]:
            new.answers, is_watched = traffic.candidate(at_s, bake_s=bake_s), False
        if i % _CHECKED_EVERY == 0 and strategy.get_rollout() is None:
            break
    [record] = strategy.get_update_history(limit=1)
    return [
        (
            (datetime.fromisoformat(event["at"]) - started).total_seconds(),
            _MOVES[event["action"]],
            event["detail"].get("reason", ""),
        )
        for event in record["events"]
        if event["action"] in _MOVES
    ]
