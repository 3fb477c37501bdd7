"""What can be exported: many kinds of models at many opsets, beside plain `torch.onnx.export`.

Writes `docs/export-matrix.md`. Every file, whoever wrote it, is judged alike by this script: it
must have the opset asked for, pass the checker, load in ONNX Runtime, and give the module's
answers on inputs that no exporter has seen, at batches of 1, 4 and 7 where the batch is to vary.
Where no graph can equal the module (chance, state, branches on the data), any file is wrong.

    python benchmarks/export_matrix.py                 # all, about 20 minutes on two cores
    python benchmarks/export_matrix.py LSTM PPO        # kinds whose names hold these; no page
"""

import io
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import onnx
import torch
from _export_models import KINDS, Kind
from _tables import machine, table

from modelyard import ModelExporter
from modelyard.torchtools.inputs import call, mapped, tensors_of
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.torchtools.parity import difference, flat_outputs
from modelyard.torchtools.policies import as_module, example_observation

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "export-matrix.md"
OPSETS = (14, 17, 18, 20, 25)
FORMS = ("dynamic", "fixed")
OTHERS = (
    ("torch_export", "fp32"),
    ("torchscript", "fp32"),
    ("openvino", "fp32"),
    ("onnx", "fp16"),
    ("onnx", "bf16"),
    ("onnx", "int8"),
)
_BATCHES = (1, 4, 7)
_RTOL, _ATOL = 1e-3, 1e-4
# Words of our messages, and the letter a refusal is told by.
_REASONS = {
    "two answers": ("R", "it gives two answers to one input: chance, or a state between calls"),
    "translated wrongly": ("O", ""),
    "samples its actions": ("R", ""),
    "branches on the data": ("B", "it branches on the data"),
    "was built at opset": ("Q", "its graph was quantized at another opset"),
    "A size was frozen": ("S", "the only route at this opset freezes a size"),
    "Nothing could be quantized": ("N", "there is nothing to quantize"),
    "is the export": ("G", ""),
    "graph it is": ("G", "it is an ONNX graph already"),
    "is not the module": ("D", "the other runtime answers differently"),
    "OpenVINO does not take": ("O", "an operator is not supported there"),
    "opset_version=": ("O", "an operator has no form at this opset, or a wrong one"),
    "Exporting a ScriptModule": ("O", ""),
    "starts from a float32 model": ("F", "it does not compute in float32"),
    "OpenVINO computes in float32": ("F", ""),
    "ONNX Runtime crashes": ("C", "ONNX Runtime crashes on it"),
    "int8 changes the outputs": ("E", "int8 costs more than a tenth of the output"),
    "off by more than that precision": ("E", ""),
}


def main(words: list[str]) -> None:
    """Try every kind, print what came out, and write the page."""
    kinds = [kind for kind in KINDS if not words or any(word in kind.name for word in words)]
    with ProcessPoolExecutor(2) as pool:
        results = []
        for result in pool.map(tried, [kind.name for kind in kinds]):
            print(result["name"], *sorted(Counter(result["ours"].values()).items()), flush=True)
            results.append(result)
    page = page_of(results)
    print(page)
    if not words:
        _PAGE.write_text(page, encoding="utf-8")


def tried(name: str) -> dict[str, Any]:
    """One kind through every exporter."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kind = next(kind for kind in KINDS if kind.name == name)
    found: dict[str, Any] = {"name": name, "ours": {}, "new": {}, "old": {}, "others": {}}
    with tempfile.TemporaryDirectory() as folder:
        for opset in OPSETS:
            for form in FORMS:
                cell = f"{opset} {form}"
                path = Path(folder) / "cell.onnx"
                found["ours"][cell] = _ours(kind, path, opset, form)
                for which in ("new", "old"):
                    found[which][cell] = _plain(kind, path, opset, form, is_new=which == "new")
        for target, precision in OTHERS:
            found["others"][f"{target} {precision}"] = _other(
                kind, Path(folder), target, precision
            )
    return found


def _ours(kind: Kind, path: Path, opset: int, form: str) -> str:
    model, example = _made(kind)
    axes = None if form == "dynamic" else {}
    path.unlink(missing_ok=True)
    try:
        ModelExporter(path.parent).export(
            model,
            path.stem,
            opset_version=opset,
            dynamic_axes=axes,
            example_input=example,
            optimize=False,
        )
    except Exception as error:  # noqa: BLE001 - counted, whatever it is
        return _reason(error)
    return _judged(kind, path, opset, form)


def _plain(kind: Kind, path: Path, opset: int, form: str, *, is_new: bool) -> str:
    """Torch's own exporter, called as its documentation shows."""
    model, example = _made(kind)
    model = as_module(model).eval()
    inputs = example if example is not None else example_observation(model)
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, None)
    args = args if isinstance(args, tuple) else (args,)
    path.unlink(missing_ok=True)
    options: dict[str, Any] = {"opset_version": opset, "kwargs": kwargs, "dynamo": is_new}
    if is_new:
        options["external_data"] = False
        if form == "dynamic":
            options["dynamic_shapes"] = _specs(inputs)
    elif form == "dynamic":
        names = [f"in_{i}" for i in range(len(tensors_of(inputs)))]
        options |= {"input_names": names, "dynamic_axes": {name: {0: "batch"} for name in names}}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
            torch.onnx.export(model, args, str(path), **options)
    except Exception:  # noqa: BLE001 - counted, whatever it is
        return "error"
    return _judged(kind, path, opset, form)


