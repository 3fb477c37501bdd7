"""A batching engine: many callers, one model, nobody waits for a batch to fill.

Example:
    >>> import asyncio
    >>> from modelyard.inference_optimizer.engine import Engine
    >>> async def main():
    ...     async with Engine(lambda xs: [2 * x for x in xs], max_batch=32) as engine:
    ...         return await asyncio.gather(*(engine.apredict(i) for i in range(3)))
    >>> asyncio.run(main())
    [0, 2, 4]
"""

from modelyard.inference_optimizer.engine.batching import Engine
from modelyard.inference_optimizer.engine.stats import DispatchReasons, EngineStats, Rejections

__all__ = ["DispatchReasons", "Engine", "EngineStats", "Rejections"]
