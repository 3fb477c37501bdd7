"""Whether distributions have moved away from a baseline. Pure functions and frozen values."""
