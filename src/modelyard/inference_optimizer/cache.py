"""An exact cache of answers: least recently used goes first."""

import threading
from collections import OrderedDict
from typing import Any

import torch
import xxhash

from modelyard.inference_optimizer.records import CacheStats
from modelyard.torchtools.inputs import Inputs, tensors_of


def key_of(inputs: Inputs) -> bytes | None:
    """A key that two inputs share only if they are equal bit for bit (128-bit hash).

    Shapes and dtypes are part of it; NaN and -0.0 are told apart by their bits. None for what
    cannot be hashed cheaply: a tensor on a GPU.
    """
    digest = xxhash.xxh3_128()
    if isinstance(inputs, dict):
        digest.update(repr(tuple(inputs)).encode())
    for tensor in tensors_of(inputs):
        if tensor.device.type != "cpu":
            return None
        plain = tensor.detach().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


class AnswerCache:
    """Answers by the key of their input. Thread-safe: one lock guards everything.

    Args:
        max_size: How many answers are kept; 0 keeps none.
    """

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self._lock = threading.Lock()
        self._answers: OrderedDict[bytes, Any] = OrderedDict()
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    def get(self, key: bytes) -> Any | None:
        """The answer kept for `key`, or None. The caller must not change it."""
        with self._lock:
            answer = self._answers.get(key)
            if answer is None:
                self._misses += 1
                return None
            self._hits += 1
            self._answers.move_to_end(key)
            return answer

    def put(self, key: bytes, answer: Any) -> None:
        """Keep an answer; the caller gives it away."""
        with self._lock:
            self._answers[key] = answer
            self._answers.move_to_end(key)
            if len(self._answers) > self.max_size:
                self._answers.popitem(last=False)
                self._evictions += 1

    def clear(self) -> None:
        """Forget every answer; the counts stay."""
        with self._lock:
            self._answers.clear()

    def stats(self) -> CacheStats:
        """Counts since the start."""
        with self._lock:
            looked_up = self._hits + self._misses
            return {
                "hits": self._hits,
                "misses": self._misses,
                "hit_rate": self._hits / looked_up if looked_up else 0.0,
                "size": len(self._answers),
                "max_size": self.max_size,
                "evictions": self._evictions,
            }
