"""What was recorded: outcomes, running sums of them, snapshots."""
