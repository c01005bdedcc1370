"""`make bench-goodput`: the published goodput of fleets whose chips fail, after a fit of three times to two of its rows.

The rows of the single jobs (examples/goodput.csv) are fitted; the decoupled row is predicted with the fitted times.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks._table import Row, at_least, at_most, report

from skerry.simulate.goodput import Job
from skerry.simulate.goodput_fit import Fit, fit, targets
from skerry.simulate.goodput_grid import reckon
from skerry.simulate.pool import Pool

PUBLISHED = Path(__file__).resolve().parent.parent / "examples" / "goodput.csv"
SIZES = (150_000, 300_000, 600_000, 1_200_000, 2_400_000)
SEEDS = range(3)
ALWAYS = 99.99
"""Uptime that is 100 % as the paper rounds it."""


def main() -> int:
    """The benchmark."""
    given = targets(PUBLISHED)
    with Pool(os.cpu_count() or 1) as pool:
        fitted = fit(given, Job(), lambda jobs: [figures.goodput for figures in reckon(jobs, SEEDS, pool)])
        rows = [Row(f"fitted {name}", seconds, "s") for name, seconds in fitted.times.items()]
        for target, goodput in zip(given, fitted.goodputs, strict=True):
            name = f"{target.kind}, {target.chips:,} chips (published {100 * target.goodput:.0f})"
            rows.append(Row(name, 100 * goodput, "%"))
        errors = [100 * abs(goodput - target.goodput) for target, goodput in zip(given, fitted.goodputs, strict=True)]
        rows += [at_most("mean error of the ten", fmean(errors), 1.5, "points"),
                 at_most("worst error of the ten", max(errors), 4, "points"), *predicted(fitted, pool)]  # fmt: skip
        lengthened = [replace(fitted.job, chips=chips, kind="rigid", stops="lengthened") for chips in SIZES]
        off = [100 * abs(figures.goodput - target.goodput)
               for figures, target in zip(reckon(lengthened, SEEDS, pool), given, strict=False)]  # fmt: skip
        rows.append(Row("rigid if failures lengthened a stop: worst error", max(off), "points"))
    return report("goodput", rows)


def predicted(fitted: Fit, pool: Pool) -> list[Row]:
    """What was not fitted: decoupled learners."""
    eight, sixteen = ([replace(fitted.job, chips=chips, learners=m, kind="decoupled") for chips in SIZES] for m in (8, 16))
    alone = [replace(fitted.job, chips=chips // 8, kind="elastic") for chips in SIZES]
    found = reckon([*eight, *sixteen, *alone], SEEDS, pool)
    at_eight, at_sixteen, at_one = found[:5], found[5:10], found[10:]
    million = 100 * at_eight[SIZES.index(1_200_000)].goodput
    apart = max(abs(whole.goodput - one.goodput) for whole, one in zip(at_eight, at_one, strict=True))
    return [
        Row("M = 8, 1,200,000 chips, predicted (published 88)", million, "%", "86 to 90", 86 <= million <= 90),
        at_least("M = 8: lowest uptime of the five sizes", 100 * min(one.uptime for one in at_eight), ALWAYS, "%"),
        at_least("M = 16: lowest uptime of the five sizes", 100 * min(one.uptime for one in at_sixteen), ALWAYS, "%"),
        Row("M = 8 on N chips against one elastic job on N/8: largest gap", 100 * apart, "points"),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
