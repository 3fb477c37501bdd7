"""Chance as an argument: code that needs randomness takes a `numpy.random.Generator`."""

import numpy as np


def generator(seed: int | None) -> np.random.Generator:
    """A generator for `seed`; None gives one that nobody can predict."""
    return np.random.default_rng(seed)
