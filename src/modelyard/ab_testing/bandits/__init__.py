"""Bandits: traffic goes where the rewards are while they are still being learnt."""

from modelyard.ab_testing.bandits.bandit import MultiArmedBandit

__all__ = ["MultiArmedBandit"]
