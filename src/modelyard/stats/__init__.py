"""Statistics as pure functions of numbers: no clock, no chance, no files.

One idea a module, each with its source: `moments`, `quantiles`, `distances`, `significance`,
`effects`, `power`, `sequential`, `calibration`, `multiplicity`, `autocorrelation`.
"""
