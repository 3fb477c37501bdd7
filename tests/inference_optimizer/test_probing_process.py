"""The other process: crashes, hangs, noise, threads, forks."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from modelyard.inference_optimizer.backends import written
from modelyard.inference_optimizer.tuning import probing
from modelyard.inference_optimizer.tuning.probing import ProbeFiles, Prober

ORT = {"graph_level": "all", "threads": 1}

# Answers to a request as the argument says; as the real one, it reads lines and writes lines.
FAKE = """
import json, os, signal, sys, time
for line in sys.stdin:
    request = json.loads(line)
    KIND
"""
KINDS = {
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "out of memory": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "print('no such library', file=sys.stderr); sys.exit(3)",
    "idle end": "sys.exit(0)",
    "hang": "time.sleep(600)",
    "garbage": """
    print("warning: {", flush=True); print("[1, 2]"); print('{"id": -1, "error": "old"}')
    print(json.dumps({"id": request["id"], "error": "mine"}), flush=True)
""",
}


@pytest.fixture
def graph(mlp):
    return written(mlp, torch.zeros(2, 8))


@pytest.fixture
def files(graph):
    samples = [[np.ones((n, 8), np.float32)] for n in (1, 3)]
    with ProbeFiles(graph.data, samples) as made:
        yield made


@pytest.fixture
def new_prober():
    probers = []

    def make(kind=None):
        command = None if kind is None else [sys.executable, "-c", _fake(kind)]
        probers.append(Prober(command))
        return probers[-1]

    yield make
    for prober in probers:
        prober.close()


def _fake(kind):
    return FAKE.replace("KIND", KINDS[kind].strip())


def asked(prober, files, *, engine="onnxruntime", settings=ORT, timeout_s=60.0):
    return prober.probe(files, engine=engine, settings=settings, timeout_s=timeout_s)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_answers_come_back_by_sample_with_times(new_prober, files, mlp, engine):
    if engine == "openvino":
        pytest.importorskip("openvino")
    settings = ORT if engine == "onnxruntime" else {"precision": "f32", "threads": 1}
    probe = asked(new_prober(), files, engine=engine, settings=settings)
    assert probe.problem == ""
    assert len(probe.latency_s) == 2
    for n, (output,) in zip((1, 3), probe.outputs, strict=True):
        np.testing.assert_allclose(output, mlp(torch.ones(n, 8)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "timeout_s", "message"),
    [
        ("segfault", 60.0, "crashed with SIGSEGV"),
        ("out of memory", 60.0, "crashed with SIGKILL (the system may have run out of memory)"),
        ("exit", 60.0, "ended with status 3: no such library"),
        ("idle end", 60.0, "ended without an answer, twice"),
        ("hang", 0.2, "did not answer within 0.2 s"),
        ("garbage", 60.0, "could not run: mine"),
    ],
)
def test_what_goes_wrong_over_there_is_told_here(new_prober, files, kind, timeout_s, message):
    assert asked(new_prober(kind), files, timeout_s=timeout_s).problem == message


def test_ordinary_errors_of_an_engine_are_told(new_prober, files):
    prober = new_prober()
    problem = asked(prober, files, settings={"graph_level": "magic", "threads": 1}).problem
    assert problem.startswith("could not run: graph_level 'magic' is not one of raw, basic, all")
    files.graph.write_bytes(b"no graph")
    assert "could not run" in asked(prober, files).problem


def test_what_native_code_prints_does_not_disturb(new_prober, files, tmp_path):
    """The answer's way is another than standard output, whoever writes to that."""
    noisy = (
        "import os, runpy, numpy\n"
        "load = numpy.load\n"
        "def loud(*a, **k):\n    os.write(1, b'native noise'); print('{'); return load(*a, **k)\n"
        "numpy.load = loud\n"
        f"runpy.run_module({probing.MODULE!r}, run_name='__main__')\n"
    )
    prober = Prober([sys.executable, "-c", noisy])
    try:
        assert asked(prober, files).problem == ""
    finally:
        prober.close()


def test_process_killed_between_probes_is_started_again(new_prober, files):
    prober = new_prober()
    assert asked(prober, files).problem == ""
    process = prober._process._process
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert asked(prober, files).problem == ""
    assert prober._process._process.pid != process.pid


def test_process_is_used_again(new_prober, files):
    prober = new_prober()
    prober.start()
    pid = prober._process._process.pid
    for _ in range(3):
        assert asked(prober, files).problem == ""
    assert prober._process._process.pid == pid


def test_after_a_crash_the_next_probe_has_a_new_process(new_prober, files):
    prober = new_prober("segfault")
    assert "SIGSEGV" in asked(prober, files).problem
    prober._command = None
    assert asked(prober, files).problem == ""


def test_threads_that_probe_at_once_get_their_own_answers(new_prober, new_mlp):
    prober = new_prober()
    wrong = []

    def probe(seed):
        model = new_mlp(seed=seed)
        graph = written(model, torch.zeros(2, 8))
        with ProbeFiles(graph.data, [[np.ones((2, 8), np.float32)]]) as files:
            for _ in range(5):
                got = asked(prober, files).outputs[0][0]
                want = model(torch.ones(2, 8)).detach().numpy()
                if not np.allclose(got, want, atol=1e-5):
                    wrong.append(seed)

    threads = [threading.Thread(target=probe, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("name", "value"),
    [("executable", ""), ("executable", None), ("executable", "/usr/bin/app"), ("frozen", True)],
)
def test_without_a_python_to_start_there_is_a_reason(monkeypatch, files, name, value):
    monkeypatch.setattr(sys, name, value, raising=False)
    prober = Prober()
    prober.start()
    assert asked(prober, files).problem.startswith("cannot be probed here: sys.executable is")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_of_a_fork_has_a_prober_of_its_own_and_leaves_its_parents_alone(tmp_path):
    # os._exit, as multiprocessing does: ONNX Runtime's own clean-up hangs in the child of a fork.
    script = """
import os
import modelyard.inference_optimizer.tuning.probing as probing
first = probing.prober(); first.start()
first._lock.acquire()
child = os.fork()
if child == 0:
    own = probing.prober(); own.start(); pid = own._process._process.pid; own.close()
    ok = own is not first and pid != first._process._process.pid
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
first._lock.release()
print(status, first._process.is_alive())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.split() == ["0", "True"], done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_process_ends_with_the_one_that_asked():
    script = (
        "import modelyard.inference_optimizer.tuning.probing as p, os\n"
        "prober = p.prober(); prober.start(); print(prober._process._process.pid, flush=True)\n"
        "os._exit(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    pid = int(done.stdout)
    ended = threading.Event()
    threading.Thread(target=lambda: (_wait_for_end(pid), ended.set()), daemon=True).start()
    assert ended.wait(60)


def _wait_for_end(pid):
    while _runs(pid):
        threading.Event().wait(0.02)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_process_without_requests_ends_by_itself(monkeypatch):
    code = f"import {probing.MODULE} as probe\nprobe.IDLE_S = 0.05\nprobe.main()\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 0


def test_other_process_loads_neither_torch_nor_what_lies_in_the_users_folder(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    code = f"import sys; import {probing.MODULE}; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=probing._environment(),
    )
    assert done.stdout.strip() == "False"
