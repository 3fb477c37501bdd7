"""What is wrong, said once, and to whom."""
