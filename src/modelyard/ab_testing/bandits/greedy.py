"""The best variant so far: what `epsilon_greedy` does where it does not choose at random."""

from dataclasses import dataclass

import numpy as np

from modelyard.ab_testing.bandits.sums import Sums


@dataclass(frozen=True)
class Greedy:
    """The best variant so far; each once before any is preferred.

    Source:
        Sutton and Barto (2018), Reinforcement Learning, section 2.2.
    """

    def choose(self, sums: Sums, rng: np.random.Generator) -> tuple[int, None]:  # noqa: ARG002 - protocol
        """As `Policy.choose`; certain."""
        pulls = sums.pulls
        fewest = min(pulls)
        return (pulls.index(fewest) if fewest < 1.0 else sums.best()), None

    def posterior(self, sums: Sums) -> None:  # noqa: ARG002 - protocol
        """As `Policy.posterior`."""
        return
