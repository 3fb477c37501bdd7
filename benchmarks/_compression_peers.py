"""Other libraries' quantization of one model, each called as its documentation shows.

A peer takes the trained float model and calibration inputs, and gives something to call and the
size of what it writes to disk; or the reason why it cannot. Everything is left at its default,
which for the compiled ones includes compiling and for OpenVINO bf16 where the CPU has it. All run
on one thread.

    python benchmarks/_compression_peers.py               # every task beside every peer
    python benchmarks/_compression_peers.py digits_cnn    # one

Needs the extra `bench`.
"""

import copy
import gc
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from _compression_tasks import Task, tasks_named
from _tables import machine, table
from torch import Tensor, nn

from modelyard.torchtools.inputs import answer_of
from modelyard.torchtools.layers import MB, size_mb
from modelyard.torchtools.onnx_module import make_session
from modelyard.torchtools.quantization import relative_error as relative_error_of

Run = Callable[[Tensor], Tensor]
Built = tuple[Run, float]
"""What answers, and its size in MB."""

PACKAGES = ("torch", "torchao", "nncf", "openvino", "onnxruntime", "neural-compressor")
_OPENVINO = {"INFERENCE_NUM_THREADS": 1}


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """A model that a peer made.

    Attributes:
        name: Of the peer, a key of `PEERS`.
        run: Answers as the float model does, at any batch; without gradients.
        size_mb: Of what is written to disk: a state dict, an ONNX file, or OpenVINO's two files.
        build_s: How long it took, compiling included.
    """

    name: str
    run: Run
    size_mb: float
    build_s: float


@dataclass(frozen=True, kw_only=True)
class PeerFailure:
    """A peer that gave no model.

    Attributes:
        name: Of the peer, a key of `PEERS`.
        reason: First line of what it said.
    """

    name: str
    reason: str


def peers_of(
    model: nn.Module, calibration: Tensor, *, names: list[str] | None = None
) -> list[PeerResult | PeerFailure]:
    """What every peer makes of a model.

    Args:
        model: Trained, in eval mode; not changed.
        calibration: Inputs of training, one tensor, contiguous, the batch first; at
            least 64.
        names: Keys of `PEERS`; all by default.
    """
    torch.compiler.reset()  # after eight compilations of one class it would run eagerly
    return [tried(name, model, calibration) for name in names or PEERS]


def tried(name: str, model: nn.Module, calibration: Tensor) -> PeerResult | PeerFailure:
    """One peer on one model, proved to answer at batches of 1, 3 and 64 in the model's shape."""
    started = time.perf_counter()
    try:
        with silenced():
            run, size = PEERS[name](copy.deepcopy(model).eval(), calibration)
            for n in (1, 3, 64):
                _check_shape(run(calibration[:n]), answer_of(model, calibration[:n]))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        return PeerFailure(name=name, reason=f"{type(error).__name__}: {_first_line(error)}")
    return PeerResult(name=name, run=run, size_mb=size, build_s=time.perf_counter() - started)


def _first_line(error: Exception) -> str:
    """What an error says first; OpenVINO begins with lines of its own source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from")), "")


def _check_shape(answer: Tensor, wanted: Tensor) -> None:
    if answer.shape != wanted.shape:
        raise ValueError(f"answers with shape {tuple(answer.shape)}, not {tuple(wanted.shape)}")


# ── PyTorch's own, and torchao ──────────────────────────────────────────────────────────────────


def torch_dynamic(model: nn.Module, calibration: Tensor) -> Built:
    """torch.ao: int8 weights of Linear and LSTM, activations as they come."""
    del calibration
    kinds = {nn.Linear, nn.LSTM}
    if not any(type(module) in kinds for module in model.modules()):
        raise ValueError("no Linear and no LSTM")
    return _module(torch.ao.quantization.quantize_dynamic(model, kinds, dtype=torch.qint8))


def torch_static_fx(model: nn.Module, calibration: Tensor) -> Built:
    """torch.ao: observers in the traced graph, ranges of the calibration data."""
    from torch.ao.quantization import get_default_qconfig_mapping  # noqa: PLC0415 - warns
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: PLC0415

    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    prepared = prepare_fx(model, mapping, (calibration[:2],))
    for batch in calibration.split(32):
        answer_of(prepared, batch)
    return _module(convert_fx(prepared))


def torchao_dynamic(model: nn.Module, calibration: Tensor) -> Built:
    """torchao: int8 weights of Linear, activations as they come; compiled, as it advises."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig  # noqa: PLC0415

    return _torchao(model, Int8DynamicActivationInt8WeightConfig(), calibration)


def torchao_weight_only(model: nn.Module, calibration: Tensor) -> Built:
    """torchao: int8 weights of Linear, computed in float; compiled, as it advises."""
    from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415

    return _torchao(model, Int8WeightOnlyConfig(), calibration)


def _torchao(model: nn.Module, config: Any, calibration: Tensor) -> Built:
    from torchao.quantization import quantize_  # noqa: PLC0415 - slow, and prints, on import

    # Attention's own output projection is a Linear that nn.MultiheadAttention reads the weights
    # of and never calls; torchao takes it all the same, as `quantize_` is called without filter.
    quantize_(model, config)
    return _compiled(model, size_of_state(model), calibration)


