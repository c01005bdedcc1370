"""`make bench-simulate`: what following a fleet's failures costs: one job on one core, a grid on two, growth with failures.

Starting up is apart: everything is imported and has run once before a clock starts. The grid's two processes start within it.
Bars on times are multiples of the reference loop's (reference.py): its CPU time for one core, its wall time for the grid.
"""

from __future__ import annotations

import resource
from statistics import median
from time import perf_counter, process_time

from benchmarks._table import Row, at_most, report
from benchmarks.reference import Reference

from skerry.simulate.goodput import Job, simulate
from skerry.simulate.goodput_grid import reckon, work
from skerry.simulate.pool import Pool

SIZES = (150_000, 300_000, 600_000, 1_200_000, 2_400_000)
LARGE = Job(chips=2_400_000, learners=16, days=30)
REPEATS = 5
JOB_BAR = 3.6  # over the reference loop: 0.6 when it was set
GRID_BAR = 450.0  # 61 when it was set


def main() -> int:
    """The benchmark."""
    simulate(Job(days=1), 0)
    return report("simulate", [*one_job(), *growth(), *grid()])


def one_job() -> list[Row]:
    """2.4M chips in 16 learners, 30 days."""
    times, reference = [], Reference()
    for seed in range(REPEATS):
        began = process_time()
        simulate(LARGE, seed)
        times.append(process_time() - began)
        reference.take()
    return [Row("2.4M chips, M = 16, 30 days: CPU time, median", median(times), "s"), reference.row(),
            at_most("the same over the reference loop", median(times) / reference.cpu, JOB_BAR, "ratio")]  # fmt: skip


def growth() -> list[Row]:
    """CPU time of a failure for four sizes in turn; the ratio is of the largest to the smallest."""
    jobs = [Job(chips=chips, learners=8, days=90) for chips in SIZES[1:]]
    costs: dict[Job, list[float]] = {job: [] for job in jobs}
    for seed in range(REPEATS):
        for job in jobs:
            began = process_time()
            failures = simulate(job, seed).failures
            costs[job].append((process_time() - began) / failures)
    rows = [Row(f"a failure, {job.failures:,.0f} of them ({job.chips:,} chips)", 1e6 * median(costs[job]), "us")
            for job in jobs]  # fmt: skip
    ratio = median(costs[jobs[-1]]) / median(costs[jobs[0]])
    return [*rows, at_most("cost of a failure, eight times as many", ratio, 1.25, "ratio")]


def grid() -> list[Row]:
    """5 sizes, M = 1 to 16 and rigid, 30 days, 20 seeds, two processes."""
    jobs = [Job(chips=chips, learners=m, kind=kind, days=30) for chips in SIZES
            for kind, m in (("rigid", 1), *(("decoupled", m) for m in (1, 2, 4, 8, 16)))]  # fmt: skip
    reference = Reference()
    for _ in range(REPEATS):
        reference.take()
    before, began = _children(), perf_counter()
    with Pool(2) as pool:
        reckon(jobs, range(20), pool)
    seconds = perf_counter() - began
    for _ in range(REPEATS):
        reference.take()
    return [Row("grid of 30 jobs, 20 seeds, two cores: time", seconds, "s"),
            at_most("the same over the reference loop", seconds / reference.wall, GRID_BAR, "ratio"),
            Row("the same: CPU time of the two", _children() - before, "s"),
            Row("the same: failures", f"{work(jobs, range(20)):.3g}")]  # fmt: skip


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
