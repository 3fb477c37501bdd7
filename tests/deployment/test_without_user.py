"""Requests without a user while the traffic is split: one account would alternate."""

import logging

import pytest
import torch
from torch import nn

from modelyard.deployment import Deployment
from modelyard.version_manager import ModelVersionManager

X = torch.ones(1, 4)


@pytest.fixture
def served(tmp_path):
    registry = ModelVersionManager(tmp_path / "models")
    ids = [registry.save_model(nn.Linear(4, 2), "ppo", example_input=X) for _ in range(2)]
    deployment = Deployment(registry, "ppo", seed=0)
    deployment.serve(ids[0])
    return deployment, ids


def split(deployment, ids):
    deployment.add_version(ids[1])
    deployment.set_shares({ids[0]: 0.5, ids[1]: 0.5}, stable=ids[0])


def warned(caplog):
    records = [r for r in caplog.records if r.levelno == logging.WARNING]
    return [r.getMessage() for r in records if "without a user_id" in r.getMessage()]


def test_it_is_warned_about_once(served, caplog):
    deployment, ids = served
    deployment.predict(X)
    assert warned(caplog) == []  # one version has everything
    split(deployment, ids)
    for _ in range(3):
        deployment.predict(X)
    assert len(warned(caplog)) == 1


def test_with_a_user_nothing_is_said(served, caplog):
    deployment, ids = served
    split(deployment, ids)
    deployment.predict(X, user_id="ana")
    deployment.set_stable_only()
    deployment.predict(X)  # the stable version has everything
    assert warned(caplog) == []