# ── Intel neural-compressor ─────────────────────────────────────────────────────────────────────


def neural_compressor_static(model: nn.Module, calibration: Tensor) -> Built:
    """neural-compressor: PT2E with its default static settings, compiled, as it advises."""
    from neural_compressor.torch.export import export  # noqa: PLC0415 - prints on import
    from neural_compressor.torch.quantization import (  # noqa: PLC0415
        convert,
        get_default_static_config,
        prepare,
    )

    batch = torch.export.Dim("batch")
    exported = export(model, (calibration[:2],), dynamic_shapes=({0: batch},))
    prepared = prepare(exported, quant_config=get_default_static_config())
    for inputs in calibration.split(32):
        answer_of(prepared, inputs)
    converted = convert(prepared)
    return _compiled(converted, size_of_state(converted), calibration)


# ── NNCF and OpenVINO ───────────────────────────────────────────────────────────────────────────


def nncf_openvino(model: nn.Module, calibration: Tensor) -> Built:
    """NNCF on the PyTorch model, run by OpenVINO."""
    return _nncf_openvino(model, calibration, _nncf_type(model))


def nncf_untyped_openvino(model: nn.Module, calibration: Tensor) -> Built:
    """As `nncf_openvino`, a Transformer without being called one: without SmoothQuant.

    On `digits_transformer` OpenVINO 2026.4.1 runs SmoothQuant's graph wrongly on the CPU measured,
    by more at larger batches; the same graph is right in PyTorch, and NNCF's in ONNX Runtime is.
    On the chain's `transformer` the two runtimes agree. One row alone would blame NNCF.
    """
    if _nncf_type(model) is None:
        raise ValueError("no attention: the same as with its type")
    return _nncf_openvino(model, calibration, None)


def _nncf_openvino(model: nn.Module, calibration: Tensor, model_type: Any) -> Built:
    import nncf  # noqa: PLC0415 - slow on import
    import openvino as ov  # noqa: PLC0415

    dataset = nncf.Dataset(list(calibration.split(1)))
    quantized = nncf.quantize(model, dataset, model_type=model_type)
    # Without the shape every dimension varies, and a quantized convolution does not compile.
    converted = ov.convert_model(
        quantized, example_input=calibration[:2], input=[-1, *calibration.shape[1:]]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        ov.save_model(converted, path)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        compiled = ov.Core().compile_model(path, "CPU", _OPENVINO)

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(compiled([inputs.numpy()])[0].copy())

    return run, size / MB


def nncf_onnx(model: nn.Module, calibration: Tensor) -> Built:
    """NNCF on the ONNX graph, run by ONNX Runtime."""
    import nncf  # noqa: PLC0415 - slow on import
    import onnx  # noqa: PLC0415

    with _exported(model, calibration) as path:
        graph = onnx.load(path)
    name = graph.graph.input[0].name
    dataset = nncf.Dataset([{name: batch.numpy()} for batch in calibration.split(1)])
    quantized = nncf.quantize(graph, dataset, model_type=_nncf_type(model))
    return _session(quantized.SerializeToString())


def _nncf_type(model: nn.Module) -> Any:
    import nncf  # noqa: PLC0415 - slow on import

    # As its documentation advises for Transformers.
    has_attention = any(isinstance(part, nn.MultiheadAttention) for part in model.modules())
    return nncf.ModelType.TRANSFORMER if has_attention else None


# ── ONNX Runtime ────────────────────────────────────────────────────────────────────────────────


def onnxruntime_dynamic(model: nn.Module, calibration: Tensor) -> Built:
    """ONNX Runtime's `quantize_dynamic`, after the preparation that it asks for."""
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415

    with _exported(model, calibration, is_prepared=True) as path:
        target = path.with_name("int8.onnx")
        quantize_dynamic(path, target)
        return _session(target.read_bytes())


def onnxruntime_static(model: nn.Module, calibration: Tensor) -> Built:
    """ONNX Runtime's `quantize_static`, after the preparation that it asks for."""
    from onnxruntime.quantization import quantize_static  # noqa: PLC0415

    with _exported(model, calibration, is_prepared=True) as path:
        target = path.with_name("int8.onnx")
        quantize_static(path, target, _Reader(path, calibration))
        return _session(target.read_bytes())


class _Reader:
    """Calibration data in batches, as ONNX Runtime asks for it."""

    def __init__(self, path: Path, calibration: Tensor) -> None:
        name = make_session(path, threads=1).get_inputs()[0].name
        self._feeds = iter([{name: batch.numpy()} for batch in calibration.split(32)])

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, or None."""
        return next(self._feeds, None)


@contextmanager
def _exported(
    model: nn.Module, calibration: Tensor, *, is_prepared: bool = False
) -> Iterator[Path]:
    """The file that `torch.onnx.export` writes, with a batch that varies."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        torch.onnx.export(
            model,
            (calibration[:2],),
            str(path),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
        )
        if is_prepared:
            quant_pre_process(path, path.with_name("prepared.onnx"))
            path = path.with_name("prepared.onnx")
        yield path


