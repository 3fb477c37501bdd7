"""`modelyard rollout`: commands that reach the process which serves."""

import pytest
import torch

from modelyard._core.clock import ManualClock
from modelyard.deployment import Deployment
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def server(registry, ids, clock):
    """What a process that serves ppo holds, on a connection of its own."""
    deployment = Deployment(registry, "ppo", clock=clock, seed=0)
    strategy = UpdateStrategy(
        registry, ModelMonitor("ppo", clock=clock), deployment=deployment, clock=clock
    )
    return deployment, strategy


def ask(deployment, clock):
    """One request, two seconds after the last."""
    clock.advance(2.0)
    return deployment.predict(torch.ones(1, 4), user_id="someone")


def test_start_names_the_shares_and_status_repeats_them(run, run_json, ids):
    shown = run("rollout", "start", "ppo", ids[1]).stdout
    assert f"{ids[0]} 90%, {ids[1]} 10%" in shown
    assert "it waits for the process that serves the model" in shown
    state = run_json("rollout", "status", "ppo")
    assert state["shares"] == {ids[0]: 0.9, ids[1]: 0.1}
    assert (state["status"], state["step"], state["n_steps"]) == ("running", 1, 3)


def test_looking_never_moves_anything(run, run_json, ids):
    run("rollout", "start", "ppo", ids[1])
    first = run_json("rollout", "history", "ppo")
    for _ in range(3):
        run("rollout", "status", "ppo")
        assert run_json("rollout", "history", "ppo") == first


def test_a_rollout_begun_here_is_served_there(run, run_json, ids, server, clock):
    deployment, _ = server
    assert deployment.shares() == {ids[0]: 1.0}
    run("rollout", "start", "ppo", ids[1])
    ask(deployment, clock)
    assert deployment.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    assert run_json("rollout", "status", "ppo")["applied_to"] == ["deployment"]


def test_pause_resume_abort_reach_the_server(run, run_json, ids, server, clock):
    deployment, strategy = server
    strategy.update_model(ids[1])
    assert run_json("rollout", "pause", "ppo", "--reason", "lunch")["status"] == "paused"
    ask(deployment, clock)
    assert strategy.get_rollout()["reason"] == "lunch"
    assert run_json("rollout", "resume", "ppo")["status"] == "running"
    assert run_json("rollout", "abort", "ppo")["status"] == "aborted"
    ask(deployment, clock)
    assert deployment.shares() == {ids[0]: 1.0}
    assert deployment.versions() == [ids[0]]
    assert strategy.get_rollout() is None


def test_a_rollback_moves_the_servers_traffic_and_keeps_the_alert(
    run, ids, server, clock, registry
):
    deployment, strategy = server
    strategy.update_model(ids[1])
    shown = run("rollout", "rollback", "ppo").stdout
    assert shown == f"rolled back from {ids[1]} to {ids[0]}\n"
    ask(deployment, clock)
    assert deployment.shares() == {ids[0]: 1.0}
    [alert] = ModelMonitor("ppo", store=registry.store).get_alerts("critical")
    assert "asked for on the command line" in alert["message"]


def test_a_direct_start_is_followed_and_can_be_rolled_back(run, run_json, ids, server, clock):
    deployment, _ = server
    assert run_json("rollout", "start", "ppo", ids[2], "--direct")["status"] == "promoted"
    ask(deployment, clock)
    assert deployment.shares() == {ids[2]: 1.0}
    result = run_json("rollout", "rollback", "ppo", "--reason", "slow")
    assert (result["to_version_id"], result["reason"]) == (ids[0], "slow")
    ask(deployment, clock)
    assert deployment.shares() == {ids[0]: 1.0}


def test_the_steps_may_come_from_a_configuration_file(run_json, ids, tmp_path):
    (tmp_path / "c.yaml").write_text("update_strategy: {steps: [25, 100]}")
    state = run_json("rollout", "start", "ppo", ids[1], "--config", "c.yaml")
    assert state["shares"] == {ids[0]: 0.75, ids[1]: 0.25}


