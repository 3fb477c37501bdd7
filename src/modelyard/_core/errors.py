"""Every error modelyard raises.

Each derives from `ModelyardError` and from the built-in a caller would expect, so that both
`except ModelyardError` and `except ValueError` work::

    ModelyardError
    ├── ConfigError              ValueError     a setting or argument breaks a stated rule
    ├── InputError               ValueError     a model, tensor or data set cannot be used
    │   └── ExampleInputRequiredError           no input could be found to run the model on
    ├── NotFoundError            LookupError    something asked for by name is not there
    │   ├── VersionNotFoundError
    │   ├── VariantNotFoundError
    │   ├── ExperimentNotFoundError
    │   └── RequestNotFoundError
    ├── ConflictError            RuntimeError   right in itself, but not in the present state
    │   ├── RolloutInProgressError
    │   ├── ExperimentExistsError
    │   ├── ExperimentStoppedError
    │   ├── VersionInUseError                   something needs the version: it may not go
    │   └── StaleRevisionError                  someone else changed it first: read and try again
    ├── NotReadyError            RuntimeError   something must be called or set first
    ├── StorageError             OSError        the database or the blob store refuses
    │   ├── StorageBusyError                    others hold the write lock: try again
    │   └── IntegrityError                      stored bytes are not the bytes that were saved
    ├── UntrustedClassError      RuntimeError   a file names a class that nobody has vouched for
    ├── ConversionError          RuntimeError   a model could not be turned into a verified graph
    ├── QuantizationError        RuntimeError   no recipe kept the error under the limit
    ├── CompressionError         RuntimeError   no way to compress kept every limit
    ├── DeadlineExceededError    TimeoutError   an answer would have come too late
    ├── QueueFullError           RuntimeError   too many requests wait already
    └── MissingDependencyError   ImportError    an optional package is needed for this call
"""


class ModelyardError(Exception):
    """Base of every error of this package."""


class ConfigError(ModelyardError, ValueError):
    """A setting or argument breaks a stated rule."""


class InputError(ModelyardError, ValueError):
    """A model, tensor or data set cannot be used for what was asked."""


class ExampleInputRequiredError(InputError):
    """No input could be found or inferred to run the model on: pass `example_input=`."""


class NotFoundError(ModelyardError, LookupError):
    """Something asked for by name is not there."""


class VersionNotFoundError(NotFoundError):
    """No such version, or none that fits what was asked."""


class VariantNotFoundError(NotFoundError):
    """No such variant in the experiment or bandit."""


class ExperimentNotFoundError(NotFoundError):
    """No experiment of this name is stored."""


class RequestNotFoundError(NotFoundError):
    """No prediction with this request id is remembered."""


class ConflictError(ModelyardError, RuntimeError):
    """The call is right in itself, but not in the present state."""


class RolloutInProgressError(ConflictError):
    """Another rollout of the model is running."""


class ExperimentExistsError(ConflictError):
    """A running experiment of this name is already stored."""


class ExperimentStoppedError(ConflictError):
    """The experiment has ended and takes no more results."""


class VersionInUseError(ConflictError):
    """Something needs the version, so it may not be removed; the message says what."""


class StaleRevisionError(ConflictError):
    """Someone else changed the row first: read it again and retry."""


class NotReadyError(ModelyardError, RuntimeError):
    """Something must be called or set before this call."""


class StorageError(ModelyardError, OSError):
    """The database or the blob store refuses."""


class StorageBusyError(StorageError):
    """Others held the database's write lock for too long: the same call may succeed later."""


class IntegrityError(StorageError):
    """Stored bytes are not the bytes that were saved."""


class UntrustedClassError(ModelyardError, RuntimeError):
    """A stored model names a class that nobody has vouched for."""


class ConversionError(ModelyardError, RuntimeError):
    """A model could not be turned into a graph that gives the same answers."""


class QuantizationError(ModelyardError, RuntimeError):
    """No quantization recipe kept the error under the limit."""


class CompressionError(ModelyardError, RuntimeError):
    """No way to compress a model kept every limit."""


class DeadlineExceededError(ModelyardError, TimeoutError):
    """The answer would have come after the request's deadline."""


class QueueFullError(ModelyardError, RuntimeError):
    """Too many requests are waiting; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class MissingDependencyError(ModelyardError, ImportError):
    """An optional package is needed for this call."""
