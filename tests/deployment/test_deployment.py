"""`Deployment`: who is answered by which version, and what happens when one fails."""

import dataclasses
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard._core.errors import (
    ConfigError,
    InputError,
    ModelyardError,
    NotReadyError,
    RequestNotFoundError,
    VersionNotFoundError,
)
from modelyard.deployment import Deployment
from modelyard.deployment.serving import refuse_non_finite
from modelyard.monitor import ModelMonitor
from modelyard.version_manager import ModelVersionManager

X = torch.ones(1, 3)


class Constant(nn.Module):
    """Answers one number; raises or gives NaN when told to."""

    def __init__(self, value, *, fails=False):
        super().__init__()
        self.value = value
        self.fails = fails

    def forward(self, x):
        if self.fails:
            raise RuntimeError("out of order")
        return torch.full((len(x), 1), self.value)


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(tmp_path, clock=ManualClock())


@pytest.fixture
def deployment(registry):
    """Versions a, b and c that answer 1, 2 and 3; a has all the traffic."""
    made = Deployment(registry, "ppo", seed=0)
    for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True):
        made.add_version(name, Constant(value))
    made.set_shares({"a": 1.0}, stable="a")
    return made


def versions_of(deployment, n=2000):
    return {user: deployment.predict(X, user_id=f"u{user}").version_id for user in range(n)}


# Versions


def test_a_stored_version_is_loaded_tried_and_served(registry):
    version_id = registry.save_model(nn.Linear(3, 1), "ppo", example_input=torch.ones(2, 3))
    deployment = Deployment(registry, "ppo")
    deployment.serve(version_id)
    answer = deployment.predict(X)
    torch.testing.assert_close(answer.output, registry.load_model(version_id)(X).detach())
    assert (answer.version_id, answer.routed_to, answer.error) == (version_id, version_id, None)
    assert deployment.shares() == {version_id: 1.0}


def test_before_anything_serves_predicting_says_so(registry):
    with pytest.raises(NotReadyError, match="call serve"):
        Deployment(registry, "ppo").predict(X)


def test_an_unknown_version_is_an_error_and_changes_nothing(deployment):
    with pytest.raises(VersionNotFoundError):
        deployment.serve("ppo_v20240101_000000")
    assert deployment.shares() == {"a": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_version_that_does_not_answer_its_own_example_is_not_added(registry, deployment, value):
    model = nn.Linear(3, 1)
    version_id = registry.save_model(model, "ppo", example_input=torch.ones(2, 3))
    broken = Constant(0.0, fails=True) if value is None else Constant(value)
    with pytest.raises(InputError):
        deployment.add_version(version_id, broken)
    assert version_id not in deployment.versions()


@pytest.mark.parametrize(
    ("tuning", "told"),
    [({"format": 2, "x": 1}, "format 2"), ({"format": 1}, "lacks"), ([1], "is a dict, got list")],
)
def test_a_stored_tuning_that_cannot_be_read_is_measured_anew(registry, caplog, tuning, told):
    version_id = registry.save_model(nn.Linear(3, 1), "ppo", example_input=X)
    registry.attach(version_id, "tuning", tuning)
    deployment = Deployment(registry, "ppo", optimize=True)
    deployment.serve(version_id)
    assert deployment.predict(X).version_id == version_id
    [record] = [r for r in caplog.records if r.levelname == "WARNING"]
    assert told in record.message
    assert f"The tuning stored with {version_id} cannot be used" in record.message


def test_a_version_of_another_model_is_refused(registry, deployment):
    other = registry.save_model(nn.Linear(3, 1), "dqn", example_input=torch.ones(2, 3))
    with pytest.raises(ConfigError, match="is a version of 'dqn'; this deployment serves 'ppo'"):
        deployment.serve(other)
    with pytest.raises(ConfigError, match="is a version of 'dqn'"):
        deployment.add_version(other, Constant(1.0))
    assert deployment.shares() == {"a": 1.0}


def test_only_what_is_loaded_can_have_traffic(deployment):
    with pytest.raises(ConfigError, match=r"'d' is not loaded: call add_version\(\) first"):
        deployment.set_shares({"d": 1.0}, stable="d")
    with pytest.raises(ConfigError, match="Loaded are: a, b, c"):
        deployment.health("d")


def test_a_version_with_traffic_or_behind_the_others_cannot_be_retired(deployment):
    deployment.set_shares({"b": 1.0}, stable="a")
    for version_id in "ab":
        with pytest.raises(ConfigError, match="still has traffic or is stable"):
            deployment.retire(version_id)
    deployment.retire("c")
    deployment.retire("c")
    assert deployment.versions() == ["a", "b"]


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"a": 0.0},
        {"a": 0.5},
        {"a": 0.7, "b": 0.7},
        {"a": -1.0, "b": 2.0},
        {"a": float("nan")},
    ],
)
def test_shares_that_do_not_add_up_are_refused(deployment, shares):
    with pytest.raises(ConfigError):
        deployment.set_shares(shares, stable="a")
    assert deployment.shares() == {"a": 1.0}


