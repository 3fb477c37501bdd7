"""What every policy does."""

from typing import Protocol

import numpy as np

from modelyard.ab_testing.bandits.chances import Posterior
from modelyard.ab_testing.bandits.sums import Sums


class Policy(Protocol):
    """A way to choose a variant."""

    def choose(self, sums: Sums, rng: np.random.Generator) -> tuple[int, Posterior | None]:
        """Index of the variant to use now.

        Returns:
            The index, and the posterior it was drawn from; None where the choice was certain.
        """
        ...

    def posterior(self, sums: Sums) -> Posterior | None:
        """What `choose` draws from; None where its choice is certain."""
        ...


def first_tries(sums: Sums) -> int | None:
    """The variant that has to be tried before any is preferred, or None."""
    fewest = min(sums.pulls)
    return sums.pulls.index(fewest) if fewest < sums.n_first else None


def best_without_spread(sums: Sums) -> int:
    """The variant to use while all rewards of each variant were the same.

    Of variants whose first rewards are still to come, the one with the fewest choices.
    """
    return sums.pulls.index(min(sums.pulls)) if sums.n_unknown else sums.best()
