"""Whether a rate is really over a limit, decided while the counts come in."""

import math

from scipy.special import betaincc, betaln

from modelyard._core.errors import ConfigError

_LARGEST_EXPONENT = 700.0  # of a float, with room


def exceedance_evidence(n_events: int, n_trials: int, limit: float) -> float:
    """Evidence that the true rate is over `limit`: how many times likelier than at the limit.

    The likelihood of the counts, averaged over the rates between `limit` and 1, over their
    likelihood at `limit`. Rates near the limit weigh most: by (1 - rate)^(1/(2 limit) - 1), whose
    mean is about twice the limit, so that a rate of twice the limit is found soonest. While the
    true rate is at the limit or below, the chance that this ever reaches 1/alpha, at any look, is
    at most alpha (Ville's inequality), so it may be looked at after every request.

    Args:
        n_events: Events seen, such as failed requests.
        n_trials: Trials seen, at least `n_events`.
        limit: Rate that may not be exceeded, strictly between 0 and 1.

    Raises:
        ConfigError: A limit outside (0, 1), or more events than trials.

    Source:
        Robbins (1970), Annals of Mathematical Statistics 41, 1397-1409 (the method of mixtures),
        with a Beta(1, 1/(2 limit)) distribution cut off at the limit as the mixture.
    """
    if not 0.0 < limit < 1.0:
        raise ConfigError(f"limit must lie strictly between 0 and 1, got {limit}.")
    if not 0 <= n_events <= n_trials:
        raise ConfigError(f"{n_events} events in {n_trials} trials cannot be.")
    spread = max(0.5 / limit, 1.0)  # over a limit of 0.5, every rate weighs the same
    a, b = n_events + 1.0, n_trials - n_events + spread
    above = float(betaincc(a, b, limit))
    if above <= 0.0:
        return 0.0
    # The last two terms are the weights' integral over (limit, 1): (1 - limit)^spread / spread.
    log_average = (
        float(betaln(a, b)) + math.log(above) + math.log(spread) - spread * math.log1p(-limit)
    )
    log_at_limit = n_events * math.log(limit) + (n_trials - n_events) * math.log1p(-limit)
    return math.exp(min(log_average - log_at_limit, _LARGEST_EXPONENT))
