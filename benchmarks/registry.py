"""The registry beside MLflow's, on SQLite and local files, in turns in one run.

Writes the tables between the markers in `docs/benchmarks.md`. MLflow comes with the extra `bench`;
without it its columns stay empty. `bare` is the limit: for saves a plain write and fsync of the
same bytes into a new file, for the list the rows and metrics as Python's SQLite driver gives them.

    python benchmarks/registry.py           # everything, some minutes
    python benchmarks/registry.py --quick   # few repetitions, for a look
"""

import contextlib
import gc
import importlib.util
import logging
import multiprocessing
import os
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from _tables import machine, table, write
from torch import nn

from modelyard.storage import tables as t
from modelyard.version_manager import ModelVersionManager

_HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None
_MS = 1e3
_N_PROCESSES = 8


class Bare:
    """What nothing durable can beat: the same bytes written to a file of their own and synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, model: nn.Module, _sharpe: float) -> None:
        """Write the weights into a new file, durably."""
        data = model.weight.detach().numpy().data.cast("B")
        with (self._folder / f"bare-{secrets.token_hex(8)}").open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


class Ours:
    """The registry of modelyard."""

    def __init__(self, folder: Path) -> None:
        self._registry = ModelVersionManager(folder / "ours")

    def save(self, model: nn.Module, sharpe: float) -> str:
        """Save a version durably; what `load` takes."""
        return self._registry.save_model(model, "ppo", {"sharpe": sharpe})

    def load(self, key: str) -> nn.Module:
        """The model, every byte verified."""
        return self._registry.load_model(key)

    def listed(self) -> list[Any]:
        """All versions by Sharpe ratio."""
        return self._registry.list_versions("ppo", sort_by="sharpe")

    def rows(self) -> list[Any]:
        """What `listed` is made from, as the driver gives it: no more can be left out."""
        with contextlib.closing(sqlite3.connect(self._registry.base_dir / "registry.db")) as found:
            versions = found.execute(
                "SELECT version.* FROM version LEFT JOIN metric AS m "
                "ON m.version_id = version.version_id AND m.name = 'sharpe' "
                "WHERE version.model_name = 'ppo' AND removed_at IS NULL "
                "ORDER BY m.value IS NULL, m.value DESC, seq DESC"
            ).fetchall()
            metrics = "SELECT version_id, name, value FROM metric WHERE model_name = 'ppo'"
            return [versions, found.execute(metrics).fetchall()]

    def fill(self, n: int) -> None:
        """Rows of `n` more versions, without files: what a list or a search looks at."""
        with self._registry.store.database.writing() as connection:
            first = dict(connection.execute(t.version.select().limit(1)).mappings().one())
            start = connection.execute(t.version.select().order_by(t.version.c.seq.desc())).first()
            del first["seq"]
            ids = [f"ppo_v20240101_000000_{start.seq + i}" for i in range(n)]
            rows = [{**first, "version_id": key} for key in ids]
            connection.execute(t.version.insert(), rows)
            metrics = [
                {"version_id": key, "model_name": "ppo", "name": name, "value": i * 7919 % 10007}
                for i, key in enumerate(ids)
                for name in ("sharpe", "cagr")
            ]
            connection.execute(t.metric.insert(), metrics)

    def best(self) -> Any:
        """The version with the best Sharpe ratio."""
        return self._registry.get_best_version("ppo", "sharpe")


class Mlflow:
    """The model registry of MLflow, called as its documentation does.

    That is in its default format, which traces the model, and with an example input, which that
    format needs. Only the requirements are given: inferred, as they are by default, they take
    seconds of each save.
    """

    _saved: ClassVar[dict[str, Any]] = {}
    _listed: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        # Since 3.17 loading a pickle has to be allowed.
        os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
        import mlflow  # noqa: PLC0415 - optional
        import mlflow.pytorch  # noqa: PLC0415

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._mlflow = mlflow
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_registry_uri(f"sqlite:///{folder / 'mlflow.db'}")
        self._client = mlflow.MlflowClient()
        found = self._client.get_experiment_by_name("bench")
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment("bench", (folder / "artifacts").as_uri())
        )
        mlflow.set_experiment(experiment_id=self._experiment)

    def save(self, model: nn.Module, sharpe: float) -> str:
        """Log a model with a metric and register it; what `load` takes."""
        with self._mlflow.start_run():
            self._mlflow.log_metric("sharpe", sharpe)
            info = self._mlflow.pytorch.log_model(
                model,
                name="model",
                registered_model_name="ppo",
                pip_requirements=["torch"],
                **(self._saved or {"input_example": _example_of(model)}),
            )
        return f"models:/ppo/{info.registered_model_version}"

    def load(self, key: str) -> nn.Module:
        """The model; MLflow verifies nothing."""
        return self._mlflow.pytorch.load_model(key)

    def listed(self) -> list[Any]:
        """The nearest there is: logged models by a metric (versions cannot be sorted by one)."""
        return self._mlflow.search_logged_models(
            experiment_ids=[self._experiment],
            order_by=[{"field_name": "metrics.sharpe", "ascending": False}],
            max_results=1000,
            **self._listed,
        )

    def fill(self, n: int) -> None:
        """`n` logged models with two metrics each."""
        run = self._client.create_run(self._experiment)
        for i in range(n):
            model = self._client.create_logged_model(self._experiment, name=f"m{i}")
            for name in ("sharpe", "cagr"):
                self._client.log_metric(
                    run.info.run_id, name, i * 7919 % 10007, model_id=model.model_id
                )


class QuickestMlflow(Mlflow):
    """The same in its quickest way: as pickle, of which it warns, and no data frames."""

    _saved: ClassVar[dict[str, Any]] = {"serialization_format": "pickle"}
    _listed: ClassVar[dict[str, Any]] = {"output_format": "list"}


def main(*, quick: bool) -> None:
    """Measure and write the page."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        peers: dict[str, Any] = {"bare": Bare(folder), "modelyard": Ours(folder)}
        if _HAS_MLFLOW:
            for way, kind in _MLFLOWS.items():
                place = folder / kind.__name__
                place.mkdir()
                peers[way] = kind(place)
        rows = _saving(folder, peers, n_1mb=5 if quick else 40, n_50mb=3 if quick else 12)
        del peers["bare"]
        rows += _loading(peers, n=4 if quick else 20)
        rows.append(_listing(peers, n=100 if quick else 1000))
        rows.append(_processes(folder, n_saves=4 if quick else 20))
        columns = ["what", *_NAMES, *(f"{name} / modelyard" for name in _MLFLOWS)]
        columns.append("modelyard / bare")
        first = table([column if column == "what" else f"#{column}" for column in columns], rows)
        second = table(
            [
                "#versions",
                "#list sorted by metric (ms)",
                "#per version (µs)",
                "#best version (ms)",
            ],
            _scale(folder, sizes=[1_000, 10_000] if quick else [1_000, 10_000, 100_000]),
        )
    text = f"Measured on {machine()}, medians.\n\n{first}\n\n{second}"
    print(text)
    if not quick:
        write("registry", text)