def _specs(inputs: Any) -> Any:
    batch = torch.export.Dim("batch")

    def spec(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return {0: batch}
        if isinstance(value, dict):
            return {key: spec(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(spec(item) for item in value)
        return None

    return spec(inputs) if isinstance(inputs, dict | tuple) else (spec(inputs),)


def _other(kind: Kind, folder: Path, target: str, precision: str) -> str:
    model, example = _made(kind)
    try:
        ModelExporter(folder).export(
            model,
            "other",
            target,
            precision=precision,
            example_input=example,
            optimize=False,
            opset_version=18 if target == "openvino" else 14,
        )
    except Exception as error:  # noqa: BLE001 - counted, whatever it is
        return _reason(error)
    return "right"


def _judged(kind: Kind, path: Path, opset: int, form: str) -> str:
    """Whether the file is right, by means of this script alone."""
    if not kind.has_graph:
        return "wrong"
    graph = onnx.load(path)
    found = [entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}]
    if max(found, default=0) != opset:
        return "wrong"
    model, example = _made(kind)
    model = as_module(model).eval()
    inputs = example if example is not None else example_observation(model)
    try:
        onnx.checker.check_model(graph)
        session = make_session(graph.SerializeToString(), threads=1)
        for turn, n in enumerate(_BATCHES if form == "dynamic" else (2, 2, 2)):
            fresh = mapped(inputs, _fresh(n, turn))
            expected = flat_outputs(call(model, mapped(fresh, torch.Tensor.clone)))
            actual = run_session(session, tensors_of(fresh))
            pairs = zip(expected, actual, strict=True)
            if not all(difference(a, b).is_within(rtol=_RTOL, atol=_ATOL) for a, b in pairs):
                return "wrong"
    except Exception:  # noqa: BLE001 - counted, whatever it is
        return "wrong"
    return "right"


def _fresh(n: int, turn: int) -> Any:
    """A batch of `n` that no exporter has seen; in turn 1 whole numbers are all equal."""
    generator = torch.Generator().manual_seed(1000 + turn)

    def made(tensor: torch.Tensor) -> torch.Tensor:
        shape = (n, *tensor.shape[1:])
        if tensor.is_floating_point():
            low_precision = tensor.dtype == torch.float16
            scale = 0.1 if low_precision else 1.0
            return (scale * torch.randn(shape, generator=generator)).to(tensor.dtype)
        if tensor.dtype != torch.bool and turn == 1:
            return torch.full(shape, int(tensor.reshape(-1)[0]))
        return tensor[torch.randint(0, len(tensor), (n,), generator=generator)]

    return made


def _made(kind: Kind) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = kind.make()
    return (model.eval() if isinstance(model, torch.nn.Module) else model), kind.args()


def _reason(error: Exception) -> str:
    text = str(error)
    return next((letter for words, (letter, _) in _REASONS.items() if words in text), f"? {text}")


def page_of(results: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    sums = {which: _sums(results, which) for which in ("ours", "new", "old")}
    n = sum(sums["ours"].values())
    names = {
        "ours": "modelyard",
        "new": "`torch.onnx.export` (dynamo, its default)",
        "old": "`torch.onnx.export(dynamo=False)`",
    }
    summary = table(
        ["exporter", "#right", "#refused or failed", "#written but wrong"],
        [
            [names[which], str(s["right"]), str(s["refused"]), str(s["wrong"])]
            for which, s in sums.items()
        ],
    )
    cells = table(
        ["model", *(f"opset {opset}" for opset in OPSETS), "torch, dynamo", "torch, old"],
        [_row(result) for result in results],
    )
    others = table(
        ["model", *(f"{target} {precision}" for target, precision in OTHERS)],
        [[r["name"], *(_shown(value) for value in r["others"].values())] for r in results],
    )
    letters = {letter: told for letter, told in _REASONS.values() if told}
    legend = "\n".join(f"- **{letter}**: {told}" for letter, told in sorted(letters.items()))
    return f"""# What can be exported

Made by `python benchmarks/export_matrix.py`; do not edit. {len(results)} kinds of models at \
opsets {", ".join(map(str, OPSETS))}, with a batch that varies and with a fixed one: {n} cells. \
Each file, whoever wrote it, was judged alike: it must have the opset asked for, pass ONNX's \
checker, load in ONNX Runtime, and give the module's answers on inputs no exporter had seen, at \
batches of 1, 4 and 7 where the batch varies. Where no graph can equal the module, any file \
counts as wrong. torch's exporters were given an example of two samples and, for algorithms of \
stable-baselines3, modelyard's module of the deterministic action, since they take no algorithm. \
{machine()}, ONNX Runtime {_version("onnxruntime")}.

{summary}

## ONNX, by opset

In each cell the batch that varies, then the fixed one: ✓ a file that was proved, or the reason \
why there is none. The last columns count torch's own exporters' cells: right, failed, wrong.

{cells}

{legend}

## Other targets and precisions

With a batch that varies; OpenVINO from opset 18, 16-bit and int8 ONNX at opset 14.

{others}
"""


def _version(package: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415 - asked once

    return version(package)


def _sums(results: list[dict[str, Any]], which: str) -> dict[str, int]:
    values = [value for result in results for value in result[which].values()]
    right, wrong = values.count("right"), values.count("wrong")
    return {"right": right, "refused": len(values) - right - wrong, "wrong": wrong}


def _row(result: dict[str, Any]) -> list[str]:
    ours = [
        " ".join(_shown(result["ours"][f"{opset} {form}"]) for form in FORMS) for opset in OPSETS
    ]
    plain = []
    for which in ("new", "old"):
        values = list(result[which].values())
        right, wrong = values.count("right"), values.count("wrong")
        plain.append(f"{right}, {len(values) - right - wrong}, {wrong}")
    return [result["name"], *ours, *plain]


def _shown(value: str) -> str:
    return {"right": "✓", "wrong": "WRONG"}.get(value, value)


if __name__ == "__main__":
    main(sys.argv[1:])