# Routing


def test_users_are_split_by_share_and_stay_where_they_are(deployment):
    deployment.set_shares({"a": 0.7, "b": 0.3}, stable="a")
    first = versions_of(deployment)
    assert Counter(first.values())["b"] == pytest.approx(600, abs=80)
    assert versions_of(deployment) == first


@pytest.mark.slow
def test_moving_shares_moves_only_who_must(deployment):
    deployment.set_shares({"a": 0.9, "b": 0.1}, stable="a")
    before = versions_of(deployment)
    deployment.set_shares({"a": 0.5, "b": 0.5}, stable="a")
    after = versions_of(deployment)
    assert not [user for user in before if (before[user], after[user]) == ("b", "a")]
    moved = sum(before[user] != after[user] for user in before)
    assert moved == pytest.approx(0.4 * len(before), abs=100)


def test_requests_without_a_user_go_anywhere_by_share_and_the_seed_repeats(registry):
    def counted(seed):
        deployment = Deployment(registry, "ppo", seed=seed)
        deployment.add_version("a", Constant(1.0))
        deployment.add_version("b", Constant(2.0))
        deployment.set_shares({"a": 0.5, "b": 0.5}, stable="a")
        return [deployment.predict(X).version_id for _ in range(400)]

    assert counted(1) == counted(1) != counted(2)
    assert Counter(counted(1))["a"] == pytest.approx(200, abs=50)


def test_arrays_are_answered_with_arrays(deployment):
    answer = deployment.predict(np.ones((2, 3), dtype=np.float32))
    assert isinstance(answer.output, np.ndarray)
    assert answer.output.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("kind", [torch.Tensor, np.ndarray])
def test_features_are_recorded_of_tensors_and_of_arrays(deployment, kind):
    monitor = deployment.monitor("a")
    x = torch.ones(1, 3) if kind is torch.Tensor else np.ones((1, 3), dtype=np.float32)
    for _ in range(200):
        deployment.predict(x)
    monitor.set_baseline()
    for _ in range(200):
        deployment.predict(x * 5)
    assert monitor.detect_feature_drift()["drift_score"] > 1.0


# Failures


@pytest.fixture(params=["fails", "nan", "inf"])
def bad(request):
    if request.param == "fails":
        return Constant(1.0, fails=True)
    return Constant(float(request.param))


def test_what_a_candidate_fails_to_answer_stable_answers(deployment, bad):
    deployment.add_version("bad", bad)
    deployment.set_shares({"a": 0.5, "bad": 0.5}, stable="a")
    answers = [deployment.predict(X, user_id=str(i)) for i in range(200)]
    assert {answer.version_id for answer in answers} == {"a"}
    assert {float(answer.output) for answer in answers} == {1.0}
    rescued = [answer for answer in answers if answer.routed_to == "bad"]
    assert all(answer.error for answer in rescued)
    health = deployment.health("bad")
    assert health.n_errors == health.n_predictions == len(rescued)
    assert deployment.health("a").n_errors == 0
    assert deployment.n_answers("a") == 200


def test_where_nobody_answers_the_fallback_does(deployment, bad):
    deployment.add_version("bad", bad)
    deployment.set_shares({"bad": 1.0}, stable="bad")
    answer = deployment.predict(X, fallback=None, request_id="r")
    assert (answer.output, answer.version_id, answer.routed_to) == (None, None, "bad")
    assert answer.error
    deployment.record_outcome("r", {"pnl": 1.0})  # judges nobody
    assert deployment.health("bad").metrics == {}
    with pytest.raises(InputError):
        deployment.predict(X)
    assert deployment.n_answers("bad") == 2


def test_an_input_that_no_version_takes_is_the_callers_error(deployment):
    with pytest.raises(ModelyardError):
        deployment.predict(object())


def test_an_input_that_stable_refuses_too_counts_against_neither(deployment):
    deployment.set_shares({"b": 1.0}, stable="a")
    for _ in range(5):
        with pytest.raises(InputError):
            deployment.predict(object())
    assert deployment.predict(object(), fallback=None).error
    assert deployment.n_answers("a") == deployment.n_answers("b") == 0
    deployment.predict(X)
    assert (deployment.n_answers("b"), deployment.health("b").n_errors) == (1, 0)


# Outcomes


