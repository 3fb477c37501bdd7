"""A stream of inputs: answers in order, memory for two chunks, preparing beside computing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Stands in the place of an answer; the stream raises its error there."""

    error: Exception


Compute = Callable[[Sequence[Any]], list[Any]]


def streamed(xs: Iterable[Any], compute: Compute, *, chunk_size: int) -> Iterator[Any]:
    """The answer to each input, in order, as they are asked for.

    The caller's thread takes inputs from `xs`, so they may come from whatever is bound to it (a
    database connection, say), while one thread of its own computes the chunk before. At most two
    chunks are held. An error of `xs` comes after the answers to what it gave before.

    Args:
        xs: The inputs.
        compute: The answers to several inputs, in order.
        chunk_size: Inputs taken at a time.
    """
    inputs = iter(xs)
    with ThreadPoolExecutor(1, thread_name_prefix="modelyard-stream") as worker:
        running: Future[list[Any]] | None = None
        end: Exception | None = None
        while end is None:
            chunk: list[Any] = []
            while len(chunk) < chunk_size and end is None:
                if running is not None and running.done():
                    # A slow source does not hold back answers that are there.
                    yield from _given(running)
                    running = None
                try:
                    chunk.append(next(inputs))
                except Exception as error:  # noqa: BLE001 - raised again in its place
                    end = error
            following = worker.submit(compute, chunk) if chunk else None
            if running is not None:
                yield from _given(running)
            running = following
        if running is not None:
            yield from _given(running)
        if not isinstance(end, StopIteration):
            raise end


def _given(running: "Future[list[Any]]") -> Iterator[Any]:
    for answer in running.result():
        if isinstance(answer, Failure):
            raise answer.error
        yield answer
