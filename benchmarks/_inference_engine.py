"""The batching engine under load: its throughput beside the model's own, and what overload costs.

Each function gives plain rows, one for a contender. Callers, batcher and model share one process
and one event loop; the model is an ONNX Runtime session on one thread, arrays in and out. Where
BentoML or LitServe can be imported, their batchers run the same model under the same load.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _inference_engine_contenders import (
    CONTENDERS,
    MAX_BATCH,
    Array,
    Contender,
    RunBatch,
    optimizer_engine,
)
from numpy.typing import NDArray
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.onnx_module import make_session

MODELS = {"small MLP": (256, 2), "PPO 50 MB": (2432, 3)}
"""Width and number of the hidden layers, by name."""

WIDTH = 263
N_CALLERS = 32
LIMIT_MS = 20.0
LOAD = 1.3
MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class ThroughputRow:
    """Closed loop: so many callers, each asks anew when it has its answer.

    Attributes:
        model: A key of `MODELS`.
        contender: Who batched.
        requests_per_s: Answers a second.
        ceiling_per_s: What the model does in batches of 32 without anything around it.
        share: The one over the other.
        us_per_request: Above the model's own time.
    """

    model: str
    contender: str
    requests_per_s: float
    ceiling_per_s: float
    share: float
    us_per_request: float


@dataclass(frozen=True, kw_only=True)
class OverloadRow:
    """Open loop: requests come at random times, faster than they can be answered.

    Attributes:
        model: A key of `MODELS`.
        contender: Who batched.
        offered_per_s: Requests a second.
        in_time_share: Of all requests, answered within the limit.
        late_share: Answered after it.
        refused_share: Given an error.
        worst_ms: Longest time to an answer.
        limit_ms: What counts as in time.
    """

    model: str
    contender: str
    offered_per_s: float
    in_time_share: float
    late_share: float
    refused_share: float
    worst_ms: float
    limit_ms: float


def policy_of(name: str) -> nn.Module:
    """A model of `MODELS`."""
    width, n_layers = MODELS[name]
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(n_layers):
        layers += [nn.Linear(width if i else WIDTH, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4)).eval()


def rows(
    wanted: Sequence[str] = ("throughput", "overload"),
) -> tuple[list[ThroughputRow], list[OverloadRow]]:
    """Both tables, the engine also as the optimizer makes it."""
    throughputs: list[ThroughputRow] = []
    overloads: list[OverloadRow] = []
    for name in MODELS:
        model, example = policy_of(name), torch.zeros(2, WIDTH)
        run = runner_of(make_session(to_runnable(model, example).data, threads=1))
        optimizer = InferenceOptimizer(
            model, device="cpu", batch_size=MAX_BATCH, cache_size=0, backend="onnxruntime"
        )
        optimizer.optimize_for_inference(example)
        contenders = {**CONTENDERS, "modelyard, model and all": optimizer_engine(optimizer)}
        if "throughput" in wanted:
            throughputs += throughput(name, run, contenders)
        # The small model answers faster than one process can ask.
        if "overload" in wanted and name != "small MLP":
            overloads += overload(name, run, contenders)
    return throughputs, overloads


def runner_of(session: Any) -> RunBatch:
    """What runs a list of rows through a session with one input."""
    name = session.get_inputs()[0].name

    def run(rows: list[Array]) -> Array:
        outputs: list[Array] = session.run(None, {name: np.concatenate(rows)})
        return outputs[0]

    return run


def inputs(n: int) -> list[Array]:
    """Rows to ask for."""
    drawn = np.random.default_rng(0).standard_normal((n, 1, WIDTH), np.float32)
    return [*drawn]


def ceiling_per_s(run: RunBatch, *, duration_s: float = 1.0) -> float:
    """Answers a second in full batches with nothing around them, by the median batch."""
    rows = inputs(MAX_BATCH)
    durations_s = []
    end_s = time.perf_counter() + duration_s
    while time.perf_counter() < end_s:
        started_s = time.perf_counter()
        run(rows)
        durations_s.append(time.perf_counter() - started_s)
    return float(MAX_BATCH / np.median(durations_s))


# ── closed loop ─────────────────────────────────────────────────────────────────────────────────


def throughput(
    name: str, run: RunBatch, contenders: dict[str, Contender], *, n_rounds: int = 3
) -> list[ThroughputRow]:
    """Answers a second with 32 callers, in rounds; the bare model takes its turn in each."""
    ceilings: list[float] = []
    rates: dict[str, list[float]] = {contender: [] for contender in contenders}
    for _ in range(n_rounds):
        ceilings.append(ceiling_per_s(run))
        for contender, make in contenders.items():
            rates[contender].append(asyncio.run(_closed_loop(make, run)))
    ceiling = float(np.median(ceilings))
    return [
        ThroughputRow(
            model=name,
            contender=contender,
            requests_per_s=rate,
            ceiling_per_s=ceiling,
            share=rate / ceiling,
            us_per_request=1e6 / rate - 1e6 / ceiling,
        )
        for contender, rate in ((c, float(np.median(r))) for c, r in rates.items())
    ]


async def _closed_loop(make: Contender, run: RunBatch, *, duration_s: float = 2.0) -> float:
    async with make(run, None) as ask:
        count = [0] * N_CALLERS
        is_over = False

        async def caller(i: int, row: Array) -> None:
            while not is_over:
                await ask(row)
                count[i] += 1

        tasks = [asyncio.ensure_future(caller(i, row)) for i, row in enumerate(inputs(N_CALLERS))]
        await asyncio.sleep(duration_s / 4)  # to settle
        before, started_s = sum(count), time.perf_counter()
        await asyncio.sleep(duration_s)
        rate = (sum(count) - before) / (time.perf_counter() - started_s)
        is_over = True
        await asyncio.gather(*tasks)
    return rate


# ── open loop ───────────────────────────────────────────────────────────────────────────────────


def overload(
    name: str, run: RunBatch, contenders: dict[str, Contender], *, duration_s: float = 4.0
) -> list[OverloadRow]:
    """What becomes of requests that come at 130 % of what the model can do, limit 20 ms."""
    offered_per_s = LOAD * ceiling_per_s(run)
    rows = []
    for contender, make in contenders.items():
        took_ms = asyncio.run(_open_loop(make, run, offered_per_s, duration_s))
        answered = took_ms[np.isfinite(took_ms)]
        n_in_time = int((answered <= LIMIT_MS).sum())
        rows.append(
            OverloadRow(
                model=name,
                contender=contender,
                offered_per_s=offered_per_s,
                in_time_share=n_in_time / len(took_ms),
                late_share=(len(answered) - n_in_time) / len(took_ms),
                refused_share=1 - len(answered) / len(took_ms),
                worst_ms=float(answered.max(initial=0.0)),
                limit_ms=LIMIT_MS,
            )
        )
    return rows


async def _open_loop(
    make: Contender, run: RunBatch, offered_per_s: float, duration_s: float
) -> NDArray[np.float64]:
    """Milliseconds from a request's due time to its answer; infinite for those refused."""
    rng = np.random.default_rng(0)
    n = int(offered_per_s * duration_s)
    due_s = np.cumsum(rng.exponential(1 / offered_per_s, n)).tolist()
    took_ms = np.full(n, np.inf)
    rows = inputs(64)
    async with make(run, LIMIT_MS) as ask:
        for _ in range(20):  # so that every contender knows how long a full batch takes
            await asyncio.gather(*(_quiet(ask(row)) for row in rows[:MAX_BATCH]))
        start_s = time.perf_counter()

        async def one(i: int) -> None:
            try:
                await ask(rows[i % len(rows)])
            except Exception:  # noqa: BLE001 - every contender refuses with errors of its own
                return
            took_ms[i] = (time.perf_counter() - start_s - due_s[i]) * MS_PER_S

        running: set[asyncio.Task[None]] = set()
        for i in range(n):
            wait_s = start_s + due_s[i] - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif i % 16 == 0:
                await asyncio.sleep(0)
            task = asyncio.ensure_future(one(i))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running, timeout=10)
        for task in running:
            task.cancel()
    return took_ms


async def _quiet(answer: Awaitable[Any]) -> None:
    try:
        await answer
    except Exception:  # noqa: BLE001 - warm-up
        return
