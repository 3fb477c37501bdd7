"""Posteriors of the variants' means, and the chance of each to be the best.

The chance that variant i is best is the integral of f_i times the distribution functions of all
the others. It is found by Gauss-Legendre quadrature on panels that lie as close as the narrowest
posterior needs; many posteriors are done at once. The error is below 1e-6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

_N_NODES = 4
_MOST_VALUES = 15_000  # of a density at once: they stay in the cache
# Ends of the panels, in standard deviations from the centre. A Beta posterior's tail falls as an
# exponential (of log odds), a normal one's faster.
_NORMAL_EDGES = (-9.0, -6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0)
_TAIL = (6.0, 8.0, 11.0, 16.0, 24.0, 36.0)
_BETA_EDGES = (*(-x for x in reversed(_TAIL)), *_NORMAL_EDGES[2:-2], *_TAIL)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is known of the variants' means.

    Attributes:
        kind: `beta` or `normal`.
        first: Of each variant: 1 + its wins (beta), or the mean (normal; minus infinity for a
            variant that cannot be chosen).
        second: Of each variant: 1 + its losses (beta), or the standard deviation (normal).
    """

    kind: Literal["beta", "normal"]
    first: tuple[float, ...]
    second: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> int:
        """Index of the variant whose draw is the largest."""
        if self.kind == "normal":
            noise = rng.standard_normal(len(self.first)).tolist()
            draws = [
                mean + deviation * z
                for mean, deviation, z in zip(self.first, self.second, noise, strict=True)
            ]
        else:
            # A Beta draw is a / (a + b) of two Gamma draws; one call is quicker than many.
            gammas = rng.standard_gamma(self.first + self.second).tolist()
            n = len(self.first)
            draws = [a / (a + b) for a, b in zip(gammas[:n], gammas[n:], strict=True)]
        return draws.index(max(draws))


def chances_of_best(posteriors: Sequence[Posterior]) -> list[list[float]]:
    """Chance of each variant to be the best, for each posterior; they add up to 1."""
    chances: list[list[float]] = [[]] * len(posteriors)
    alike: dict[tuple[str, int], list[int]] = {}
    for place, posterior in enumerate(posteriors):
        alike.setdefault((posterior.kind, len(posterior.first)), []).append(place)
    for (kind, n_variants), places in alike.items():
        edges = _NORMAL_EDGES if kind == "normal" else _BETA_EDGES
        step = max(1, _MOST_VALUES // (len(edges) * _N_NODES * n_variants**2))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            first = np.array([posteriors[place].first for place in some])
            second = np.array([posteriors[place].second for place in some])
            found = _normal(first, second) if kind == "normal" else _beta(first, second)
            for place, row in zip(some, found.tolist(), strict=True):
                chances[place] = row
    return chances


def _normal(means: Array, deviations: Array) -> Array:
    # A variant that cannot be chosen lies far below all others.
    lowest = np.min(means, axis=1, where=np.isfinite(means), initial=np.inf)[:, None]
    far = lowest - 40.0 * deviations.max(axis=1)[:, None]
    means = np.where(np.isfinite(means), means, far)

    def density(x: Array) -> Array:
        z = (x[..., None] - means[:, None, None]) / deviations[:, None, None]
        return np.exp(-0.5 * z * z) / (deviations * math.sqrt(2.0 * math.pi))[:, None, None]

    return _best(density, _edges(means, deviations, _NORMAL_EDGES))


def _beta(wins: Array, losses: Array) -> Array:
    """By log odds, where the density is x^a (1 - x)^b / B(a, b), smooth at both ends."""
    log_norm = special.betaln(wins, losses)

    def density(log_odds: Array) -> Array:
        log_x = -np.logaddexp(0.0, -log_odds)[..., None]
        log_rest = -np.logaddexp(0.0, log_odds)[..., None]
        exponent = wins[:, None, None] * log_x + losses[:, None, None] * log_rest
        return np.exp(exponent - log_norm[:, None, None])

    centres, deviations = np.log(wins / losses), np.sqrt(1.0 / wins + 1.0 / losses)
    return _best(density, _edges(centres, deviations, _BETA_EDGES))


def _edges(centres: Array, deviations: Array, steps: Sequence[float]) -> Array:
    """Ends of the panels, sorted, from where the best could be lowest; shape (n, edges)."""
    edges = centres[..., None] + deviations[..., None] * np.array(steps)
    lowest = edges[..., 0].max(axis=1)[:, None]
    return np.sort(np.maximum(edges.reshape(len(edges), -1), lowest), axis=1)


def _best(density: Any, edges: Array) -> Array:
    nodes, weights, integrals = _rule()
    left, width = edges[:, :-1], np.diff(edges, axis=1)
    values = density(left[..., None] + width[..., None] * nodes)  # (n, panels, nodes, variants)
    weighted = values * (width[..., None] * weights)[..., None]
    panels = weighted.sum(axis=2)
    # Mass above the right end of each panel; what lies above all edges is next to nothing.
    above = np.cumsum(panels[:, ::-1], axis=1)[:, ::-1] - panels
    rest = np.einsum("gm,npmk->npgk", integrals, values) * width[..., None, None]
    below = np.clip(1.0 - above[:, :, None] - rest, 0.0, 1.0)
    chances: Array = (weighted * _product_of_others(below)).sum(axis=(1, 2))
    normed: Array = chances / chances.sum(axis=1, keepdims=True)
    return normed


def _product_of_others(values: Array) -> Array:
    """Along the last axis, the product of all values but one's own (zeros allowed)."""
    before, after = np.ones_like(values), np.ones_like(values)
    np.cumprod(values[..., :-1], axis=-1, out=before[..., 1:])
    np.cumprod(values[..., :0:-1], axis=-1, out=after[..., -2::-1])
    return before * after


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array, Array]:
    """Nodes and weights on [0, 1], and the integrals from each node to 1 of the basis there."""
    nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
    nodes, weights = (nodes + 1.0) / 2.0, weights / 2.0
    powers = np.arange(_N_NODES)
    # What integrates each power exactly, in terms of the values at the nodes.
    of_powers = (1.0 - nodes[:, None] ** (powers + 1)) / (powers + 1)
    integrals = of_powers @ np.linalg.inv(nodes[:, None] ** powers)
    return nodes, weights, integrals
