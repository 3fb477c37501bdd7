"""The choice of backends: which to try, whether they answer as eager does, which is the fastest.

`chosen` is the way in. `contenders` says what is worth trying, `sampling`, `rounding` and
`checking` compare answers, `probing` does so in another process first, `racing` times, `deciding`
decides, `rows` and `explaining` tell, `record` keeps.
"""

from modelyard.inference_optimizer.tuning.checking import are_within
from modelyard.inference_optimizer.tuning.choosing import Choice, chosen, sizes_that_matter
from modelyard.inference_optimizer.tuning.contenders import (
    BACKENDS,
    REDUCED_PRECISION_TOLERANCE,
    tolerance_of,
)
from modelyard.inference_optimizer.tuning.explaining import explain
from modelyard.inference_optimizer.tuning.hardware import hardware_of
from modelyard.inference_optimizer.tuning.record import TuningRecord, Winner

__all__ = [
    "BACKENDS",
    "REDUCED_PRECISION_TOLERANCE",
    "Choice",
    "TuningRecord",
    "Winner",
    "are_within",
    "chosen",
    "explain",
    "hardware_of",
    "sizes_that_matter",
    "tolerance_of",
]
