"""The demo's report: the trading chain first, then every stage of the lifecycle."""

from datetime import datetime

from modelyard.pipeline import LifecycleResult, Stream
from modelyard.pipeline.report import headline, lifecycle_sections
from modelyard.reporting import (
    Chart,
    Note,
    Report,
    Section,
    Table,
    equity_curves,
    training_curves,
)
from modelyard.trading import TradingChain
from modelyard.trading.backtesting import Backtest

_METRICS = ("sharpe", "cagr", "max_dd", "win_rate")


def demo_report(
    chain: TradingChain,
    backtests: dict[str, Backtest],
    result: LifecycleResult,
    stream: Stream,
    *,
    generated_at: datetime,
) -> Report:
    """The whole report."""
    return Report(
        title="From training to production and back",
        subtitle=(
            f"TS2Vec, a Transformer and a PPO policy on five stocks, 2000 to 2013; trained until "
            f"{chain.settings.train_end}, seed {chain.seed}"
        ),
        generated_at=generated_at,
        sections=[
            Section("In short", "", [headline(result)]),
            _trading_section(chain, backtests),
            *lifecycle_sections(result, stream),
        ],
    )


def _trading_section(chain: TradingChain, backtests: dict[str, Backtest]) -> Section:
    curves = {name.replace("_", " "): (b.dates, b.equity) for name, b in backtests.items()}
    baselines = [name for name in curves if name != "strategy"]
    table = Table(
        ["", *_METRICS],
        [
            [name.replace("_", " "), *(b.metrics[metric] for metric in _METRICS)]  # type: ignore[literal-required]  # names of its keys
            for name, b in backtests.items()
        ],
        caption="Held-out days, costs of 10 basis points of turnover paid.",
        formats={"sharpe": ".2f", "cagr": ".1%", "max_dd": ".1%", "win_rate": ".1%"},
    )
    training = training_curves(
        {
            "TS2Vec": chain.curves.ts2vec_loss,
            "Transformer": chain.curves.transformer_loss,
            "PPO, mean episode return (%)": chain.curves.policy_episode_return,
        },
        y_title="",
    )
    note = Note(
        "info",
        "Nothing is claimed for the strategy: it is here so that versions, compression and "
        "rollouts have a real model to work on. Buy-and-hold and random stand beside it.",
    )
    return Section(
        "The models",
        "The policy on years it was not trained on, beside holding every stock and acting at "
        "random.",
        [
            Chart(equity_curves(curves, baselines=baselines), "Value of 1 invested."),
            table,
            note,
            Chart(training, "Loss by iteration; for PPO the return of an episode by update."),
        ],
    )
