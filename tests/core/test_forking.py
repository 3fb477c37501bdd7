"""Who asked for it is told in the child of a fork, as long as it lives."""

import gc
import os
import threading

import pytest

from modelyard._core.forking import RenewedLock, call_after_fork
from modelyard.compression.training import seeding
from modelyard.torchtools import silence

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


class Owner:
    def __init__(self):
        self.n_renewed = 0
        call_after_fork(self.renew)

    def renew(self):
        self.n_renewed += 1


def in_child(holds):
    child = os.fork()
    if child == 0:
        os._exit(0 if holds() else 1)
    return os.waitpid(child, 0)[1] == 0


def test_each_is_renewed_once_in_a_child_and_not_in_the_parent():
    owners = [Owner(), Owner()]
    assert in_child(lambda: [owner.n_renewed for owner in owners] == [1, 1])
    assert in_child(lambda: in_child(lambda: owners[0].n_renewed == 2))
    assert [owner.n_renewed for owner in owners] == [0, 0]


def test_nobody_is_kept_alive():
    renewed = []

    class Counting(Owner):
        def renew(self):
            renewed.append(self)

    owner = Counting()
    del owner
    gc.collect()
    assert in_child(lambda: not renewed)


@pytest.mark.parametrize(
    "renewed",
    [
        RenewedLock(),
        RenewedLock(threading.RLock),
        silence.settings,
        seeding._states,
    ],
    ids=["lock", "taken again", "settings", "random states"],
)
def test_a_lock_that_another_thread_holds_is_free_in_a_child(renewed):
    is_held, may_end = threading.Event(), threading.Event()

    def hold():
        with renewed.lock:
            is_held.set()
            may_end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    try:
        assert in_child(lambda: renewed.lock.acquire(timeout=5))
    finally:
        may_end.set()
        holder.join()
