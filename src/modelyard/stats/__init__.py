"""Statistics as pure functions of numbers: no clock, no files; chance only from a generator given.

One idea a module, each with its source. Samples: `moments`, `comoments`, `quantiles`, `histogram`,
`autocorrelation`, `effects`, `sharpe`. Distributions: `distances`, `divergences`, `calibration`,
`changepoint`, `exceedance`. Differences, each as one `significance.Contrast`: `significance`
(means), `ratios`, `ranks`, `quantile_difference`, `sharpe_difference`, `cuped`; `proportions`
has a test of its own. What is made of a contrast: `significance` (one look), `sequential` (any
look), `group_sequential` (planned looks), `non_inferiority`, `bayesian`, `multiplicity`. Before
and beside an experiment: `power`, `sample_ratio`.
"""
