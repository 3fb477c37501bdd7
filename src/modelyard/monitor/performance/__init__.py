"""How good the answers are: by what came of them, and before it is known."""
