"""What a compressor does, a class a kind of step, over one state."""
