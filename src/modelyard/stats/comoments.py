"""Count, means, sums of squares and of products of pairs: streaming, mergeable, stable."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.stats.moments import Moments


@dataclass(frozen=True, slots=True)
class CoMoments:
    """What a sample of pairs (x, y) says about both means, spreads and how they go together.

    Attributes:
        n: Number of pairs.
        mean_x: Mean of x; 0.0 while there are none.
        mean_y: Mean of y; 0.0 while there are none.
        m2_x: Sum of squares of x about its mean, in the squared unit of x.
        m2_y: Sum of squares of y about its mean, in the squared unit of y.
        c_xy: Sum of products of both about their means.
    """

    n: int = 0
    mean_x: float = 0.0
    mean_y: float = 0.0
    m2_x: float = 0.0
    m2_y: float = 0.0
    c_xy: float = 0.0

    @property
    def x(self) -> Moments:
        """The moments of x alone."""
        return Moments(self.n, self.mean_x, self.m2_x)

    @property
    def y(self) -> Moments:
        """The moments of y alone."""
        return Moments(self.n, self.mean_y, self.m2_y)

    @property
    def variance_x(self) -> float:
        """Unbiased variance of x; NaN below two pairs."""
        return self.x.variance

    @property
    def variance_y(self) -> float:
        """Unbiased variance of y; NaN below two pairs."""
        return self.y.variance

    @property
    def covariance(self) -> float:
        """Unbiased covariance of x and y; NaN below two pairs."""
        return self.c_xy / (self.n - 1) if self.n > 1 else math.nan

    def with_values(self, x: float, y: float) -> "CoMoments":
        """The moments after one more pair (Welford, 1962)."""
        n = self.n + 1
        delta_x, delta_y = x - self.mean_x, y - self.mean_y
        mean_x, mean_y = self.mean_x + delta_x / n, self.mean_y + delta_y / n
        return CoMoments(
            n=n,
            mean_x=mean_x,
            mean_y=mean_y,
            m2_x=self.m2_x + delta_x * (x - mean_x),
            m2_y=self.m2_y + delta_y * (y - mean_y),
            c_xy=self.c_xy + delta_x * (y - mean_y),
        )

    def merged(self, other: "CoMoments") -> "CoMoments":
        """Moments of the two samples together (Chan, Golub and LeVeque, 1983)."""
        n = self.n + other.n
        if n == 0:
            return self
        delta_x, delta_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share, between = other.n / n, self.n * other.n / n
        return CoMoments(
            n=n,
            mean_x=self.mean_x + delta_x * share,
            mean_y=self.mean_y + delta_y * share,
            m2_x=self.m2_x + other.m2_x + delta_x * delta_x * between,
            m2_y=self.m2_y + other.m2_y + delta_y * delta_y * between,
            c_xy=self.c_xy + other.c_xy + delta_x * delta_y * between,
        )


def merge_all_co(parts: Iterable[CoMoments]) -> CoMoments:
    """Moments of all samples together."""
    total = CoMoments()
    for part in parts:
        total = total.merged(part)
    return total