_MLFLOWS: dict[str, type[Mlflow]] = {"MLflow": Mlflow, "MLflow, quickest": QuickestMlflow}
_NAMES = ("bare", "modelyard", *_MLFLOWS)


def _example_of(model: nn.Module) -> np.ndarray:
    return np.zeros((1, model.in_features), np.float32)


def _model(size_bytes: int) -> nn.Module:
    return nn.Linear(size_bytes // 1000, 250, bias=False)


def _saving(folder: Path, peers: dict[str, Any], *, n_1mb: int, n_50mb: int) -> list[list[str]]:
    rows = []
    for size_bytes, n in ((10**6, n_1mb), (50 * 10**6, n_50mb)):
        times: dict[str, list[float]] = {name: [] for name in peers}
        for turn in range(n + 1):
            model = _model(size_bytes)
            _touch_memory(folder, 20 * size_bytes)
            # Another one first each time: who writes first finds the pages that others freed.
            names = list(peers)[turn % len(peers) :] + list(peers)[: turn % len(peers)]
            for name in names:
                # MLflow leaves what it wrote to the system: the next sync would pay for it.
                os.sync()
                times[name].append(_timed(lambda p=peers[name], m=model: p.save(m, 1.0)))
        medians = {name: statistics.median(values[1:]) * _MS for name, values in times.items()}
        rows.append(_row(f"durable save, {size_bytes // 10**6} MB (ms)", medians))
    return rows


def _loading(peers: dict[str, Any], *, n: int) -> list[list[str]]:
    keys = {name: peer.save(_model(50 * 10**6), 1.0) for name, peer in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(n + 1):
        for name, peer in peers.items():
            times[name].append(_timed(lambda p=peer, k=keys[name]: p.load(k)))
    medians = {name: statistics.median(values[1:]) * _MS for name, values in times.items()}
    return [_row("load, 50 MB, here verified (ms)", medians)]


def _listing(peers: dict[str, Any], *, n: int) -> list[str]:
    for peer in peers.values():
        peer.fill(n)
    ways = {"bare": peers["modelyard"].rows} | {name: p.listed for name, p in peers.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(11):
        for name, way in ways.items():
            gc.collect()  # or whoever's turn it is pays for what all have left
            times[name].append(_timed(way))
    medians = {name: statistics.median(values[1:]) * _MS for name, values in times.items()}
    return _row(f"list {n} sorted by a metric (ms)", medians)


def _processes(folder: Path, *, n_saves: int) -> list[str]:
    rates = {}
    peers = {"bare": Bare, "modelyard": Ours, **(_MLFLOWS if _HAS_MLFLOW else {})}
    for name, kind in peers.items():
        place = folder / f"processes-{name}"
        place.mkdir()
        _touch_memory(folder, 2 * n_saves * _N_PROCESSES * 10**6)
        os.sync()
        kind(place).save(_model(10**6), 0.0)  # MLflow fails where many start from nothing
        rates[name] = _rate(kind, place, n_saves)
    # Of rates, the larger is the better: turned over, they compare as times do.
    return _row(
        f"{_N_PROCESSES} processes save 1 MB (versions per second)",
        {name: 1.0 / rate for name, rate in rates.items()},
        shown={name: f"{rate:.1f}" for name, rate in rates.items()},
    )


def _rate(kind: Any, place: Path, n_saves: int) -> float:
    """Versions per second of processes between a common begin and the end of the last."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(_N_PROCESSES + 1)
    workers = [
        context.Process(target=_work, args=(kind, place, n_saves, barrier))
        for _ in range(_N_PROCESSES)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    took_s = time.perf_counter() - started
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(f"{kind.__name__}: a process failed")
    return _N_PROCESSES * n_saves / took_s


def _work(kind: Any, place: Path, n_saves: int, barrier: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    peer = kind(place)
    model = _model(10**6)
    peer.save(model, 0.0)  # what a process does once
    barrier.wait()
    for turn in range(n_saves):
        with torch.no_grad():
            model.weight[0, 0] = os.getpid() + turn  # other bytes each time
        peer.save(model, float(turn))
    barrier.wait()


def _scale(folder: Path, *, sizes: list[int]) -> list[list[str]]:
    place = folder / "scale"
    place.mkdir()
    ours = Ours(place)
    ours.save(_model(10**4), 0.5)
    rows = []
    there = 1
    for size in sizes:
        ours.fill(size - there)
        there = size
        listing_s = min(_timed(ours.listed) for _ in range(3))
        best_s = statistics.median(_timed(ours.best) for _ in range(200))
        per_version = f"{listing_s / size * 1e6:.1f}"
        rows.append([f"{size:,}", f"{listing_s * _MS:.0f}", per_version, f"{best_s * _MS:.2f}"])
    return rows


def _touch_memory(folder: Path, n_bytes: int) -> None:
    """Fill and free so much of the page cache.

    A virtual machine's memory is slow the first time it is used, and again once the host has taken
    back what was free for some seconds: whoever writes first would seem three times as slow.
    """
    path = folder / "filler"
    chunk = bytes(1 << 24)
    with path.open("wb") as file:
        for _ in range(n_bytes // len(chunk) + 1):
            file.write(chunk)
    path.unlink()


def _timed(way: Callable[[], Any]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def _row(
    what: str, medians: dict[str, float], *, shown: dict[str, str] | None = None
) -> list[str]:
    texts = shown or {name: f"{median:.1f}" for name, median in medians.items()}

    def ratio(first: str, second: str) -> str:
        both = first in medians and second in medians
        return f"{medians[first] / medians[second]:.1f} x" if both else "-"

    return [
        what,
        *(texts.get(name, "-") for name in _NAMES),
        *(ratio(name, "modelyard") for name in _MLFLOWS),
        ratio("modelyard", "bare"),
    ]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # MLflow's own
    main(quick="--quick" in sys.argv)
