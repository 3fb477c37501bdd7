"""Several versions of one model served side by side, each measured by itself."""

from modelyard.deployment.answer import Answer
from modelyard.deployment.deployment import Deployment

__all__ = ["Answer", "Deployment"]
