"""Processes that die in the middle of a rollout: `python crashing.py FOLDER POINT...`.

Each point gets a folder of its own and a process of its own (forked, so that torch is imported
once). Prints how each ended, as JSON.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard.deployment import Deployment
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy
from modelyard.update_strategy.history import RolloutLog
from modelyard.version_manager import ModelVersionManager

RULES = {
    "transition_minutes": 1.5,
    "step_min_samples": 20,
    "bake_minutes": 0.0,
    "error_margin": 0.9,
}


# What a rollout needs besides to come by a point.
MORE_RULES = {
    "shadow": {"shadow_minutes": 0.5},
    "approve": {"approval_steps": [50]},
    "bake": {"bake_minutes": 1.0},
    "promoted": {"bake_minutes": 1.0},
}


class Dying:
    """Stands before an object and kills the process at one of its calls.

    Args:
        inner: The object.
        method: Name of the call.
        when: Whether this call is the one, from its arguments.
        after: Kill when the call has been done, not before it.
    """

    def __init__(self, inner, method, when, *, after):
        self._inner = inner
        self._method, self._when, self._after = method, when, after

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        if name != self._method:
            return value

        def called(*arguments, **options):
            is_the_one = self._when(*arguments, **options)
            if is_the_one and not self._after:
                os._exit(9)
            result = value(*arguments, **options)
            if is_the_one:
                os._exit(9)
            return result

        return called


def dying_at_write(action, *, after):
    """Kill the process where a change of the rollout is written to the store."""
    original = RolloutLog.change

    def change(log, *arguments, **options):
        is_the_one = options["action"] == action
        if is_the_one and not after:
            os._exit(9)
        written = original(log, *arguments, **options)
        if is_the_one:
            os._exit(9)
        return written

    RolloutLog.change = change


def live(folder, point):
    """A rollout from the first version to the second, up to the point."""
    clock = ManualClock()
    registry = ModelVersionManager(folder, clock=clock)
    old, new = (
        registry.save_model(nn.Linear(4, 2), "ppo", example_input=torch.ones(2, 4))
        for _ in range(2)
    )
    registry.rollback_to_version(old)
    deployment = Deployment(registry, "ppo", clock=clock, seed=0)
    after = point.startswith("after")
    if point.endswith("_alias"):
        registry = Dying(registry, "set_alias", lambda *_, **__: True, after=after)
    shares = {
        "first_shares": {old: 0.9, new: 0.1},
        "second_shares": {old: 0.5, new: 0.5},
        "whole": {new: 1.0},
        "direct": {new: 1.0},
        "going_back": {old: 1.0},
    }.get(point.split("_", 1)[1])
    written = point.partition("_write_")[2]
    if written:
        dying_at_write(written, after=after)
    rules = {**RULES, **MORE_RULES.get(written, {})}
    deployment.serve(old)
    serving = Dying(deployment, "set_shares", lambda given, **_: given == shares, after=after)
    strategy = UpdateStrategy(
        registry, ModelMonitor("ppo", clock=clock), rules, deployment=serving, clock=clock
    )
    strategy.update_model(new, smooth_transition=point != "before_direct")
    for i in range(3000):
        clock.advance(1.0)
        deployment.predict(torch.ones(1, 4), user_id=f"user-{i}")
        if written:
            strategy.approve()
        if point.endswith("going_back") and i > 50:
            strategy.rollback(reason="asked for")


def main():
    """Die once at each point."""
    folder, *points = sys.argv[1:]
    exit_codes = {}
    for point in points:
        process = os.fork()
        if process == 0:
            live(Path(folder) / point, point)
            os._exit(0)
        exit_codes[point] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    sys.stdout.write(json.dumps(exit_codes))


if __name__ == "__main__":
    main()
