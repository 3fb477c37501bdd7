"""Monitoring: how often an alarm is false, how often a change is found, and what it costs.

Writes the tables between the markers in `docs/benchmarks.md`. The peers need other versions than
the project pins, so each is run by a Python of its own, or left out:

    python benchmarks/monitoring.py                 # everything
    python benchmarks/monitoring.py alarms          # a part: alarms, peers, speed
    python -m venv peers && peers/bin/pip install evidently nannyml whylogs river "pandas<3"
    python -m venv alibi && alibi/bin/pip install alibi-detect "numpy<2"
    PEERS=peers/bin/python ALIBI=alibi/bin/python python benchmarks/monitoring.py peers speed

Everything is drawn from seeds. Times are medians, taken in one run.
"""

import json
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from _monitoring_cases import WINDOW, Case, cases
from _tables import machine, table, write

from modelyard.monitor import ModelMonitor
from modelyard.monitor.drift.detection import DriftRule, detect_drift
from modelyard.monitor.drift.methods import WASSERSTEIN
from modelyard.monitor.drift.past import PastSketches
from modelyard.monitor.drift.references import reference_of
from modelyard.monitor.drift.sketches import sketch_of

N_RUNS = 500
N_PEER_RUNS = 50
SEED = 7
_RULE = DriftRule(threshold=0.3, window_size=WINDOW)
_PEERS = ("evidently", "nannyml", "alibi-detect", "whylogs", "river ADWIN")
# What the peers are shown: all 263 columns would take Evidently hours.
_SHOWN = (
    "normal",
    "Student t, 3 degrees",
    "lognormal",
    "AR(0.5)",
    "AR(0.95)",
    "AR(0.99)",
    "AR(0.95), 20 columns",
    "index returns",
    "mean + 0.25 sigma",
    "mean + 0.5 sigma",
    "spread x 1.5",
    "AR(0.95) + 1 sigma",
)


def main(parts: list[str]) -> None:
    """Measure the parts named and write their tables."""
    for part in parts:
        text = _PARTS[part]()
        print(text, flush=True)
        write(f"monitoring_{part}", f"Measured on {machine()}.\n\n{text}")


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def _alarms() -> str:
    rows = []
    for case in cases():
        counts = _counts(case)
        rows.append(
            [
                case.name,
                "change" if case.is_changed else "none",
                str(case.columns),
                str(case.n_baseline),
                _percent(counts["baseline"], N_RUNS),
                _percent(counts["past"], N_RUNS) if case.n_baseline > 1 else "",
                _percent(counts["uncalibrated"], N_RUNS) if case.n_baseline > 1 else "",
            ]
        )
        print(rows[-1], flush=True)
    columns = (
        "data",
        "what changed",
        "#columns",
        "#windows of baseline",
        "#drifted",
        "#drifted, calibrated by its own past",
        "#drifted, one window and no past",
    )
    return table(columns, rows)


def _counts(case: Case) -> dict[str, int]:
    """Runs in which the window had drifted, by what the monitor knew."""
    counts = {"baseline": 0, "past": 0, "uncalibrated": 0}
    for baseline, window in case.pairs(N_RUNS, seed=SEED):
        counts["baseline"] += _is_drifted(
            reference_of(baseline, block_size=WINDOW, methods=(WASSERSTEIN,)), window
        )
        if case.n_baseline > 1:
            one = reference_of(baseline[:WINDOW])
            past = [
                sketch_of(baseline[i : i + WINDOW], 50) for i in range(0, len(baseline), WINDOW)
            ]
            counts["past"] += _is_drifted(one, window, past)
            counts["uncalibrated"] += _is_drifted(one, window)
    return counts


def _is_drifted(reference, window, past=()) -> bool:  # noqa: ANN001 - of one module
    return detect_drift(reference, window, PastSketches(past), _RULE).is_drifted


