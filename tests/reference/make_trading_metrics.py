"""Writes `trading_metrics.json` with two independent libraries. Run by hand, in a venv of its own:

python -m venv reference-env
reference-env/bin/pip install empyrical-reloaded==0.7.1 quantstats==0.0.86
reference-env/bin/python tests/reference/make_trading_metrics.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import empyrical
import numpy as np
import pandas as pd
import quantstats

SERIES = {
    "normal": lambda rng: rng.normal(0.0005, 0.01, 600),
    "losing": lambda rng: rng.normal(-0.001, 0.02, 300),
    "heavy_tails": lambda rng: 0.01 * rng.standard_t(3, 500).clip(-9, 9),
    "often_flat": lambda rng: rng.normal(0.001, 0.01, 400) * (rng.random(400) < 0.4),
    "falls_from_the_start": lambda _: np.array([-0.1, -0.2, 0.05, 0.3, -0.01]),
    "two_days": lambda _: np.array([0.01, -0.02]),
}


def main() -> None:
    """Write the reference numbers beside this script."""
    rng = np.random.default_rng(20240101)
    packages = ("empyrical-reloaded", "quantstats", "numpy", "pandas")
    cases = [case(name, draw(rng)) for name, draw in SERIES.items()]
    content = {"made_with": {name: version(name) for name in packages}, "cases": cases}
    path = Path(__file__).with_name("trading_metrics.json")
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def case(name: str, returns: np.ndarray) -> dict:
    """One series with the figures of both libraries."""
    series = pd.Series(returns, index=pd.bdate_range("2001-01-01", periods=len(returns)))
    return {
        "name": name,
        "returns": returns.tolist(),
        "empyrical": {
            "sharpe": float(empyrical.sharpe_ratio(series)),
            "cagr": float(empyrical.cagr(series)),
            "max_dd": -float(empyrical.max_drawdown(series)),
        },
        "quantstats": {
            "sharpe": float(quantstats.stats.sharpe(series)),
            "max_dd": -float(quantstats.stats.max_drawdown(series)),
            "win_rate": float(quantstats.stats.win_rate(series)),
        },
    }


if __name__ == "__main__":
    main()
