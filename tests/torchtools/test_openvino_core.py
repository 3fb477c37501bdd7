"""Signals are handled, whatever order graphs in OpenVINO come and go in."""

import os
import subprocess
import sys
import threading

import pytest

from modelyard.torchtools.openvino_core import openvino_core

# In a process of its own: where it fails, the process ends with SIGSEGV.
SCRIPT = """
import gc, os, signal, sys, threading
import torch
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.graph_sessions import openvino_model

graph = to_runnable(torch.nn.Linear(2, 2), torch.zeros(1, 2)).data
models = [openvino_model(graph, threads=1) for _ in range(3)]
if sys.argv[1] == "in order":
    models.reverse()
def let_go():
    while models:
        del models[0]
        gc.collect()
if sys.argv[1] == "in a thread":
    thread = threading.Thread(target=let_go)
    thread.start()
    thread.join()
else:
    let_go()
taken = [bytearray(70_000) for _ in range(2_000)]  # what was freed is somebody else's
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["in order", "first come first gone", "in a thread"])
def test_a_signal_is_handled_after_graphs_have_gone(order):
    command = [sys.executable, "-c", SCRIPT, order]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["handled", "goes on"]


def test_all_threads_have_one_core():
    found = []
    threads = [threading.Thread(target=lambda: found.append(openvino_core())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(core) for core in found}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_has_a_core_of_its_own():
    core = openvino_core()
    child = os.fork()
    if child == 0:
        os._exit(int(openvino_core() is core))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert openvino_core() is core
