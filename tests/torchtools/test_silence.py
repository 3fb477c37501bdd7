"""Libraries are kept quiet without silencing, or changing the settings of, other threads."""

import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard.torchtools.silence import logging_untouched, quiet


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def talk():
    sys.stdout.write("printed\n")
    logging.getLogger().warning("logged")
    logging.getLogger("onnxruntime.quantization").warning("told")


def test_one_thread_is_silenced_and_the_others_are_heard(capsys, caplog):
    logging.getLogger("onnxruntime.quantization")
    with quiet():
        talk()
        warnings.warn("advice", stacklevel=1)
        assert capsys.readouterr().out == ""
        assert caplog.messages == []
        logging.getLogger().error("wrong")
        assert caplog.messages == ["wrong"]
        in_thread(talk)
    assert capsys.readouterr().out == "printed\n"
    assert caplog.messages == ["wrong", "logged", "told"]
    talk()
    assert capsys.readouterr().out == "printed\n"
    assert caplog.messages == ["wrong", "logged", "told", "logged", "told"]


def test_two_threads_put_everything_back_however_they_overlap():
    before = sys.stdout, logging.getLogger().level, [*warnings.filters]
    first_is_in, may_leave = threading.Event(), threading.Event()

    def first():
        with quiet():
            first_is_in.set()
            may_leave.wait(0.2)

    def second():
        first_is_in.wait()
        with quiet():
            may_leave.set()

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sys.stdout, logging.getLogger().level, [*warnings.filters]) == before
    assert logging.getLogger().filters == []


def test_what_sets_logging_up_is_undone(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with logging_untouched():
        logging.basicConfig(level=logging.INFO)
        assert root.handlers
    assert root.handlers == []
    assert root.level == logging.WARNING


@pytest.mark.slow
def test_compressors_in_two_threads_leave_the_process_as_it_was():
    before = sys.stdout, logging.getLogger().level, [*warnings.filters]

    def work(width):
        model = nn.Sequential(nn.Linear(16, 64 + width), nn.ReLU(), nn.Linear(64 + width, 4))
        data = torch.randn(64, 16)
        compressor = ModelCompressor(model, validation_data=data)
        compressor.dynamic_quantization()
        compressor.quantize_model()
        compressor.calibrate_quantization(data)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(6)))
    assert (sys.stdout, logging.getLogger().level, [*warnings.filters]) == before
