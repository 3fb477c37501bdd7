"""What a halt has taken a candidate off stays so until somebody lets it go on."""

import pytest

from modelyard._core.errors import ConflictError
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy


@pytest.fixture
def deployment(yard, ids):
    return yard.deploy()


@pytest.mark.parametrize("is_paused_before", [False, True])
def test_a_release_gives_the_candidate_nothing_back_until_it_is_resumed(
    yard, ids, deployment, ask, is_paused_before
):
    strategy = yard.strategy(deployment, steps=[50, 100])
    strategy.update_model(ids[1])
    if is_paused_before:
        strategy.pause()
    state = strategy.halt(reason="outage")
    assert (state["status"], state["shares"]) == ("paused", {ids[0]: 1.0})
    assert strategy.release()
    answers = ask(deployment, 40)
    assert {answer.version_id for answer in answers} == {ids[0]}
    assert strategy.get_rollout()["status"] == "paused"
    assert strategy.resume()["shares"] == {ids[0]: 0.5, ids[1]: 0.5}
    answers = ask(deployment, 40, first_user=40)
    assert {answer.version_id for answer in answers} == {ids[0], ids[1]}
    # A pause that is no halt leaves the shares as they are.
    assert strategy.pause()["shares"] == {ids[0]: 0.5, ids[1]: 0.5}


def test_a_baking_candidate_is_taken_off_too_and_comes_back(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, bake_minutes=60.0)
    strategy.update_model(ids[1], smooth_transition=False)
    strategy.halt(reason="outage")
    strategy.release()
    assert {answer.version_id for answer in ask(deployment, 5)} == {ids[0]}
    assert strategy.resume()["status"] == "baking"
    assert {answer.version_id for answer in ask(deployment, 5)} == {ids[1]}


def test_a_resume_during_a_halt_is_refused_in_words(yard, ids, deployment):
    strategy = yard.strategy(deployment)
    strategy.update_model(ids[1])
    strategy.halt(reason="outage", actor="ana")
    with pytest.raises(ConflictError, match=r"ana has stopped all updates.*outage"):
        strategy.resume()
    assert strategy.get_rollout()["status"] == "paused"


def test_it_holds_in_every_process_and_after_a_restart(yard, ids, deployment, ask):
    ours = yard.strategy(deployment, steps=[50, 100])
    theirs = UpdateStrategy(
        yard.registry, ModelMonitor("ppo", clock=yard.clock), is_remote=True, clock=yard.clock
    )
    ours.update_model(ids[1])
    theirs.halt(reason="outage")
    theirs.release()
    ask(deployment, 10)
    assert deployment.shares() == {ids[0]: 1.0}
    later = yard.again()
    restarted = later.deploy()
    later.strategy(restarted, steps=[50, 100])
    assert restarted.shares() == {ids[0]: 1.0}


def test_what_is_promoted_after_a_halt_has_its_shares(yard, ids, deployment):
    strategy = yard.strategy(deployment)
    strategy.update_model(ids[1])
    strategy.halt(reason="outage")
    strategy.release()
    assert strategy.promote()["shares"] == {ids[1]: 1.0}
    assert deployment.shares() == {ids[1]: 1.0}