def test_an_outcome_judges_the_version_that_answered(deployment):
    deployment.add_version("bad", Constant(1.0, fails=True))
    deployment.set_shares({"b": 0.5, "bad": 0.5}, stable="a")
    for i in range(100):
        deployment.predict(X, user_id=str(i), request_id=f"r{i}")
        deployment.record_outcome(f"r{i}", {"pnl": 1.0})
    n_by_version = {version: deployment.health(version).metrics["pnl"].n for version in ("a", "b")}
    assert sum(n_by_version.values()) == 100
    assert n_by_version["b"] == deployment.n_answers("b")
    assert deployment.health("bad").metrics == {}


def test_a_second_outcome_of_the_same_request_is_ignored(deployment):
    answer = deployment.predict(X)
    for pnl in (1.0, 5.0):
        deployment.record_outcome(answer.request_id, {"pnl": pnl})
    metric = deployment.health("a").metrics["pnl"]
    assert (metric.n, metric.mean) == (1, 1.0)


def test_an_outcome_that_is_no_number_may_be_given_again(deployment):
    answer = deployment.predict(X)
    with pytest.raises(ConfigError, match="'pnl' must be a number"):
        deployment.record_outcome(answer.request_id, {"fee": 1.0, "pnl": "much"})
    deployment.record_outcome(answer.request_id, {"fee": 1.0, "pnl": 2.0})
    assert {name: m.n for name, m in deployment.health("a").metrics.items()} == {
        "fee": 1,
        "pnl": 1,
    }


def test_an_outcome_of_nothing_is_an_error(deployment):
    with pytest.raises(RequestNotFoundError):
        deployment.record_outcome("never asked", {"pnl": 1.0})


def test_an_outcome_that_comes_after_its_version_went_is_ignored(deployment):
    answer = deployment.predict(X)
    deployment.set_shares({"b": 1.0}, stable="b")
    deployment.retire("a")
    deployment.record_outcome(answer.request_id, {"pnl": 1.0})


# Listeners, stores, threads


