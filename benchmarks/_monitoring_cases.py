"""Data on which monitors are tried: nothing changes, or something is known to."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from modelyard.trading.data import load_stocks

Rows = NDArray[np.float64]

WINDOW = 1000
N_BASELINE = 20


@dataclass(frozen=True)
class Case:
    """One kind of data.

    Attributes:
        name: As shown.
        is_changed: Whether the last window differs.
        columns: How many there are.
        n_baseline: Windows of the baseline.
        draw: `draw(rng, n)` gives n rows between which nothing changes.
        change: What is done to the last window.
    """

    name: str
    is_changed: bool
    columns: int
    n_baseline: int
    draw: Callable[[np.random.Generator, int], Rows]
    change: Callable[[Rows], Rows] = lambda rows: rows

    def pairs(self, n_runs: int, *, seed: int) -> Iterator[tuple[Rows, Rows]]:
        """Baseline and window of each run."""
        for run in range(n_runs):
            rng = np.random.default_rng([seed, run])
            rows = self.draw(rng, (self.n_baseline + 1) * WINDOW)
            yield rows[:-WINDOW], self.change(rows[-WINDOW:])


def cases() -> list[Case]:
    """Every case, those without a change first."""
    returns = index_returns()
    calm = [
        Case("normal", False, 1, N_BASELINE, _normal(1)),
        Case(
            "Student t, 3 degrees", False, 1, N_BASELINE, lambda rng, n: rng.standard_t(3, (n, 1))
        ),
        Case("lognormal", False, 1, N_BASELINE, lambda rng, n: rng.lognormal(size=(n, 1))),
        Case("normal, 263 columns", False, 263, 1, _normal(263)),
        *(Case(f"AR({r})", False, 1, N_BASELINE, _autoregression(r, 1)) for r in _MEMORIES),
        Case("AR(0.95), 20 columns", False, 20, N_BASELINE, _autoregression(0.95, 20)),
        Case("index returns", False, 1, N_BASELINE, lambda rng, n: bootstrap(returns, rng, n)),
    ]
    changed = [
        Case("mean + 0.25 sigma", True, 1, N_BASELINE, _normal(1), lambda rows: rows + 0.25),
        Case("mean + 0.5 sigma", True, 1, N_BASELINE, _normal(1), lambda rows: rows + 0.5),
        Case("mean + 1 sigma", True, 1, N_BASELINE, _normal(1), lambda rows: rows + 1.0),
        Case("spread x 1.5", True, 1, N_BASELINE, _normal(1), lambda rows: rows * 1.5),
        Case("1 of 263 + 0.5 sigma", True, 263, 1, _normal(263), _shifted(1)),
        Case("26 of 263 + 0.5 sigma", True, 263, 1, _normal(263), _shifted(26)),
        Case("AR(0.95) + 1 sigma", True, 1, N_BASELINE, _autoregression(0.95, 1), _one_more),
    ]
    return calm + changed


_MEMORIES = (0.5, 0.9, 0.95, 0.99)


def index_returns() -> Rows:
    """Daily log returns of the mean of the five stocks, in units of their spread."""
    stocks = load_stocks().values()
    closes = [dict(zip(stock.dates, stock.close, strict=True)) for stock in stocks]
    days = sorted(set.intersection(*(set(one) for one in closes)))
    returns = np.mean([np.diff(np.log([one[day] for day in days])) for one in closes], axis=0)
    return np.asarray((returns - returns.mean()) / returns.std())


def bootstrap(returns: Rows, rng: np.random.Generator, n: int) -> Rows:
    """`n` returns from stretches of real ones, of 50 days in the mean: nothing changes.

    Source: Politis and Romano (1994), J. American Statistical Association 89, 1303-1313.
    """
    is_start = rng.random(n) < 1.0 / 50.0
    is_start[0] = True
    starts = rng.integers(len(returns), size=n)
    place = np.maximum.accumulate(np.where(is_start, np.arange(n), 0))
    return returns[(starts[place] + np.arange(n) - place) % len(returns)][:, None]


def _normal(columns: int) -> Callable[[np.random.Generator, int], Rows]:
    return lambda rng, n: rng.normal(size=(n, columns))


def _autoregression(r: float, columns: int) -> Callable[[np.random.Generator, int], Rows]:
    def draw(rng: np.random.Generator, n: int) -> Rows:
        noise = rng.normal(size=(n + 1000, columns))
        return np.asarray(lfilter([math.sqrt(1 - r * r)], [1, -r], noise, axis=0)[1000:])

    return draw


def _shifted(n_columns: int) -> Callable[[Rows], Rows]:
    return lambda rows: rows + np.where(np.arange(rows.shape[1]) < n_columns, 0.5, 0.0)


def _one_more(rows: Rows) -> Rows:
    return rows + 1.0