# ── what the peers share ────────────────────────────────────────────────────────────────────────


PEERS: Mapping[str, Callable[[nn.Module, Tensor], Built]] = {
    "torch dynamic": torch_dynamic,
    "torch static (FX)": torch_static_fx,
    "torchao dynamic": torchao_dynamic,
    "torchao weight-only": torchao_weight_only,
    "neural-compressor static": neural_compressor_static,
    "NNCF, OpenVINO": nncf_openvino,
    "NNCF untyped, OpenVINO": nncf_untyped_openvino,
    "NNCF, ONNX Runtime": nncf_onnx,
    "ONNX Runtime dynamic": onnxruntime_dynamic,
    "ONNX Runtime static": onnxruntime_static,
}
"""Each peer's builder by name."""


def size_of_state(model: nn.Module) -> float:
    """MB of the state dict as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / MB


def _module(model: nn.Module) -> Built:
    return lambda inputs: answer_of(model, inputs), size_of_state(model)


def _compiled(model: nn.Module, size: float, calibration: Tensor) -> Built:
    compiled = torch.compile(model)
    answer_of(compiled, calibration[:1])  # compiles for one sample, as it is timed
    return lambda inputs: answer_of(compiled, inputs), size


def _session(graph: bytes) -> Built:
    session = make_session(graph, threads=1)
    name = session.get_inputs()[0].name

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])

    return run, len(graph) / MB


@contextmanager
def silenced() -> Iterator[None]:
    """No warnings, logs or progress bars of the peers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


# ── the table ───────────────────────────────────────────────────────────────────────────────────


def relative_error(
    run: Run, model: nn.Module, inputs: Tensor, *, batch_size: int | None = None
) -> float:
    """The error that modelyard's limit is about: relative to how the float answers vary.

    Args:
        run: A peer's model.
        model: The float one.
        inputs: Held out, the batch first.
        batch_size: How many `run` is given at once; all by default. An error that depends on it
            is no rounding: one sample's answer then depends on its neighbours.
    """
    answers = [run(batch) for batch in inputs.split(batch_size or len(inputs))]
    return relative_error_of(answer_of(model, inputs), torch.cat(answers))


def block_medians(
    calls: Mapping[str, Callable[[], object]],
    *,
    n_blocks: int = 5,
    n_calls: int = 20,
    n_dropped: int = 2,
) -> dict[str, float]:
    """Median seconds of each call, in blocks that take turns.

    Taken call by call in turns, each would find the caches full of another's weights, which in
    use it would not; the first calls of a block, which do, are dropped.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(n_blocks):
            for name, call in calls.items():
                for i in range(n_calls):
                    start = time.perf_counter()
                    call()
                    if i >= n_dropped:
                        seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: float(np.median(values)) for name, values in seconds.items()}


def rows_of(task: Task, peers: list[PeerResult | PeerFailure]) -> list[list[str]]:
    """Lines of the table, the float model's first."""
    made = [peer for peer in peers if isinstance(peer, PeerResult)]
    inputs = torch.cat([batch[0] for batch in task.test_loader])
    one = inputs[:1]
    runs: dict[str, Run] = {"eager": lambda x: answer_of(task.model, x)}
    runs |= {peer.name: peer.run for peer in made}
    with silenced():
        seconds = block_medians({name: (lambda run=run: run(one)) for name, run in runs.items()})
        metrics = {name: task.metric_fn(run, task.test_loader) for name, run in runs.items()}
        # The middle one is the loader's, so that it and the metric are of the same answers.
        errors = {
            name: [relative_error(run, task.model, inputs, batch_size=n) for n in (1, 64, None)]
            for name, run in runs.items()
        }
    sizes = {"eager": size_mb(task.model)} | {peer.name: peer.size_mb for peer in made}
    lines = [
        [
            task.name,
            name,
            f"{sizes[name] / sizes['eager']:.3f}",
            *(f"{error:.4f}" for error in errors[name]),
            f"{metrics[name]:.4f}",
            f"{seconds['eager'] / seconds[name]:.2f} x",
            f"{seconds[name] * 1e3:.3f}",
        ]
        for name in runs
    ]
    failed = [peer for peer in peers if isinstance(peer, PeerFailure)]
    return lines + [[task.name, peer.name, *["-"] * 6, peer.reason] for peer in failed]


_ERRORS = ("#error, batch 1", "#batch 64", "#all at once")
_COLUMNS = ["task", "how", "#size", *_ERRORS, "#metric", "#speed-up", "#latency (ms)"]


def main(names: list[str]) -> None:
    """Print tasks by peers."""
    torch.set_num_threads(1)
    print(machine(), *(f"{name} {version(name)}" for name in PACKAGES), sep=", ")
    for task in tasks_named(names):
        peers = peers_of(task.model, task.calibration)
        for peer in peers:
            if isinstance(peer, PeerResult):
                print(f"{task.name}: {peer.name} built in {peer.build_s:.1f} s", flush=True)
        print(table(_COLUMNS, rows_of(task, peers)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
