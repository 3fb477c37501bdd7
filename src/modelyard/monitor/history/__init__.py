"""What a monitor has learnt and finds again."""
