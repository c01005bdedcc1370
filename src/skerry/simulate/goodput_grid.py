"""Goodput of many jobs, each under several seeds: means and confidence intervals.

Rule: jobs that come to the same figures (one rigid job, cut into however many learners) are followed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from skerry.simulate.goodput import Job, Outcome, simulate
from skerry.simulate.pool import Pool
from skerry.simulate.student import mean95

IN_PROCESSES_FROM = 1_000_000
"""Failures from which on processes pay: they take a quarter of a second to start."""
Heard = Callable[[int], None]


@dataclass(frozen=True)
class Figures:
    """Means over the seeds, and half the width of their 95 % confidence intervals (none with one seed)."""

    goodput: float
    goodput_ci: float | None
    uptime: float
    uptime_ci: float | None


def reckon(jobs: Sequence[Job], seeds: Sequence[int], pool: Pool | None = None, heard: Heard | None = None) -> list[Figures]:
    """The figures of each job. `heard` is told, now and then, how many more failures are dealt with, of `work(jobs, seeds)`."""
    keys = [_same(job) for job in jobs]
    single = list(dict.fromkeys(keys))
    tasks = [(job, seed) for job in single for seed in seeds]
    if pool is None or len(tasks) == 1 or work(jobs, seeds) < IN_PROCESSES_FROM:
        outcomes = [simulate(job, seed, heard) for job, seed in tasks]
    else:
        outcomes = []
        for outcome in pool.map(simulate, *zip(*tasks, strict=True)):
            outcomes.append(outcome)
            if heard:
                heard(outcome.failures)
    found = {job: _figures(outcomes[i * len(seeds) : (i + 1) * len(seeds)]) for i, job in enumerate(single)}
    return [found[key] for key in keys]


def work(jobs: Sequence[Job], seeds: Sequence[int]) -> float:
    """Failures that are to be expected."""
    return len(seeds) * sum(job.failures for job in dict.fromkeys(map(_same, jobs)))


def _same(job: Job) -> Job:
    return replace(job, learners=1, kind="elastic" if job.kind == "decoupled" else job.kind) if job.parts == 1 else job


def _figures(outcomes: Sequence[Outcome]) -> Figures:
    return Figures(*mean95([one.goodput for one in outcomes]), *mean95([one.uptime for one in outcomes]))
