"""Thompson sampling: each variant is chosen with the chance that it is best."""

import math
from dataclasses import dataclass

import numpy as np

from modelyard.ab_testing.bandits.chances import Posterior
from modelyard.ab_testing.bandits.policy import choice_without_spread
from modelyard.ab_testing.bandits.sums import Sums


@dataclass(frozen=True, slots=True)
class ThompsonSampling:
    """A draw from what is known of each variant; the largest is chosen.

    Rewards that are won or lost (two values, whatever their size): Beta posteriors with a uniform
    prior. Other rewards: normal posteriors of the means with a flat prior, the variance being the
    pooled one within the variants, so that nothing depends on the rewards' unit.

    Source:
        Thompson (1933), Biometrika 25, 285-294; Agrawal and Goyal (2013), AISTATS (normal form).
    """

    def choose(self, sums: Sums, rng: np.random.Generator) -> tuple[int, Posterior | None]:
        """As `Policy.choose`; rewards that are no wins or losses need two uses of each first."""
        posterior = self.posterior(sums)
        if posterior is None:
            return choice_without_spread(sums), None
        return posterior.draw(rng), posterior

    def posterior(self, sums: Sums) -> Posterior | None:
        """As `Policy.posterior`."""
        wins = sums.wins()
        if wins is not None:
            won, lost = wins
            return Posterior("beta", tuple([1.0 + n for n in won]), tuple([1.0 + n for n in lost]))
        scale = sums.scale
        if sums.n_untried or scale == 0.0:
            return None
        # A variant whose rewards are all still to come is worth minus infinity until then.
        deviations = [scale / math.sqrt(n) if n else scale for n in sums.uses()]
        return Posterior("normal", tuple(sums.worths), tuple(deviations))
