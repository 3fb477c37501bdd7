"""What follows from it: pure functions of what was recorded and of the rules."""
