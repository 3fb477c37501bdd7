"""Policies of stable-baselines3: the exported action is the one `predict` gives."""

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from modelyard._core.errors import ConversionError, InputError
from modelyard.torchtools.conversion import to_onnx
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.torchtools.policies import as_module, example_observation, is_algorithm

pytestmark = pytest.mark.slow

BOX = gymnasium.spaces.Box(np.float32([-2, 0]), np.float32([0.5, 3]))
STATE = gymnasium.spaces.Box(-3, 3, (5,), np.float32)


class World(gymnasium.Env):
    def __init__(self, action_space, observation_space=STATE):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


@pytest.mark.parametrize(
    ("algorithm", "space"),
    [
        (PPO, gymnasium.spaces.Discrete(4)),
        (PPO, BOX),
        (PPO, gymnasium.spaces.MultiDiscrete([2, 3])),
        (SAC, BOX),
        (DQN, gymnasium.spaces.Discrete(3)),
    ],
)
def test_the_exported_action_is_predicts(algorithm, space):
    agent = algorithm("MlpPolicy", World(space), device="cpu", seed=0)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.mul_(4.0)  # far enough from zero that actions are clipped and differ
    module = as_module(agent)
    graph = to_onnx(module, example_observation(module))
    states = np.random.default_rng(1).normal(0, 2, (64, 5)).astype(np.float32)
    want, _ = agent.predict(states, deterministic=True)
    (got,) = run_session(make_session(graph.data), [torch.from_numpy(states)])
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
    assert len(np.unique(want, axis=0)) > 1


def test_dict_observations_are_inputs_by_name():
    space = gymnasium.spaces.Dict({"price": STATE, "held": gymnasium.spaces.Discrete(3)})
    agent = PPO("MultiInputPolicy", World(BOX, space), device="cpu", seed=0)
    module = as_module(agent)
    example = example_observation(module)
    graph = to_onnx(module, example)
    (got,) = run_session(make_session(graph.data), [example[0]["held"], example[0]["price"]])
    observation = {name: tensor.numpy() for name, tensor in example[0].items()}
    want, _ = agent.predict(observation, deterministic=True)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)


def test_a_bare_policy_is_refused_with_the_way_out():
    agent = PPO("MlpPolicy", World(BOX), device="cpu")
    with pytest.raises(ConversionError, match=r"samples its actions\. Pass the algorithm"):
        to_onnx(agent.policy, torch.zeros(2, 5))


def test_what_is_neither_module_nor_algorithm_is_refused():
    assert not is_algorithm(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"Expected an nn\.Module, got a dict"):
        as_module({})


def test_a_recurrent_policy_is_refused():
    agent = PPO("MlpPolicy", World(BOX), device="cpu")
    agent.policy.lstm_actor = nn.LSTM(2, 2)
    with pytest.raises(InputError, match="carries a state between calls"):
        as_module(agent)
