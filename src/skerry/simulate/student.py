"""Confidence intervals of means over a few seeds: Student's t, two-sided, 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

_T95 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
        2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
        2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272)  # fmt: skip
_Z95 = 1.959964


def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: from the table up to 30 degrees of freedom, then by the Cornish-Fisher series,
    which is right to five digits there."""
    assert freedom >= 1
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return (z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3))  # fmt: skip


def mean95(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % confidence interval: none if there is one value only."""
    if len(values) < 2:
        return fmean(values), None
    return fmean(values), t95(len(values) - 1) * stdev(values) / math.sqrt(len(values))
