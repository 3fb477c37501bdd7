"""What several of the torch-facing packages share."""
