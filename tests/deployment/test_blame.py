"""Whom a request that fails counts against, and what versions are measured by side by side."""

import pytest
import torch
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, InputError, RequestNotFoundError
from modelyard.deployment import Deployment, requests
from modelyard.deployment.forms import Forms, own_copy
from modelyard.version_manager import ModelVersionManager

X = torch.ones(1, 4)


class Failing(nn.Module):
    """Fails at every n-th request, in some way."""

    def __init__(self, every, how=lambda _: 1 // 0):
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.every, self.how, self.n = every, how, 0

    def forward(self, x):
        answer = self.inner(x)  # refuses another width by itself
        self.n += 1
        if self.n % self.every == 0:
            self.how(x)
        return answer


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(tmp_path, clock=ManualClock())


def deploy(registry, stable, candidate, share=0.5):
    deployment = Deployment(registry, "ppo", seed=0)
    deployment.add_version("stable", stable)
    deployment.add_version("candidate", candidate)
    deployment.set_shares({"stable": 1.0}, stable="stable")
    deployment.predict(X)
    deployment.set_shares({"candidate": share, "stable": 1.0 - share}, stable="stable")
    return deployment


def errors(deployment):
    found = [deployment.health_beside(name) for name in ("stable", "candidate")]
    return [(health.n_errors, health.n_predictions) for health in found]


def test_malformed_requests_count_against_neither_whoever_they_are_meant_for(registry):
    deployment = deploy(registry, nn.Linear(4, 2), Failing(10))
    for i in range(400):
        x = torch.ones(1, 7) if i % 4 == 0 else X
        deployment.predict(x, user_id=f"u{i}", fallback=None)
    (stable_errors, n_stable), (candidate_errors, n_candidate) = errors(deployment)
    assert (stable_errors, n_stable + n_candidate) == (0, 300)
    assert candidate_errors == pytest.approx(n_candidate / 10, abs=3)
    assert deployment.health("stable").n_errors == 0


def test_what_both_fail_at_is_the_inputs_fault_and_what_one_fails_at_is_its_own(registry):
    def refuse_negative(x):
        if (x < 0).any():
            raise ValueError("negative")

    deployment = deploy(registry, Failing(1, refuse_negative), Failing(1, refuse_negative))
    for i in range(50):
        deployment.predict(-X, user_id=f"u{i}", fallback=None)
    assert errors(deployment) == [(0, 0), (0, 0)]
    deployment = deploy(registry, Failing(1, refuse_negative), nn.Linear(4, 2))
    for i in range(50):
        deployment.predict(-X, user_id=f"u{i}", fallback=None)
    (n_errors, n), (n_candidate_errors, _) = errors(deployment)
    assert n_errors == n > 0
    assert n_candidate_errors == 0


def test_a_version_alone_that_fails_at_what_it_has_answered_fails(registry):
    deployment = Deployment(registry, "ppo", seed=0)
    model = Failing(10**9)
    deployment.add_version("only", model)
    deployment.set_shares({"only": 1.0}, stable="only")
    for i in range(10):
        model.every = 1 if i % 2 else 10**9
        deployment.predict(X, fallback=None)
        deployment.predict(torch.ones(1, 7), fallback=None)
    health = deployment.health("only")
    assert (health.n_errors, health.n_predictions) == (5, 10)


def test_what_a_candidate_does_to_its_input_reaches_nobody(registry):
    def ruin(x):
        x.mul_(0)
        raise RuntimeError("ruined")

    stable = nn.Linear(4, 2)
    deployment = deploy(registry, stable, Failing(1, ruin), share=1.0)
    x = torch.ones(1, 4)
    answer = deployment.predict(x)
    assert answer.version_id == "stable"
    torch.testing.assert_close(answer.output, stable.cpu()(X).detach())
    assert torch.equal(x, X)


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_a_model_that_calls_exit_has_failed_and_nothing_ends(registry, timeout_s):
    def leave(_):
        raise SystemExit(3)

    deployment = Deployment(registry, "ppo", timeout_s=timeout_s)
    deployment.add_version("stable", nn.Linear(4, 2))
    deployment.add_version("candidate", Failing(1, leave))
    deployment.set_shares({"candidate": 1.0}, stable="stable")
    answer = deployment.predict(X)
    assert answer.error == "candidate tried to end the process: sys.exit(3)."
    assert deployment.health("candidate").n_errors == 1
    deployment.set_shares({"candidate": 1.0}, stable="candidate")
    with pytest.raises(RuntimeError, match="tried to end the process"):
        deployment.predict(X)


def test_a_version_that_exits_on_its_example_is_not_added(registry):
    def leave(_):
        raise SystemExit

    version_id = registry.save_model(nn.Linear(4, 2), "ppo", example_input=X)
    deployment = Deployment(registry, "ppo")
    with pytest.raises(InputError, match="tried to end the process"):
        deployment.add_version(version_id, Failing(1, leave))


def test_an_interrupt_from_the_keyboard_passes(registry):
    def interrupt(_):
        raise KeyboardInterrupt

    deployment = deploy(registry, nn.Linear(4, 2), Failing(1, interrupt), share=1.0)
    with pytest.raises(KeyboardInterrupt):
        deployment.predict(X)


# Side by side


def test_both_are_measured_from_when_the_candidate_joined(registry):
    deployment = deploy(registry, Failing(2), nn.Linear(4, 2))
    for i in range(20):
        deployment.predict(X, user_id=f"u{i}", fallback=None)
    deployment.set_shares({"stable": 0.2, "candidate": 0.8}, stable="stable")
    for i in range(20):
        deployment.predict(X, user_id=f"u{i}", fallback=None)
    assert sum(n for _, n in errors(deployment)) == 40  # another share forgets nothing
    deployment.set_shares({"stable": 1.0}, stable="stable")
    deployment.set_shares({"stable": 0.5, "candidate": 0.5}, stable="stable")
    assert errors(deployment) == [(0, 0), (0, 0)]  # it has joined anew


def test_outcomes_of_answers_before_count_no_more_once_it_is_measured_anew(registry):
    deployment = deploy(registry, nn.Linear(4, 2), nn.Linear(4, 2), share=1.0)
    before = deployment.predict(X).request_id
    deployment.measure_anew()
    after = deployment.predict(X).request_id
    deployment.record_outcome(before, {"pnl": -1.0})
    deployment.record_outcome(after, {"pnl": 2.0})
    beside = deployment.health_beside("candidate")
    assert beside.n_predictions == 1
    assert (beside.metrics["pnl"].n, beside.metrics["pnl"].mean) == (1, 2.0)
    assert deployment.health("candidate").metrics["pnl"].n == 2


def test_copies_answered_in_another_shape_have_failed(registry):
    deployment = Deployment(registry, "ppo", seed=0)
    deployment.add_version("stable", nn.Linear(4, 2))
    deployment.add_version("shadow", nn.Linear(4, 3))
    deployment.set_shares({"stable": 1.0}, stable="stable")
    deployment.predict(X)
    deployment.set_shadow("shadow")
    for _ in range(10):
        deployment.predict(X)
    deployment._routing.shadow.drain()
    assert deployment.shadow_comparison()["n_failed"] == 10
    assert deployment.shadow_health("shadow").n_errors == 10
    assert deployment.health_beside("stable").n_predictions == 10


# Who gets what


def users_of(deployment):
    return {i for i in range(1000) if deployment._routing.slots.owners[i * 10] == "candidate"}


def test_a_share_has_the_same_users_on_the_way_up_and_down_and_in_any_order(registry):
    deployment = deploy(registry, nn.Linear(4, 2), nn.Linear(4, 2), share=0.1)
    ten = users_of(deployment)
    deployment.set_shares({"stable": 0.5, "candidate": 0.5}, stable="stable")
    half = users_of(deployment)
    assert ten < half
    deployment.set_shares({"candidate": 0.1, "stable": 0.9}, stable="stable")
    assert users_of(deployment) == ten
    fresh = Deployment(registry, "ppo")
    for name in ("candidate", "stable"):
        fresh.add_version(name, nn.Linear(4, 2))
    fresh.set_shares({"candidate": 0.5, "stable": 0.5}, stable="stable")
    assert users_of(fresh) == half


# Outcomes


@pytest.mark.parametrize(
    "odd", [None, [1.0], {"": 1.0}, {"a": 1.0, 3: 2.0}, {"a": None}, {"a": 10**400}, {"a": [1, 2]}]
)
def test_an_odd_outcome_records_nothing_and_may_be_given_again(registry, odd):
    deployment = deploy(registry, nn.Linear(4, 2), nn.Linear(4, 2))
    request_id = deployment.predict(X).request_id
    with pytest.raises(ConfigError, match="Nothing was recorded"):
        deployment.record_outcome(request_id, odd)
    deployment.record_outcome(request_id, {"a": float("nan")})  # says nothing either
    deployment.record_outcome(request_id, {"a": 1.0, "b": float("inf")})
    deployment.record_outcome(request_id, {"a": 5.0})  # the second one
    [metrics] = [
        deployment.health(name).metrics
        for name in ("stable", "candidate")
        if deployment.health(name).metrics
    ]
    assert {name: (m.n, m.mean) for name, m in metrics.items()} == {"a": (1, 1.0)}


def test_an_id_that_is_used_again_is_the_newest(registry, monkeypatch):
    monkeypatch.setattr(requests, "REMEMBERED", 10)
    deployment = deploy(registry, nn.Linear(4, 2), nn.Linear(4, 2))
    deployment.predict(X, request_id="order")
    for _ in range(9):
        deployment.predict(X)
    deployment.predict(X, request_id="order")
    deployment.predict(X)
    deployment.record_outcome("order", {"pnl": 1.0})
    for _ in range(9):
        deployment.predict(X)
    with pytest.raises(RequestNotFoundError):
        deployment.record_outcome("order", {"pnl": 1.0})


# Forms


@pytest.mark.parametrize(
    ("known", "x", "is_strange"),
    [
        (torch.ones(2, 4), torch.ones(9, 4), False),
        (torch.ones(2, 4), torch.ones(2, 5), True),
        (torch.ones(2, 4), torch.ones(2, 4, dtype=torch.float64), True),
        (torch.ones(2, 4), torch.ones(2, 5).numpy(), False),  # tensors tell nothing of arrays
        ({"a": X}, {"a": X}, False),
        ({"a": X}, {"b": X}, True),
        ((X, X), (X, torch.ones(1, 5)), True),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], True),
        (torch.ones(2, 4), object(), False),
    ],
)
def test_an_input_is_strange_where_others_of_its_kind_were_answered(known, x, is_strange):
    forms = Forms()
    assert not forms.is_strange(x)
    forms.add(known)
    assert forms.is_strange(x) is is_strange


def test_a_copy_is_of_the_same_kind_and_its_own():
    x = {"a": [torch.ones(1)], "b": (torch.ones(2).numpy(), "text")}
    copy = own_copy(x)
    copy["a"][0].zero_()
    copy["b"][0][:] = 0
    assert float(x["a"][0]) == float(x["b"][0].sum()) / 2 == 1.0
    assert copy["b"][1] == "text"
