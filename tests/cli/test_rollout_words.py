"""What `modelyard rollout` says where there is nothing to do."""


def test_pausing_what_is_paused_says_so(run, ids):
    run("rollout", "start", "ppo", ids[1])
    run("rollout", "pause", "ppo", "--reason", "lunch")
    refused = run("rollout", "pause", "ppo", exit_code=1).stderr
    assert refused == "The rollout of 'ppo' is paused already: lunch.\n"
    run("rollout", "abort", "ppo")
    refused = run("rollout", "pause", "ppo", exit_code=1).stderr
    assert refused == "No rollout of 'ppo' is running.\n"


def test_nowhere_to_go_back_to_is_said_once(run, ids, caplog):
    refused = run("rollout", "rollback", "ppo", exit_code=1).stderr
    assert refused.count("no earlier production version") == 1
    assert caplog.records == []  # what is logged would be printed beside it
