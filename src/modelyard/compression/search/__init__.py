"""Searching for the best way to compress a model under limits on quality, size and speed.

Levels of structured pruning, each mended by distillation, are combined with the recipes of
quantization. The search leaves out what cannot win any more: levels beyond one that lost too much
already, recipes whose file is over the size wanted, and whatever the time is too short for.
"""

from modelyard.compression.search.candidates import SearchLimits
from modelyard.compression.search.running import Found, searched
from modelyard.compression.search.telling import Progress

__all__ = ["Found", "Progress", "SearchLimits", "searched"]
