"""Chance in training: a function of the seed and the epoch, and nothing left behind.

Every epoch starts from its own seed. An epoch that is run after an interruption therefore draws
what it would have drawn without one; no random state has to be stored, but for generators that
belong to the loader.
"""

import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from modelyard._core.forking import RenewedLock

# The states are the process's: another training's epoch would draw from them, and set them.
_states = RenewedLock(threading.RLock)


@contextmanager
def seeded_epoch(seed: int, epoch: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Global random states set for the epoch inside the block, as they were after it.

    Those are Python's, NumPy's and torch's, of the CPU and of the CUDA devices among `devices`:
    data sets draw from any of them. One thread at a time: trainings in several take turns, epoch
    by epoch. A loader that waits for another training's thread therefore waits for ever.
    """
    cuda = sorted({device for device in devices if device.type == "cuda"}, key=str)
    numbers = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint64)
    with _states.lock:
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state others draw from
        with torch.random.fork_rng(devices=cuda):
            # Not torch.manual_seed, which changes every accelerator for good.
            torch.default_generator.manual_seed(int(numbers[0]))
            for device in cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(int(numbers[0]))
            random.seed(int(numbers[1]))
            np.random.seed(int(numbers[1]) % 2**32)  # noqa: NPY002 - as above
            try:
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)  # noqa: NPY002 - as above


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader or its samplers draw its order from, each once.

    Empty where there are none: the order then comes from torch's global state.
    """
    owners = (
        loader,
        getattr(loader, "sampler", None),
        getattr(loader, "batch_sampler", None),
        getattr(getattr(loader, "batch_sampler", None), "sampler", None),
    )
    found = [getattr(owner, "generator", None) for owner in owners]
    generators = {id(item): item for item in found if isinstance(item, torch.Generator)}
    return list(generators.values())
