"""A monitor's figures for other programs."""
