"""What every other package may use: errors, time, names, files, configuration."""
