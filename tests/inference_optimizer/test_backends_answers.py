"""Every backend alone: eager's answers, the shortest way for arrays, threads."""

import contextlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.compression import ModelCompressor
from modelyard.inference_optimizer.backends import (
    label_of,
    make_autocast,
    make_bfloat16,
    make_compiled,
    make_eager,
    make_onnxruntime,
    make_torchscript,
    onnxruntime_backend,
    openvino_backend,
    written,
)
from modelyard.torchtools.graph_sessions import onnxruntime_session
from modelyard.torchtools.inputs import resolve_example
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.trading import build_models, presets

CPU = torch.device("cpu")


class Nested(nn.Module):
    """Takes two tensors and answers with a dict of a tensor and a tuple."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, state, scale):
        return {"value": self.layer(state) * scale, "mean": (state.mean(1), scale > 1)}


class Branching(nn.Module):
    """Does something else for some values or sizes, as `kind` says."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        return self.layer(x) if KINDS[self.kind](x) else self.layer(-x)


KINDS = {
    "finite": lambda x: x.isfinite().all(),
    "large": lambda x: x.abs().max() > 100,
    "any NaN": lambda x: torch.isnan(x).any(),
    "item": lambda x: x.max().item() > 100,
    "index": lambda x: [1, 0][(x > 100).sum()],
    "list": lambda x: x[0].tolist()[0] > 100,
    "array": lambda x: x.numpy().max() > 100,
    "size": lambda x: x.shape[0] > 40,
}


