"""Running mean and variance in one pass (Welford, Technometrics 1962; merge: Chan, Golub and LeVeque 1979)."""

import math
from dataclasses import dataclass


@dataclass
class Welford:
    """Mean and variance of a stream of numbers, exact also where the mean is far larger than the spread.

    The textbook sum of squares minus squared sum cancels there, and may even come out negative.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    """Sum of the squared deviations from the mean."""

    def update(self, value: float) -> None:
        """Take in one more number."""
        self.count += 1
        deviation = value - self.mean
        self.mean += deviation / self.count
        self.m2 += deviation * (value - self.mean)

    def merge(self, other: "Welford") -> "Welford":
        """Of both streams together, as a new object."""
        count = self.count + other.count
        if count == 0:
            return Welford()
        gap = other.mean - self.mean
        return Welford(
            count,
            self.mean + gap * other.count / count,
            self.m2 + other.m2 + gap * gap * self.count * other.count / count,
        )

    @property
    def variance(self) -> float:
        """Unbiased sample variance (divisor count - 1); 0 while there are fewer than two numbers."""
        return self.m2 / (self.count - 1) if self.count > 1 else 0.0

    @property
    def std(self) -> float:
        """Square root of `variance`, in the unit of the numbers."""
        return math.sqrt(self.variance)
