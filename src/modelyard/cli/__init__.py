"""The command `modelyard`: a person's interface to registry, rollouts and the whole lifecycle.

Commands are thin: each opens what it needs, makes one call and shows the result. What is slow to
import is imported inside the command that needs it, so that help comes at once.
"""

from modelyard.cli.app import app, main

__all__ = ["app", "main"]
