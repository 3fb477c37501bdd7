"""What comes in: rings of the last values, the window made of them, open requests."""