class Masked(nn.Module):
    """PyTorch's own layer looks at the values of the mask it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(self.layer, 1)

    def forward(self, x, mask):
        return self.encoder(x, mask=mask[0])


LAYERS = {
    "linear": lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU()),
    "lstm": lambda: nn.LSTM(8, 4, batch_first=True),
    "gru": lambda: nn.GRU(8, 4),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1
    ),
    "attending over the batch": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=False),
    "convolutions": lambda: nn.Sequential(
        nn.Conv1d(5, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.AdaptiveAvgPool1d(1)
    ),
}


def graph_backends(model, example):
    graph = written(model, example)
    found = [
        onnxruntime_backend(graph, graph_level=level, threads=threads)
        for level in ("raw", "basic", "all")
        for threads in (1, 2)
    ]
    with contextlib.suppress(ImportError):
        found.append(openvino_backend(graph, precision="f32", threads=1))
    return found


def rows(n, width=8):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("make", [make_eager, make_torchscript, make_onnxruntime])
def test_backends_answer_like_the_module_at_every_batch_size(mlp, make):
    backend = make(mlp, rows(2), CPU)
    for n in (1, 3, 8, 32):
        torch.testing.assert_close(backend.run(rows(n)), mlp(rows(n)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_refuses_what_a_trace_would_freeze_and_says_what(kind):
    with pytest.raises(ConversionError, match=r"Converting a tensor to a|reads values of"):
        make_torchscript(Branching(kind).eval(), rows(2), CPU)


def test_torchscript_refuses_values_that_are_read_without_a_warning():
    model = Branching("equal").eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, "equal", lambda x: torch.equal(x, x.abs()))
        with pytest.raises(ConversionError, match=r"reads values of tensors \(aten::equal\)"):
            make_torchscript(model, rows(2), CPU)


def test_torchscript_refuses_values_that_pytorchs_own_layers_read():
    mask = nn.Transformer.generate_square_subsequent_mask(5).expand(2, 5, 5)
    with pytest.raises(ConversionError, match="Converting a tensor to a Python boolean"):
        make_torchscript(Masked().eval(), (torch.randn(2, 5, 8), mask), CPU)


@pytest.mark.parametrize("layer", LAYERS)
def test_torchscript_takes_layers_that_only_compare_sizes(layer):
    model = LAYERS[layer]().eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        make_torchscript(model, x, CPU).run(x), model(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["ts2vec", "transformer", "policy"])
def test_torchscript_takes_the_models_of_the_chain(name):
    model = getattr(build_models(presets.small().architecture, seed=0), name)
    make_torchscript(model, resolve_example(model), CPU)


def test_graph_backends_answer_like_the_module_and_give_arrays_of_their_own(mlp):
    for backend in graph_backends(mlp, rows(2)):
        held = []
        for n in (1, 3, 8, 32):
            want = mlp(rows(n)).detach()
            torch.testing.assert_close(backend.run(rows(n)), want, rtol=1e-5, atol=1e-5)
            held.append((backend.run_array(rows(n).numpy()), want))
        for array, want in held:  # none was written over by a later call
            np.testing.assert_allclose(array, want.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_dict", [False, True])
def test_graph_backends_keep_the_structure_and_the_dtypes(as_dict):
    model, state, scale = Nested().eval(), rows(3, 4), torch.full((3, 1), 2.0)
    given = {"state": state, "scale": scale} if as_dict else (state, scale)
    want = model(state, scale)
    for backend in graph_backends(model, given):
        answer = backend.run(given)
        torch.testing.assert_close(answer["value"], want["value"].detach())
        assert isinstance(answer["mean"], tuple)
        assert answer["mean"][1].dtype == torch.bool
        assert backend.run_array is None  # there is not one array in and one out


def test_arrays_that_may_not_be_written_and_tensors_that_are_views_are_taken(mlp):
    wide = rows(4, 16)
    view = wide[:, ::2]
    array = view.numpy().copy()
    array.flags.writeable = False
    for backend in graph_backends(mlp, rows(2)):
        torch.testing.assert_close(backend.run(view), mlp(view), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            backend.run_array(array), mlp(view).detach().numpy(), rtol=1e-5, atol=1e-5
        )


def test_arrays_and_tensors_of_any_layout_are_taken(mlp):
    base = rows(6).numpy()
    layouts = {
        "contiguous": base,
        "Fortran order": np.asfortranarray(base),
        "negative strides": base[::-1, ::-1],
        "every second": np.repeat(base, 2, axis=1)[::2, ::2],
        "one row repeated": np.broadcast_to(base[:1], (5, 8)),
        "no rows": base[:0],
    }
    for backend in graph_backends(mlp, rows(2)):
        for name, array in layouts.items():
            want = mlp(torch.from_numpy(array.copy())).detach().numpy()
            got = backend.run_array(array)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)
        transposed = torch.from_numpy(base.T.copy()).T
        want = mlp(transposed).detach()
        torch.testing.assert_close(backend.run(transposed), want, rtol=1e-5, atol=1e-5)
        got = backend.run_array(transposed.numpy())
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


def test_tensors_with_gradients_are_taken(mlp):
    x = rows(2).requires_grad_()
    for backend in graph_backends(mlp, rows(2)):
        assert not backend.run(x).requires_grad


def test_threads_never_get_one_anothers_answers(mlp):
    for backend in graph_backends(mlp, rows(2)):
        wrong = []

        def ask(n, backend=backend, wrong=wrong):
            want = mlp(rows(n)).detach().numpy()
            for _ in range(30):
                if not np.allclose(backend.run_array(rows(n).numpy()), want, atol=1e-5):
                    wrong.append(n)

        threads = [threading.Thread(target=ask, args=(n,)) for n in (1, 2, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, backend.name


@pytest.mark.parametrize("make", [make_bfloat16, make_autocast])
def test_reduced_precision_answers_in_the_modules_own_dtype(mlp, make):
    backend = make(mlp, rows(2), CPU)
    answer = backend.run(rows(5))
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, mlp(rows(5)), rtol=0.05, atol=0.05)
    assert mlp[0].weight.dtype == torch.float32


def test_quantized_graph_runs_as_it_is(new_mlp):
    compressor = ModelCompressor(new_mlp(8, 64, 4))
    compressor.dynamic_quantization()
    model = compressor.model
    graph = written(model, rows(2))
    assert graph.data == model.graph_bytes
    backend = onnxruntime_backend(graph, graph_level="all", threads=1)
    assert torch.equal(backend.run(rows(5)), model(rows(5)))


def test_quantized_graph_takes_named_inputs_in_any_order():
    compressor = ModelCompressor(
        Nested().eval(), example_input={"state": rows(2, 4), "scale": torch.ones(2, 1)}
    )
    compressor.dynamic_quantization()
    given = {"scale": torch.full((2, 1), 2.0), "state": rows(2, 4)}
    backend = onnxruntime_backend(written(compressor.model, given), graph_level="all", threads=1)
    want = compressor.model(**given)
    assert torch.equal(backend.run(given)["value"], want["value"])


def test_graph_level_is_checked_and_reaches_the_session(mlp):
    graph = written(mlp, rows(2)).data
    with pytest.raises(ConfigError, match="graph_level 'most' is not one of raw, basic, all"):
        onnxruntime_session(graph, threads=1, graph_level="most")
    (want,) = run_session(make_session(graph), [rows(2)])
    (got,) = run_session(make_session(graph, graph_level="raw", threads=1), [rows(2)])
    torch.testing.assert_close(got, want)


def test_label_tells_the_settings():
    assert label_of("eager", {}) == "eager"
    assert label_of("openvino", {"threads": 2}) == "openvino (threads=2)"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_module_answers_like_eager_at_sizes_it_was_not_compiled_for(mlp):
    backend = make_compiled(mlp, rows(2), CPU)
    for n in (1, 3, 8, 32):
        torch.testing.assert_close(backend.run(rows(n)), mlp(rows(n)), rtol=1e-5, atol=1e-5)


GROWN = """
import gc, psutil, torch
from torch import nn
from modelyard.inference_optimizer.backends import make_torchscript

def grown(n):
    before = psutil.Process().memory_info().rss
    for _ in range(n):
        model = nn.Sequential(nn.Linear(1000, 2000), nn.ReLU(), nn.Linear(2000, 1000)).eval()
        make_torchscript(model, torch.ones(2, 1000), torch.device("cpu"))
        del model
        gc.collect()
    return psutil.Process().memory_info().rss - before

grown(3)  # what is made once
print(grown(6))
"""


@pytest.mark.slow
def test_a_frozen_trace_takes_its_weights_with_it():
    # In a process of its own, whose allocator gives large blocks back when they are freed: what
    # it would keep otherwise depends on the tests before.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    ran = subprocess.run(
        [sys.executable, "-c", GROWN], env=environment, capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 16e6  # one model has 16 MB
