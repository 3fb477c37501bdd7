"""Bandits: traffic goes where the rewards are while they are still being learnt.

`bandit.MultiArmedBandit` is the lock and the store around a `learner.Learner`; policies choose by
`sums.Sums`; `choices` logs what was chosen with what chance, and `off_policy` evaluates that log.
"""

from modelyard.ab_testing.bandits.bandit import MultiArmedBandit

__all__ = ["MultiArmedBandit"]
