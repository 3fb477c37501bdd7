"""Training draws from global generators (torch, stable-baselines3): borrowed and given back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated(*, seed: int, n_threads: int) -> Iterator[None]:
    """Global generators seeded and torch's thread count set; both restored on the way out.

    Not for two threads at once: the generators are the process's.
    """
    threads_before = torch.get_num_threads()
    python_before = random.getstate()
    numpy_before = np.random.get_state()  # noqa: NPY002 - stable-baselines3 seeds the global one
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            torch.set_num_threads(n_threads)
            yield
    finally:
        torch.set_num_threads(threads_before)
        random.setstate(python_before)
        np.random.set_state(numpy_before)  # noqa: NPY002 - as above
