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


def choice_without_spread(sums: Sums) -> int:
    """The variant to use while the rewards' spread is not known.

    The one with the fewest pulls, as long as some variant was not tried or its first rewards are
    still to come; then the best.
    """
    if sums.n_untried or sums.n_unknown:
        return sums.pulls.index(min(sums.pulls))
    return sums.best()
