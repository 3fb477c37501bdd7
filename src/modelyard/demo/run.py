"""`run_demo`: every step of the lifecycle on real market data."""

from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.files import write_text
from modelyard._core.ids import timestamp_of
from modelyard.demo.report import demo_report
from modelyard.demo.sources import (
    crisis_stream,
    other_models,
    policy_source,
    transformer_source,
)
from modelyard.pipeline import (
    CompressionPlan,
    LifecycleSettings,
    RichProgress,
    run_lifecycle,
)
from modelyard.reporting import render
from modelyard.torchtools.inputs import call
from modelyard.trading import TradingChain, compare_with_baselines, presets, train_chain
from modelyard.trading.backtesting import Backtest

# Two hundred predictions a window give twelve windows in the calm years, which is what the
# monitor needs to calibrate its threshold.
_WINDOW = 200


def run_demo(
    out: Path, *, quick: bool, seed: int, console: Console, clock: Clock | None = None
) -> Path:
    """Train, compress, save, export, serve, test, watch, roll out and roll back.

    Every run has a folder of its own under `out`, so that nothing of an earlier one is touched.

    Args:
        out: Folder that holds the runs.
        quick: The smallest chain that still does everything.
        seed: Same seed, same weights, metrics and scores.
        console: Where progress and results are written.
        clock: Where the time comes from.

    Returns:
        Path of the HTML report.
    """
    clock = clock or SystemClock()
    started = clock.now()
    folder = _new_folder(out, started)
    progress = RichProgress(console)
    with progress.stage("Train TS2Vec, Transformer and PPO on five stocks"):
        settings = presets.quick() if quick else presets.small()
        chain = train_chain(settings, seed=seed, progress=progress.share)
        progress.line(
            f"trained until {settings.train_end}, {len(chain.paths)} stocks, seed {seed}"
        )
    with progress.stage("Evaluate on held-out years"):
        backtests = _evaluated(chain, seed=seed)
        for name, backtest in backtests.items():
            progress.line(_figures(name, backtest))
    stream = crisis_stream(chain)
    result = run_lifecycle(
        [policy_source(chain, seed=seed), transformer_source(chain, seed=seed)],
        stream,
        _settings(folder, quick=quick, seed=seed),
        folder / "registry",
        progress,
        others=other_models(chain),
        clock=clock,
    )
    report = demo_report(chain, backtests, result, stream, generated_at=clock.now())
    path = folder / "report.html"
    write_text(path, render(report))
    _say_goodbye(console, result.registry.base_dir, clock.now() - started)
    return path


def _settings(folder: Path, *, quick: bool, seed: int) -> LifecycleSettings:
    return LifecycleSettings(
        compression=CompressionPlan(epochs=3 if quick else 20, seed=seed),
        inference={"device": "cpu", "batch_size": 32, "seed": seed},
        window_size=_WINDOW,
        log_dir=str(folder / "logs"),
        update={"min_samples": _WINDOW, "transition_minutes": 5.0},
    )


def _evaluated(chain: TradingChain, *, seed: int) -> dict[str, Backtest]:
    return dict(
        compare_with_baselines(
            lambda states: call(chain.models.policy, states),
            chain.held_out_paths(),
            rng=np.random.default_rng(seed),
            cost_rate=chain.settings.cost_rate,
        )
    )


def _figures(name: str, backtest: Backtest) -> str:
    m = backtest.metrics
    return (
        f"{name.replace('_', ' '):13} Sharpe {m['sharpe']:.2f}  growth {m['cagr']:6.1%} a year  "
        f"largest fall {m['max_dd']:.0%}  winning days {m['win_rate']:.0%}"
    )


def _new_folder(out: Path, started: datetime) -> Path:
    name = timestamp_of(started)
    for attempt in range(1, 1000):
        folder = out / (name if attempt == 1 else f"{name}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{out / name} and a thousand like it exist.")


def _say_goodbye(console: Console, registry: Path, took: object) -> None:
    console.print(
        f"\nLook around: modelyard versions list --base-dir {registry}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"[dim]{str(took).split('.')[0]} in all[/dim]", highlight=False)
