"""The candidates that rollouts are tried with."""

from dataclasses import replace

from _rollout_traffic import Case

# A rollout that goes well is over after 15 minutes; requests come a little longer.
_ENOUGH_S = 1200.0


def equal_cases() -> list[Case]:
    """Candidates that are as good: each that does not become production is one too many."""
    plain = Case(
        name="equal", aim="promoted", stable_errors=0.01, errors=0.01, duration_s=_ENOUGH_S
    )
    noisy = replace(plain, name="equal, return of mean 1 and sd 3", spread=3.0)
    return [
        *(
            replace(plain, name=f"equal, {rate:.0%} errors", stable_errors=rate, errors=rate)
            for rate in (0.0, 0.01, 0.04, 0.08)
        ),
        replace(plain, name="equal, latencies of infinite variance", latency="heavy"),
        replace(plain, name="equal, 4.5 % take ten times as long", latency="misses"),
        noisy,
        replace(noisy, name="the same, ten minutes late", delay_s=600.0, duration_s=1800.0),
        replace(plain, name="equal, both 5 x slower from the second step on", load=5.0),
        replace(plain, name="equal, one request a second", rate_per_s=1.0, duration_s=4800.0),
    ]


def bad_cases() -> list[Case]:
    """Candidates that should not become production, or not stay it."""
    plain = Case(name="bad", aim="rolled back", stable_errors=0.01, errors=0.01)
    paid = replace(plain, spread=1.0)
    rare = replace(plain, rate_per_s=0.3, duration_s=7200.0)
    return [
        replace(plain, name="20 % errors", errors=0.20),
        replace(plain, name="12 % errors", errors=0.12),
        replace(plain, name="8 % errors", aim="not promoted", errors=0.08, duration_s=4800.0),
        replace(plain, name="2.5 x slower", slower=2.5),
        replace(plain, name="2.5 x slower, infinite variance", slower=2.5, latency="heavy"),
        *(
            replace(paid, name=f"return -{loss:.0%}, sd {spread:g}", spread=spread, loss=loss)
            for spread in (1.0, 3.0)
            for loss in (0.3, 0.5)
        ),
        replace(plain, name="errors rise to 20 % after promotion", errors_later=0.20),
        replace(plain, name="becomes 3 x slower after promotion", slower_later=3.0),
        replace(rare, name="equal, a request in 3 s", aim="not promoted"),
    ]
