"""Versions that go leave no thread behind."""

import threading

import torch
from torch import nn

from modelyard.deployment import Deployment
from modelyard.version_manager import ModelVersionManager


def test_a_retired_version_leaves_no_thread(tmp_path):
    registry = ModelVersionManager(str(tmp_path))
    deployment = Deployment(registry, "ppo", seed=0, timeout_s=5.0)
    deployment.add_version("ppo_v1", nn.Linear(4, 2))
    deployment.set_shares({"ppo_v1": 1.0}, stable="ppo_v1")
    deployment.predict(torch.ones(1, 4))
    before = set(threading.enumerate())
    for i in range(3):
        name = f"ppo_c{i}"
        deployment.add_version(name, nn.Linear(4, 2))
        deployment.set_shadow(name)
        deployment.set_shares({"ppo_v1": 0.5, name: 0.5}, stable="ppo_v1")
        for user in range(20):
            deployment.predict(torch.ones(1, 4), user_id=str(user))
        deployment.set_shares({"ppo_v1": 1.0}, stable="ppo_v1")
        deployment.retire(name)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(timeout=10.0)
    assert not [thread for thread in left if thread.is_alive()]
