"""Makes the bandits' reference numbers with SciPy: `python tests/reference/make_bandits.py`.

The chance of each variant to be best comes from adaptive quadrature in many pieces, which shares
nothing with the code under test but the definition.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import integrate, stats

HERE = Path(__file__).parent

POSTERIORS = [
    ("normal", [0.0, 1.0], [1.0, 1.0]),
    ("normal", [0.0, 1.0, 0.9, -5.0], [1e-3, 0.5, 0.1, 10.0]),
    ("normal", [-5.0, -4.0, -3.0, -3.1], [1.0, 1e-4, 1.0, 1e-2]),
    ("normal", [0.01 * i for i in range(10)], [0.02] * 10),
    ("beta", [1.0, 1.0], [1.0, 1.0]),
    ("beta", [1.0, 900.0, 3.0], [1.0, 100.0, 2.0]),
    ("beta", [1.0, 5000.0, 50.0], [101.0, 95000.0, 1000.0]),
    ("beta", [10001.0, 1.0], [1.0, 1.0]),
    ("beta", [1.0, 1.3, 2.0], [2000.0, 4000.1, 1e5]),
]
_INNER = (1e-9, 1e-6, 1e-3, 0.05, 0.3, 0.5, 0.7, 0.95, 0.999, 1 - 1e-6, 1 - 1e-9)


def chances(kind: str, first: list[float], second: list[float]) -> list[float]:
    """Integral of each density times the other distribution functions."""
    make = stats.norm if kind == "normal" else stats.beta
    known = [make(a, b) for a, b in zip(first, second, strict=True)]
    lowest = max(one.ppf(1e-14) for one in known)
    highest = max(one.isf(1e-14) for one in known)
    inner = {float(np.clip(one.ppf(q), lowest, highest)) for one in known for q in _INNER}
    ends = sorted({lowest, highest, *inner})
    found = []
    for own in known:
        others = [one for one in known if one is not own]

        def density(x: float, own=own, others=others) -> float:
            return own.pdf(x) * np.prod([one.cdf(x) for one in others])

        pieces = pairwise(ends)
        found.append(sum(integrate.quad(density, a, b, epsabs=1e-13)[0] for a, b in pieces))
    return found


def main() -> None:
    """Write the file."""
    cases = [
        {"kind": kind, "first": first, "second": second, "chances": chances(kind, first, second)}
        for kind, first, second in POSTERIORS
    ]
    path = HERE / "bandit_chances.json"
    path.write_text(json.dumps(cases, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
