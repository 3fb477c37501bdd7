"""Versions that hang, copies of requests, limits of memory."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from modelyard._core.errors import CapacityError, ConfigError, DeadlineExceededError
from modelyard.deployment import Deployment
from modelyard.version_manager import ModelVersionManager

X = torch.ones(1, 4)


class Hanging(nn.Module):
    """Waits until it is let go."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)
        self.let_go = threading.Event()
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        self.let_go.wait(timeout=60.0)
        return self.inner(x)


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(str(tmp_path))


def deploy(registry, candidate, **options):
    deployment = Deployment(registry, "ppo", seed=0, **options)
    deployment.add_version("stable", nn.Linear(4, 2))
    deployment.add_version("candidate", candidate)
    deployment.set_shares({"candidate": 1.0}, stable="stable")
    return deployment


def test_one_that_hangs_is_answered_by_stable_and_after_four_asked_no_more(registry):
    hanging = Hanging()
    deployment = deploy(registry, hanging, timeout_s=0.05)
    answers = [deployment.predict(X) for _ in range(8)]
    assert {answer.version_id for answer in answers} == {"stable"}
    assert "did not answer within 0.05 s" in answers[0].error
    assert "is not asked" in answers[-1].error
    assert 1 <= hanging.n_calls <= 4
    assert deployment.health("candidate").n_errors == 8
    hanging.let_go.set()
    for _ in range(200):
        if deployment.predict(X).version_id == "candidate":
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail("it never came back")


def test_a_stable_version_that_hangs_is_the_callers_to_know(registry):
    hanging = Hanging()
    deployment = Deployment(registry, "ppo", timeout_s=0.05)
    deployment.add_version("stable", hanging)
    deployment.set_shares({"stable": 1.0}, stable="stable")
    with pytest.raises(DeadlineExceededError):
        deployment.predict(X)
    assert deployment.predict(X, fallback="none").output == "none"
    hanging.let_go.set()


@pytest.mark.slow
@pytest.mark.parametrize("hangs", ["time.sleep(3600)", "while True: x = x.exp().log()"])
def test_a_thread_that_hangs_does_not_keep_or_abort_the_process(tmp_path, hangs):
    code = (
        "import time, torch\n"
        "from torch import nn\n"
        "from modelyard import Deployment, ModelVersionManager\n"
        "class Slow(nn.Module):\n"
        "    def forward(self, x):\n"
        f"        {hangs}\n"
        f"d = Deployment(ModelVersionManager({str(tmp_path)!r}), 'ppo', timeout_s=0.05)\n"
        "d.add_version('v', Slow()); d.set_shares({'v': 1.0}, stable='v')\n"
        "print(d.predict(torch.ones(1, 4), fallback=7).output)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"memory_limit_mb": -1.0}])
def test_a_limit_of_nothing_is_refused(registry, options):
    with pytest.raises(ConfigError, match="above 0"):
        Deployment(registry, "ppo", **options)


def shadowed(registry, module):
    deployment = Deployment(registry, "ppo", seed=0)
    stable = nn.Linear(4, 2)
    deployment.add_version("stable", stable)
    deployment.add_version("shadow", module or stable)
    deployment.set_shares({"stable": 1.0}, stable="stable")
    deployment.set_shadow("shadow")
    return deployment


class Times(nn.Module):
    """The inner answer, so many times as large."""

    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


def test_answers_to_copies_are_compared_and_nobody_gets_them(registry):
    deployment = shadowed(registry, None)
    stable = deployment._routing.served["stable"].optimizer.model
    deployment.set_shadow(None)
    deployment.retire("shadow")
    deployment.add_version("shadow", Times(stable, 1.5))
    deployment.set_shadow("shadow")
    answers = [deployment.predict(torch.full((1, 4), float(i))) for i in range(20)]
    deployment._routing.shadow.drain()
    assert {answer.version_id for answer in answers} == {"stable"}
    found = deployment.shadow_comparison()
    assert (found["n_compared"], found["n_failed"], found["same_share"]) == (20, 0, 0.0)
    assert found["mean_difference"] == pytest.approx(0.5, rel=1e-4)
    assert deployment.shadow_health("shadow").n_predictions == 20
    assert deployment.n_answers("shadow") == 0  # its own monitor sees real requests only
    assert deployment.shadow_health("stable") is None


def test_copies_are_dropped_where_more_come_than_it_answers_and_failures_counted(registry):
    hanging = Hanging()
    deployment = shadowed(registry, hanging)
    for _ in range(100):
        deployment.predict(X)
    assert deployment.shadow_comparison()["n_dropped"] >= 100 - 65
    hanging.let_go.set()
    deployment._routing.shadow.drain()
    assert deployment.shadow_comparison()["n_compared"] >= 64


def test_what_the_caller_does_to_an_input_later_changes_no_copy(registry):
    hanging = Hanging()
    deployment = shadowed(registry, hanging)
    x = torch.ones(1, 4)
    deployment.predict(x)
    x.fill_(float("nan"))
    hanging.let_go.set()
    deployment._routing.shadow.drain()
    assert deployment.shadow_comparison()["n_failed"] == 0


def test_a_version_over_the_limit_of_memory_is_not_added(registry):
    deployment = Deployment(registry, "ppo", memory_limit_mb=0.001)
    deployment.add_version("small", nn.Linear(10, 10))
    assert deployment.memory_mb() == pytest.approx(440e-6)
    with pytest.raises(CapacityError, match=r"memory_limit_mb=0\.001.*small"):
        deployment.add_version("large", nn.Linear(10, 100))
    assert deployment.versions() == ["small"]


def test_held_on_stable_nobody_else_answers(registry):
    deployment = deploy(registry, nn.Linear(4, 2))
    deployment.set_stable_only()
    assert {deployment.predict(X, user_id=str(i)).version_id for i in range(50)} == {"stable"}
    deployment.set_stable_only(is_on=False)
    assert deployment.predict(X).version_id == "candidate"


@pytest.mark.slow
def test_a_thousand_changes_of_shares_under_load_fail_no_request(registry):
    deployment = deploy(registry, nn.Linear(4, 2))
    stop, failures, n_answers = threading.Event(), [], []

    def ask(k):
        n = 0
        while not stop.is_set():
            try:
                answer = deployment.predict(X, user_id=f"{k}-{n}")
                if answer.error is not None:
                    failures.append(answer.error)
            except Exception as error:  # noqa: BLE001 - told by the assertion
                failures.append(error)
            n += 1
        n_answers.append(n)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for i in range(1000):
        if i % 10 == 0:
            # Answers go on between the changes, also where a change is quicker than an answer.
            threading.Event().wait(0.001)
        share = (i % 10) / 10
        shares = {"stable": 1.0 - share, "candidate": share}
        deployment.set_shares(shares, stable="stable")
        if i % 100 == 99:
            deployment.set_shares({"stable": 1.0}, stable="stable")
            deployment.retire("candidate")
            deployment.add_version("candidate", nn.Linear(4, 2))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(n_answers) > 100
