"""`make bench-rounds`: the published pattern of unequal hardware, and a thousand learners through the real core.

Published (Decoupled DiLoCo, arXiv 2604.21428; 4 of 8 learners 18% slower, 10% jitter): K = M 84% goodput; K = 1 100%; K = 1
with adaptive grace 100%, and as good a model as K = M's. One process, one core; CPU time, the interpreter's start apart, in
runs of the reference loop (reference.py), which is timed ten times and more in the course of it.
"""

from __future__ import annotations

import time

from benchmarks._table import Row, at_least, at_most, report
from benchmarks.reference import Reference

from skerry.core.policy import ALL, Policy
from skerry.core.presets import preset
from skerry.simulate.rounds import RoundsResult, simulate_rounds
from skerry.world.world import World

UNEQUAL = (1.0, 1.0, 1.0, 1.0, 0.82, 0.82, 0.82, 0.82)
PARAMS = 10**9
STEPS = 1000
MANY = 1000
BAR = 700.0  # 540 when the drivers were made one; 706 before that


def main() -> int:
    """The benchmark."""
    policy = preset("decoupled", steps=STEPS)
    world = World(learners=8, speeds=UNEQUAL, jitter=0.1)
    waits = simulate_rounds(policy.replace(synchronous=True, quorum=ALL), world, params=PARAMS)
    none = simulate_rounds(policy.replace(grace=0.0), world, params=PARAMS)
    grace = simulate_rounds(policy, world, params=PARAMS)
    many, seconds, reference = many_learners(policy)
    return report("rounds", [
        at_most("K = M: goodput (published 84)", _goodput(waits), 93.0, "%"),
        at_least("K = 1: goodput (published 100)", _goodput(none), 99.0, "%"),
        at_most("K = 1: contributors of 8", none.figures.mean_contributors, 3.0),
        at_least("K = 1 with grace: goodput (published 100)", _goodput(grace), 99.0, "%"),
        at_least("K = 1 with grace: contributors of 8", grace.figures.mean_contributors, 7.2),
        Row(f"{MANY:,} learners, {STEPS:,} steps, P = 24: rounds", many.figures.rounds),
        Row("contributors to a round", many.figures.mean_contributors),
        Row("CPU time", seconds, "s"),
        Row("a learner's step with everything that follows from it", 1e6 * seconds / (many.figures.tokens_processed), "us"),
        reference.row(),
        at_most("CPU time over the reference loop's", seconds / reference.cpu, BAR, "ratio"),
    ])  # fmt: skip


def many_learners(policy: Policy) -> tuple[RoundsResult, float, Reference]:
    """The run, its seconds of CPU time, and the reference loop, timed whenever another tenth of the run was done."""
    reference, apart, due = Reference(), 0.0, 0.0

    def progress(share: float) -> None:
        nonlocal apart, due
        if share >= due:
            began = time.process_time()
            reference.take()
            apart, due = apart + time.process_time() - began, due + 0.1

    began = time.process_time()
    result = simulate_rounds(policy, World(learners=MANY, speeds=UNEQUAL, jitter=0.1), params=PARAMS, progress=progress)
    return result, time.process_time() - began - apart, reference


def _goodput(result: RoundsResult) -> float:
    return 100 * float(result.figures.goodput)


if __name__ == "__main__":
    raise SystemExit(main())