def _peers() -> str:
    shown = [case for case in cases() if case.name in _SHOWN]
    ours = {case.name: 0 for case in shown}
    data = {}
    for case in shown:
        for run, (baseline, window) in enumerate(case.pairs(N_PEER_RUNS, seed=SEED + 1)):
            data[f"{case.name}|baseline|{run}"] = baseline
            data[f"{case.name}|window|{run}"] = window
            reference = reference_of(baseline, block_size=WINDOW, methods=(WASSERSTEIN,))
            ours[case.name] += _is_drifted(reference, window)
    found = _asked(data, _PEERS)
    rows = [
        [
            case.name,
            "change" if case.is_changed else "none",
            _percent(ours[case.name], N_PEER_RUNS),
            *(_told(found.get(peer), case.name) for peer in _PEERS),
        ]
        for case in shown
    ]
    return table(("data", "what changed", "#modelyard", *(f"#{peer}" for peer in _PEERS)), rows)


def _speed() -> str:
    rng = np.random.default_rng(0)
    features, outputs = list(rng.normal(size=(2000, 263))), list(rng.normal(size=(2000, 4)))
    monitor = ModelMonitor("ppo")
    for output, row in zip(outputs, features, strict=True):
        monitor.record_prediction(output, 0.001, row)
    monitor.set_baseline()
    record_us = _median_us(lambda: _record(monitor, outputs, features), 200) / len(outputs)
    table_of_features, table_of_outputs = np.stack(features[:1000]), np.stack(outputs[:1000])
    batch_us = _median_us(
        lambda: monitor.record_batch(table_of_outputs, 0.001, table_of_features), 20
    )
    monitor.get_summary()
    summary_us = _median_us(monitor.get_summary, 500)

    # New rows each time: a window of a few rows over and over would be autocorrelated.
    news = iter(rng.normal(size=(21, 200, 263)))

    def report() -> None:
        monitor.record_batch(table_of_outputs[:200], 0.001, next(news))
        monitor.detect_feature_drift()

    report_ms = _median_us(report, 20) / 1000.0
    data = {
        "wide|baseline|0": table_of_features,
        "wide|window|0": rng.normal(size=(1000, 263)),
    }
    found = _asked(data, ("evidently", "nannyml", "alibi-detect", "whylogs"))
    rows = [
        ["record a prediction, 263 features", f"{record_us:.1f} us", ""],
        ["the same in a batch of 1000", f"{batch_us / 1000:.2f} us", ""],
        ["summary", f"{summary_us:.0f} us", ""],
        ["drift of 1000 x 263", f"{report_ms:.1f} ms", "1x"],
    ]
    rows += [
        [
            f"the same by {peer}",
            _time(answer["wide"]["median_s"]),
            f"{answer['wide']['median_s'] * 1000.0 / report_ms:.0f}x",
        ]
        for peer, answer in found.items()
        if answer
    ]
    return table(("what", "#time", "#of ours"), rows)


_PARTS: dict[str, Callable[[], str]] = {"alarms": _alarms, "peers": _peers, "speed": _speed}


# ── how ─────────────────────────────────────────────────────────────────────────────────────────


def _record(monitor: ModelMonitor, outputs: list, features: list) -> None:
    for output, row in zip(outputs, features, strict=True):
        monitor.record_prediction(output, 0.001, row)


def _median_us(call: Callable[[], object], n: int) -> float:
    call()
    return float(np.median(timeit.repeat(call, number=1, repeat=n))) * 1e6


def _asked(data: dict, peers: tuple[str, ...]) -> dict:
    """What each peer says of the data; None for one that has no Python here."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, **data)
        return {peer: _answer(peer, path) for peer in peers}


def _answer(peer: str, path: Path) -> dict | None:
    python = os.environ.get("ALIBI" if peer == "alibi-detect" else "PEERS")
    if not python:
        return None
    script = Path(__file__).with_name("_monitoring_peers.py")
    done = subprocess.run(
        [python, str(script), peer, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{peer} failed: {done.stderr[-500:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _told(answer: dict | None, case: str) -> str:
    if not answer or case not in answer:
        return "not run"
    return _percent(answer[case]["alarms"], answer[case]["runs"])


def _percent(n: int, n_runs: int) -> str:
    return f"{100.0 * n / n_runs:.1f} %"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1.0 else f"{seconds * 1000.0:.0f} ms"


if __name__ == "__main__":
    main(sys.argv[1:] or list(_PARTS))
