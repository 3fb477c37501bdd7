"""A few looks, planned by their share of the information: Lan and DeMets' alpha spending."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from modelyard._core.errors import ConfigError
from modelyard.stats.intervals import alpha_of

Spending = Literal["obrien_fleming", "pocock"]

# Standard deviations beyond which a density leaves the floats. Less would do for the chances, but
# early critical values of O'Brien and Fleming's kind lie at 20 and depend on such tails.
_REACH = 38.0
# Nodes for each standard deviation of a step: the integrand is a Gaussian of that width. In the
# middle, where nodes are farthest apart, this leaves an error of 1e-15.
_NODES_PER_STEP = 3.0
# Numbers of nodes are multiples of this, so that few sets are worked out.
_NODES_BY = 64
# Information between two looks, in the whole: those closer need more nodes than they are worth.
_CLOSEST = 1e-4
# Where a normal tail leaves the floats.
_FARTHEST = 40.0
_SMALLEST = 1e-300


def boundaries(
    fractions: Sequence[float], *, alpha: float = 0.05, spending: Spending = "obrien_fleming"
) -> NDArray[np.float64]:
    """Two-sided critical values, in standard errors, at each look.

    All looks together call a difference of nothing significant with chance `alpha` (spent up to
    the last fraction given). The times of looks need not be fixed before; the information that
    counts as 1 must be, and when to look may not depend on what was seen.

    Args:
        fractions: Information at each look over the final one, rising, each in (0, 1].
        alpha: Accepted chance of a false alarm, both sides together.
        spending: `obrien_fleming` (hardly anything early) or `pocock` (evenly).

    Returns:
        One critical value a look; infinite where nothing measurable may be spent yet.

    Raises:
        ConfigError: Fractions not rising within (0, 1] or closer than 1e-4, or another spending.

    Source:
        Lan and DeMets (1983), Biometrika 70, 659-663; recursion: Armitage, McPherson and Rowe
        (1969), J. Royal Statistical Society A 132, 235-244.
    """
    times = _checked(fractions)
    alpha_of(1.0 - alpha)
    spent = [_spent(time, alpha, spending) for time in times]
    path = _Path()
    criticals = []
    for time, after, before, now in zip(times, _next(times), [0.0, *spent], spent, strict=False):
        step = path.to(time)
        criticals.append(step.critical(now - before))
        path = step.stopped_at(criticals[-1], after)
    return np.asarray(criticals)


def crossing_probability(
    fractions: Sequence[float], criticals: Sequence[float], *, drift: float = 0.0
) -> float:
    """Chance that the difference is called significant at any of the looks.

    Args:
        fractions: As `boundaries`.
        criticals: Two-sided critical values in standard errors, one a look.
        drift: Expected difference in standard errors where the fraction is 1.

    Raises:
        ConfigError: Fractions not rising within (0, 1].
    """
    path, total = _Path(), 0.0
    times = _checked(fractions)
    for time, after, critical in zip(times, _next(times), criticals, strict=True):
        step = path.to(time, drift=drift)
        total += step.beyond(critical)
        path = step.stopped_at(critical, after)
    return min(total, 1.0)


class _Path:
    """Density of the score process (variance = time) of those not stopped, at quadrature nodes."""

    def __init__(
        self,
        time: float = 0.0,
        nodes: NDArray[np.float64] | None = None,
        masses: NDArray[np.float64] | None = None,
    ) -> None:
        self.time = time
        self.nodes = np.zeros(1) if nodes is None else nodes
        self.masses = np.ones(1) if masses is None else masses

    def to(self, time: float, *, drift: float = 0.0) -> "_Step":
        """The step to the next look."""
        return _Step(self, time, drift)


class _Step:
    """From one look to the next."""

    def __init__(self, path: _Path, time: float, drift: float) -> None:
        self._masses = path.masses
        self._time = time
        self._width = math.sqrt(time - path.time)
        self._centres = path.nodes + drift * (time - path.time)
        self._middle = drift * time

    def beyond(self, critical: float) -> float:
        """Chance to be beyond `critical` standard errors now, not having stopped before."""
        edge = critical * math.sqrt(self._time)
        above = special.ndtr((self._centres - edge) / self._width)
        below = special.ndtr((-edge - self._centres) / self._width)
        return float(self._masses @ (above + below))

    def critical(self, probability: float) -> float:
        """The critical value that `beyond` gives this probability."""
        if probability < _SMALLEST:
            return math.inf

        def excess(critical: float) -> float:
            return self.beyond(critical) / probability - 1.0

        return float(optimize.brentq(excess, 0.0, _FARTHEST, xtol=1e-12))

    def stopped_at(self, critical: float, after: float) -> _Path:
        """The paths that go on, at nodes close enough for the step to the time `after`."""
        root = math.sqrt(self._time)
        low = max(-critical * root, self._middle - _REACH * root)
        high = min(critical * root, self._middle + _REACH * root)
        if high <= low:
            return _Path(self._time, np.zeros(0), np.zeros(0))
        narrowest = min(self._width, math.sqrt(after - self._time))
        n_nodes = _NODES_PER_STEP * (high - low) / narrowest
        points, weights = _gauss_legendre(math.ceil(n_nodes / _NODES_BY) * _NODES_BY)
        nodes = low + (points + 1.0) * (high - low) / 2.0
        distances = (nodes[:, None] - self._centres) / self._width
        density = np.exp(-0.5 * distances * distances) @ self._masses
        scale = (high - low) / 2.0 / (self._width * math.sqrt(2.0 * math.pi))
        return _Path(self._time, nodes, weights * density * scale)


@lru_cache(maxsize=64)
def _gauss_legendre(n_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = special.roots_legendre(n_nodes)
    return points, weights


def _spent(time: float, alpha: float, spending: Spending) -> float:
    if spending == "obrien_fleming":
        # Each side spends its half of alpha.
        return 4.0 * float(special.ndtr(special.ndtri(alpha / 4.0) / math.sqrt(time)))
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1.0) * time)
    raise ConfigError(f"spending must be obrien_fleming or pocock, got {spending!r}.")


def _next(times: Sequence[float]) -> list[float]:
    """When the next look is; after the last one, a time that asks for no more nodes."""
    return [*times[1:], times[-1] + 1.0]


def _checked(fractions: Sequence[float]) -> list[float]:
    times = [float(fraction) for fraction in fractions]
    gaps = np.diff([0.0, *times])
    if not times or not (gaps >= _CLOSEST).all() or times[-1] > 1.0:
        raise ConfigError(
            f"fractions must rise to at most 1, each at least {_CLOSEST} above the last, got "
            f"{times}."
        )
    return times
