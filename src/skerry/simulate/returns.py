"""How long a failed slice stays away: constant, exponential, or exponentiated Weibull, each given by its mean.

    exponentiated Weibull   P(delay <= x) = (1 - exp(-(x / scale)^shape))^power, the scale such that the mean is `mean`

Rule: a delay is a function of one uniform variate, so that the same draws serve any law and any mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skerry.config.checks import one_of
from skerry.errors import cannot_work

Law = Literal["constant", "exponential", "weibull"]
Array = NDArray[np.float64]
LONGEST = 1e12
"""Seconds of a mean: beyond, single delays leave the range of numbers."""


@dataclass(frozen=True, kw_only=True)
class Returns:
    """Raises ConfigError where a value cannot work."""

    law: Law = "weibull"
    mean: float = 78.0  # seconds
    shape: float = 0.8  # of the Weibull law: below 1, the tail is longer than the exponential's
    power: float = 2.0  # of the Weibull law: above 1, very short delays are rare; 1 is the plain Weibull

    def __post_init__(self) -> None:
        one_of(self, "law", Law)
        if not 0 <= self.mean <= LONGEST:
            raise cannot_work("mean_return", self.mean, f"give 0 to {LONGEST:g} seconds")
        for name in ("shape", "power"):
            if not 0.05 <= getattr(self, name) <= 100:
                raise cannot_work(name, getattr(self, name), "give 0.05 to 100")

    def delays(self, uniform: Array) -> Array:
        """The delays in seconds that belong to uniform variates in [0, 1)."""
        if self.law == "constant":
            return np.full_like(uniform, self.mean)
        if self.law == "exponential":
            return -self.mean * np.log1p(-uniform)
        inner = uniform if self.power == 1 else uniform ** (1 / self.power)
        return self._scale * (-np.log1p(-inner)) ** (1 / self.shape)

    @cached_property
    def _scale(self) -> float:
        """The mean over the mean at scale 1: the integral of 1 - P over x = exp(y), by the trapezoid rule, which is exact to
        all digits here, since the integrand dies off quickly to both sides."""
        step = 1 / 64
        y = np.arange(-45.0, math.log(750.0 * max(1.0, self.power)) / self.shape + 1, step)
        with np.errstate(over="ignore", divide="ignore"):
            tail = -np.expm1(self.power * np.log(-np.expm1(-np.exp(y * self.shape))))
        return float(self.mean / (step * np.sum(tail * np.exp(y))))
