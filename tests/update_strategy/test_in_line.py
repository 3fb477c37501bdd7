"""A strategy serves production from its first moment on, whatever its deployment served before."""

import pytest

X = [[1.0, 1.0, 1.0, 1.0]]


def test_a_deployment_that_serves_another_version_is_brought_in_line(yard, ids):
    deployment = yard.deploy()
    deployment.serve(ids[1])
    yard.strategy(deployment)
    assert deployment.shares() == {ids[0]: 1.0}
    assert deployment.versions() == [ids[0]]


@pytest.mark.parametrize("windows", [[], ["sun 00:00-00:01"]])
def test_in_a_rollout_it_serves_what_that_says(yard, ids, windows):
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, update_windows=windows)
    strategy.update_model(ids[1])
    strategy.close()
    again = yard.strategy(deployment, update_windows=windows)
    part = 0.1 if not windows else 0.0
    assert deployment.shares().get(ids[1], 0.0) == part
    assert again.get_rollout()["status"] == ("pending" if windows else "running")


def test_where_production_cannot_be_served_what_serves_goes_on(yard, ids):
    deployment = yard.deploy()
    deployment.serve(ids[1])
    yard.damage(ids[0])
    yard.strategy(deployment)
    assert deployment.shares() == {ids[1]: 1.0}
    [alert] = yard.monitor.get_alerts()
    assert "cannot be served" in alert["message"]