def test_superseding_ends_the_other(run, run_json, ids):
    run("rollout", "start", "ppo", ids[1])
    assert "--supersede" not in run("rollout", "start", "ppo", ids[2], exit_code=1).stdout
    run("rollout", "start", "ppo", ids[2], "--supersede")
    statuses = [r["status"] for r in run_json("rollout", "history", "ppo")]
    assert statuses == ["running", "aborted"]


def test_history_shows_each_step_with_its_actor(run, run_json, ids):
    run("rollout", "start", "ppo", ids[1])
    run("rollout", "abort", "ppo")
    shown = run("rollout", "history", "ppo").stdout
    [record] = run_json("rollout", "history", "ppo", "--limit", 1)
    assert [event["action"] for event in record["events"]] == ["start", "abort"]
    assert record["rollout_id"] in shown
    assert "(cli)" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "ppo"], "'ppo' has had no rollout."),
        (["pause", "ppo"], "No rollout of 'ppo' is running."),
        (["resume", "ppo"], "No rollout of 'ppo' is paused."),
        (["abort", "ppo"], "No rollout of 'ppo' is unfinished."),
        (["rollback", "ppo"], "no earlier production version"),
        (["start", "ppo", "ppo_v1"], "No version 'ppo_v1'"),
        (["start", "ppo", "ppo_v1", "--config", "none.yaml"], "'none.yaml' cannot be read"),
        (["status", "ppo", "--base-dir", "elsewhere"], "There is no registry in 'elsewhere'"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(run, ids, arguments, said):
    result = run("rollout", *arguments, exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_version_of_another_model_is_refused(run, ids, registry):
    other = registry.save_model(torch.nn.Linear(2, 2), "dqn")
    assert "is a version of 'dqn'" in run("rollout", "start", "ppo", other, exit_code=1).stderr


def served(registry, clock, **config):
    deployment = Deployment(registry, "ppo", clock=clock, seed=0)
    rules = {"transition_minutes": 1.5, "step_min_samples": 20, "error_margin": 0.9, **config}
    monitor = ModelMonitor("ppo", clock=clock)
    return deployment, UpdateStrategy(registry, monitor, rules, deployment=deployment, clock=clock)


def send(deployment, clock, n, until):
    for i in range(n):
        clock.advance(1.0)
        deployment.predict(torch.ones(1, 4), user_id=f"user-{i}")
        if until():
            return


@pytest.mark.slow
def test_a_rollout_that_waits_is_approved_watched_and_promoted_by_hand(
    run, run_json, ids, registry, clock
):
    deployment, strategy = served(registry, clock, approval_steps=[50])
    strategy.update_model(ids[1])
    send(deployment, clock, 2000, lambda: strategy.get_rollout()["status"] == "waiting")
    assert run_json("rollout", "status", "ppo")["seen"]["candidate"]["n"] >= 20
    assert "waits for approve()" in run("rollout", "status", "ppo").stdout
    run("rollout", "approve", "ppo", "--reason", "looked at")
    assert run("rollout", "approve", "ppo", exit_code=1).stderr.startswith("No rollout")
    send(deployment, clock, 5, lambda: False)
    assert deployment.shares()[ids[1]] == 0.5
    assert run_json("rollout", "promote", "ppo")["status"] == "promoting"
    send(deployment, clock, 5, lambda: False)
    assert run_json("rollout", "status", "ppo")["status"] == "baking"
    assert run_json("rollout", "promote", "ppo")["status"] == "promoted"  # ends the watch
    watched = run("rollout", "status", "ppo", "--watch").stdout  # over: it returns at once
    assert "promoted" in watched
    told = run("rollout", "explain", "ppo").stdout
    assert "approved the next step" in told
    assert "looked at" in told


def test_a_halt_reaches_the_server_and_a_release_too(run, ids, registry, clock):
    deployment, strategy = served(registry, clock)
    strategy.update_model(ids[1])
    run("rollout", "halt", "ppo", "--reason", "outage")
    send(deployment, clock, 5, lambda: False)
    answers = [deployment.predict(torch.ones(1, 4), user_id=f"u{i}") for i in range(100)]
    assert {answer.version_id for answer in answers} == {ids[0]}
    refused = run("rollout", "start", "ppo", ids[2], "--supersede", exit_code=1).stderr
    assert "outage" in refused
    run("rollout", "release", "ppo")
    run("rollout", "resume", "ppo")
    send(deployment, clock, 5, lambda: False)
    answers = [deployment.predict(torch.ones(1, 4), user_id=f"u{i}") for i in range(200)]
    assert {answer.version_id for answer in answers} == set(ids[:2])


@pytest.mark.slow
def test_the_page_shows_every_rollout_with_its_reasons(run, ids, registry, clock, tmp_path):
    deployment, strategy = served(registry, clock)
    strategy.update_model(ids[1])
    send(deployment, clock, 3000, lambda: strategy.get_rollout() is None)
    page = tmp_path / "rollouts.html"
    assert str(page) in run("rollout", "report", "ppo", "--out", page).stdout
    text = page.read_text()
    assert "made the candidate production and watches it" in text
    assert "worse by" in text
    run("rollout", "report", "nobody", exit_code=1)


@pytest.mark.slow
def test_a_reason_in_brackets_is_shown_as_it_is(run, ids):
    run("rollout", "start", "ppo", ids[1])
    run("rollout", "pause", "ppo", "--reason", "see [/wiki/x] [bold]")
    assert "see [/wiki/x] [bold]" in run("rollout", "status", "ppo").stdout


def test_the_status_outlives_the_candidate(run, run_json, ids, registry):
    run("rollout", "start", "ppo", ids[1])
    run("rollout", "abort", "ppo")
    registry.remove_version(ids[1])
    assert run_json("rollout", "status", "ppo")["status"] == "aborted"
    assert ids[1] in run("rollout", "status", "ppo").stdout


@pytest.mark.parametrize("command", ["halt", "release", "status", "history", "rollback"])
def test_a_model_that_nobody_knows_is_an_error(run, ids, command):
    shown = run("rollout", command, "pppo", exit_code=1).stderr
    assert shown == "There is no model 'pppo' in this registry. There are: ppo.\n"


def test_a_halt_is_shown_with_who_really_answers(run, run_json, ids):
    run("rollout", "halt", "ppo", "--reason", "outage [1]")
    shown = run("rollout", "status", "ppo").stdout  # before any rollout
    assert "All updates of ppo are stopped by" in shown
    assert "outage [1]" in shown
    run("rollout", "release", "ppo", "--reason", "mended")
    refused = run("rollout", "release", "ppo", exit_code=1).stderr
    assert "Updates of 'ppo' were not stopped." in refused
    run("rollout", "start", "ppo", ids[1])
    run("rollout", "halt", "ppo")
    board = run("rollout", "status", "ppo").stdout
    assert "The stable version answers everything." in board
    assert "100%" in board
    assert "90%" not in board
    state = run_json("rollout", "status", "ppo")
    assert state["halt"]["reason"] == "asked for on the command line"
    assert state["shares"] == {ids[0]: 1.0}
    refused = run("rollout", "resume", "ppo", exit_code=1).stderr
    assert "has stopped all updates" in refused
    run("rollout", "release", "ppo")
    assert run_json("rollout", "status", "ppo")["shares"] == {ids[0]: 1.0}


def test_small_shares_are_shown_with_their_digits(run, ids, tmp_path):
    (tmp_path / "c.yaml").write_text("update_strategy: {steps: [0.4, 100]}")
    shown = run("rollout", "start", "ppo", ids[1], "--config", "c.yaml").stdout
    assert f"{ids[0]} 99.6%, {ids[1]} 0.4%" in shown
    assert "0.4%" in run("rollout", "status", "ppo").stdout
    assert "0.4%" in run("rollout", "history", "ppo").stdout


def test_another_form_of_answers_is_refused_unless_asked_for(run, run_json, registry, ids):
    other = registry.save_model(torch.nn.Linear(4, 3), "ppo", example_input=torch.ones(2, 4))
    refused = run("rollout", "start", "ppo", other, exit_code=1)
    assert "answers in another form" in refused.stderr
    state = run_json("rollout", "start", "ppo", other, "--allow-other-outputs")
    assert state["status"] == "running"