def test_a_listener_is_told_of_every_request_and_cannot_harm_it(deployment, caplog):
    told = []
    deployment.subscribe(lambda: told.append(1))
    deployment.subscribe(lambda: 1 // 0)
    deployment.predict(X)
    deployment.predict(X, fallback=None)
    assert len(told) == 2
    assert "A listener of the deployment of ppo failed." in caplog.text


def test_each_version_keeps_its_windows_under_its_own_name(registry):
    from modelyard.monitor import ModelMonitor

    long_name = "p" * 119
    version_id = registry.save_model(nn.Linear(3, 1), long_name, example_input=torch.ones(2, 3))
    deployment = Deployment(registry, long_name, window_size=10, store=registry.store)
    deployment.serve(version_id)
    for _ in range(10):
        deployment.predict(X)
    deployment.monitor(version_id).flush()
    assert ModelMonitor(long_name, store=registry.store).get_window_history() == []
    name = deployment.monitor(version_id).model_name
    assert len(ModelMonitor(name, store=registry.store).get_window_history()) == 1
    assert version_id.endswith(name)


@pytest.mark.slow
def test_no_request_fails_while_versions_come_and_go(deployment):
    errors, n_answers, stop = [], Counter(), threading.Event()

    def work(worker):
        i = 0
        while not stop.is_set():
            i += 1
            try:
                answer = deployment.predict(X, user_id=f"{worker}-{i}")
                assert float(answer.output) == {"a": 1.0, "b": 2.0, "c": 3.0}[answer.version_id]
                n_answers[worker] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
                errors.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for turn in range(100):
        new, old = ("b", "c") if turn % 2 else ("c", "b")
        deployment.add_version(new, Constant({"b": 2.0, "c": 3.0}[new]))
        deployment.set_shares({"a": 0.5, new: 0.5}, stable="a")
        deployment.retire(old)
        deployment.set_shares({new: 1.0}, stable="a")
        deployment.set_shares({"a": 1.0}, stable="a")
    stop.set()
    for worker in workers:
        worker.join()
    assert errors == []
    assert len(n_answers) == 4


def test_a_version_brings_its_baseline(registry, caplog):
    version_id = registry.save_model(nn.Linear(3, 1), "ppo", example_input=X)
    watching = ModelMonitor("ppo", background=False)
    with pytest.raises(ConfigError, match="no baseline to save"):
        watching.save_baseline(registry, version_id)
    with pytest.raises(LookupError):
        watching.load_baseline_of(registry, version_id)
    watching.set_baseline(predictions=np.random.default_rng(0).normal(size=(500, 4)))
    watching.save_baseline(registry, version_id)
    deployment = Deployment(registry, "ppo", seed=0)
    deployment.serve(version_id)
    monitor = deployment.monitor(version_id)
    assert monitor.baseline_status == "set"
    assert monitor.baseline_history()[-1]["source"] == "version"
    again = ModelMonitor("ppo", background=False)
    again.load_baseline_of(registry, version_id, actor="ann")
    assert again.baseline_state() == watching.baseline_state()
    registry.attach(version_id, "baseline", {"poem": 1})
    damaged = Deployment(registry, "ppo", seed=0)
    damaged.serve(version_id)
    assert damaged.monitor(version_id).baseline_status == "none"
    assert "cannot be used" in caplog.text


# Side by side


def test_versions_are_also_measured_since_the_shares_last_changed(deployment):
    deployment.set_shares({"a": 0.5, "b": 0.5}, stable="a")
    versions_of(deployment, 100)
    before = [deployment.health_since_split(version).n_predictions for version in "ab"]
    assert sum(before) == 100
    deployment.set_shares({"a": 0.5, "b": 0.5}, stable="a")  # the same once more
    assert deployment.health_since_split("b").n_predictions == before[1]
    deployment.set_shares({"b": 1.0}, stable="a")
    versions_of(deployment, 10)
    assert deployment.health_since_split("b").n_predictions == 10
    assert deployment.health_since_split("a").n_predictions == before[0]  # as it was with a share
    assert deployment.health_since_split("c") is None
    assert deployment.health("a").n_predictions == before[0]


def test_what_stable_answers_for_another_is_no_fair_sample_of_it(deployment):
    deployment.add_version("bad", Constant(1.0, fails=True))
    deployment.set_shares({"a": 0.5, "bad": 0.5}, stable="a")
    n_meant = sum(
        deployment.predict(X, user_id=f"u{user}").routed_to == "a" for user in range(100)
    )
    assert deployment.health("a").n_predictions == 100
    assert deployment.health_since_split("a").n_predictions == n_meant
    assert deployment.health_since_split("bad").n_errors == 100 - n_meant


@pytest.mark.parametrize(
    ("answer", "is_refused"),
    [
        (torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([float("inf"), float("-inf")]), True),
        (np.array([[1.0, np.inf]], np.float32), True),
        (torch.tensor([1.0, float("nan")], dtype=torch.bfloat16), True),
        ({"mean": torch.ones(2), "std": torch.tensor([float("nan")])}, True),
        (torch.full((4,), 3e38), False),  # the sum of the squares overflows
        (torch.ones(2, requires_grad=True), False),
        (torch.tensor([1, 2]), False),
        (np.ones((2, 3)), False),
        ((torch.ones(1), torch.zeros(0)), False),
    ],
)
def test_nan_and_infinity_are_found_in_any_answer(answer, is_refused):
    if is_refused:
        with pytest.raises(InputError, match="v1 answered with NaN or infinity"):
            refuse_non_finite(answer, "v1")
    else:
        refuse_non_finite(answer, "v1")


class Tells(nn.Module):
    """Answers in a form of its own."""

    def __init__(self, form):
        super().__init__()
        self.form, self.layer = form, nn.Linear(4, 2)

    def forward(self, x):
        return FORMS[self.form](self.layer(x))


@dataclasses.dataclass
class Told:
    mean: torch.Tensor
    deviation: torch.Tensor


FORMS = {
    "nested": lambda y: (y, (y.sum(-1), y.exp())),
    "deep": lambda y: {"policy": (y, y.exp()), "aux": {"value": y.sum(-1)}, "name": "ppo"},
    "dataclass": lambda y: Told(y, y.exp()),
    "normal": lambda y: torch.distributions.Normal(y, y.exp(), validate_args=False),
    "categorical": lambda y: torch.distributions.Categorical(logits=y, validate_args=False),
    "complex": lambda y: torch.complex(y, y),
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_of_any_form_are_served_copied_and_looked_at(tmp_path, form):
    registry = ModelVersionManager(tmp_path)
    model, other = (Tells(form).eval() for _ in range(2))
    ids = [
        registry.save_model(m, "policy", example_input=torch.ones(2, 4)) for m in (model, other)
    ]
    deployment = Deployment(registry, "policy")
    deployment.serve(ids[0])
    deployment.add_version(ids[1])
    deployment.set_shadow(ids[1])
    x = torch.randn(1, 4)
    assert type(deployment.predict(x, user_id="a").output) is type(model(x))
    deployment._routing.shadow.drain()
    found = deployment.shadow_comparison()
    assert (found["n_compared"], found["n_failed"]) == (1, 0)
    assert found["mean_difference"] > 0.01
    with pytest.raises(InputError, match="NaN or infinity"):
        deployment.predict(torch.full((1, 4), torch.inf), user_id="a")
