"""Goodput of a fleet whose chips fail: the share of chip time that trains. One job, one seed, plain values.

    rigid       one job that stops at a failure and runs on when every failed slice is back
    elastic     one job that stalls to shrink, goes on with fewer slices, and stalls to grow again
    decoupled   M elastic learners that do not see each other, each with its part of the chips

The rules of an elastic learner:

1. Failures are a Poisson process in wall time, one stream a learner; each hits a slice chosen evenly. A slice that is away
   already is not hit again.
2. A failure while the learner runs starts a shrink stall. One during a stall costs no stall of its own (`stalls` has others).
3. A slice that has returned waits until none of the learner's slices is away; then one grow stall lets all in that wait.
   A stall that ends with none away lets them in for free.
4. A slice that fails while it waits is away again; the learner, which does without it, does not stall.
5. A learner none of whose slices takes part does not run.

A rigid job has no failures while it stands still (`stops` has another reading). Rigid and elastic jobs are one job each,
however many learners they are cut into: these stop together.

Rules of this file: learners are independent, so each is followed alone, failure by failure, at a cost that does not depend on
how many chips there are; what has to be looked at together (when no learner ran) is put together from their intervals.
Randomness is from (seed, learner) alone: jobs that differ in anything else meet the same draws.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

import numpy as np

from skerry.config.checks import not_negative, one_of, positive, whole
from skerry.errors import cannot_work
from skerry.simulate.returns import Array, Returns

Kind = Literal["rigid", "elastic", "decoupled"]
Stops = Literal["spared", "lengthened"]
Stalls = Literal["absorbed", "restarting", "queued"]
Failure = tuple[float, int, float]
"""When, which slice, for how long it is away."""

DAY = 86400.0
YEAR = 365 * DAY
MOST_FAILURES = 20_000_000
CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A fleet and how it trains; times in seconds. Raises ConfigError where a value cannot work.

    The defaults of mean return, `shrink` and `grow` were fitted to published figures (`make bench-goodput`)."""

    chips: int = 1_200_000
    learners: int = 8
    kind: Kind = "decoupled"
    mtbi: float = YEAR  # mean time between interruptions of one chip
    days: float = 30.0
    slice_chips: int = 256  # chips that come and go together
    returns: Returns = field(default_factory=Returns)
    shrink: float = 18.4  # how long a learner stalls to go on without a slice
    grow: float = 15.7  # how long it stalls to let slices in
    stops: Stops = "spared"  # failures while a rigid job stands still: there are none, or they lengthen the stop
    stalls: Stalls = "absorbed"  # failures during a stall: cost nothing more, restart it, or are met by one more stall after it

    def __post_init__(self) -> None:
        whole(self, "chips", "learners", "slice_chips")
        if self.learners > self.chips:
            raise cannot_work("learners", self.learners, f"give at most one a chip ({self.chips:,})")
        for name, kinds in (("kind", Kind), ("stops", Stops), ("stalls", Stalls)):
            one_of(self, name, kinds)
        positive(self, "mtbi", "days")
        not_negative(self, "shrink", "grow")
        if self.rate * self.seconds > MOST_FAILURES:
            reason = f"a learner would meet {self.rate * self.seconds:.2g} failures in that time"
            allowed = f"give fewer days or a longer mtbi (at most {MOST_FAILURES:,} failures)"
            raise cannot_work("days", self.days, f"{reason}; {allowed}")

    @property
    def seconds(self) -> float:
        """How long it is followed."""
        return self.days * DAY

    @property
    def parts(self) -> int:
        """How many stop and stall each on its own."""
        return self.learners if self.kind == "decoupled" else 1

    @property
    def rate(self) -> float:
        """Failures a second of each part."""
        return self.chips / self.parts / self.mtbi

    @property
    def slices(self) -> int:
        """Of each part."""
        return max(1, round(self.chips / self.parts / self.slice_chips))

    @property
    def failures(self) -> float:
        """How many there are to be expected, over all parts."""
        return self.rate * self.seconds * self.parts


@dataclass(frozen=True)
class Outcome:
    """Of one job under one seed."""

    goodput: float  # share of chip time that trained
    uptime: float  # share of time in which some learner trained
    failures: int


@dataclass(frozen=True)
class Course:
    """Of one learner: when it ran, and the slice seconds that trained."""

    begins: Array
    ends: Array
    trained: float


def simulate(job: Job, seed: int, heard: Callable[[int], None] | None = None) -> Outcome:
    """Follow every learner through the days. `heard` is told, now and then, how many more failures are dealt with."""
    trained, failures = 0.0, 0
    dark = (np.zeros(1), np.full(1, job.seconds))  # when none of the learners so far ran

    def count(number: int) -> None:
        nonlocal failures
        failures += number
        if heard:
            heard(number)

    for part in range(job.parts):
        course = follow(job, chain.from_iterable(_failures(job, seed, part, count)))
        trained += course.trained
        dark = without(*dark, course.begins, course.ends)
    of = job.parts * (1 if job.kind == "rigid" else job.slices) * job.seconds
    return Outcome(trained / of, 1 - float(np.sum(dark[1] - dark[0])) / job.seconds, failures)


def follow(job: Job, failures: Iterable[Failure]) -> Course:
    """One learner under these failures, which are in order and before the end."""
    return (_rigid if job.kind == "rigid" else _elastic)(job, chain(failures, [(job.seconds, -1, 0.0)]))


def _rigid(job: Job, failures: Iterable[Failure]) -> Course:
    begins, ends = array("d"), array("d")
    lengthened = job.stops == "lengthened"
    runs = 0.0  # from when it runs
    for now, _, delay in failures:
        if now >= runs:
            begins.append(runs)
            ends.append(now)
            runs = now + delay
        elif lengthened and now + delay > runs:
            runs = now + delay
    return _course(begins, ends)


def _elastic(job: Job, failures: Iterable[Failure]) -> Course:
    begins, ends = array("d"), array("d")
    shrink, grow, slices = job.shrink, job.grow, job.slices
    restarting, queued = job.stalls == "restarting", job.stalls == "queued"
    out: dict[int, float] = {}  # slices that take no part, away or waiting: when they are back
    trained = 0.0
    runs = 0.0  # from when it runs
    last = 0.0  # when the stall began (of several without a pause, the last) after which it does
    clear = -1.0  # when all are back
    for now, place, delay in failures:
        if out and clear <= now:
            if clear >= runs:  # it ran until all were back
                if clear > runs and len(out) < slices:
                    begins.append(runs)
                    ends.append(clear)
                    trained += (clear - runs) * (slices - len(out))
                last, runs = clear, clear + grow
                out.clear()
            elif runs <= now:  # the stall ended with all back
                out.clear()
        back = out.get(place)
        if back is not None and back > now:
            continue
        if back is None:
            if now >= runs:
                if now > runs and len(out) < slices:
                    begins.append(runs)
                    ends.append(now)
                    trained += (now - runs) * (slices - len(out))
                last, runs = now, now + shrink
            elif restarting:
                runs = now + shrink
            elif queued and now >= last:
                last, runs = runs, runs + shrink
        out[place] = now + delay
        if now + delay > clear:
            clear = now + delay
    return _course(begins, ends, trained)


def _course(begins: array[float], ends: array[float], trained: float | None = None) -> Course:
    starts, stops = np.array(begins), np.array(ends)
    return Course(starts, stops, float(np.sum(stops - starts)) if trained is None else trained)


def _failures(job: Job, seed: int, part: int, count: Callable[[int], None]) -> Iterator[Iterable[Failure]]:
    """Of one part, in portions. Gaps, places and delays are streams of their own."""
    gaps, places, delays = (np.random.Generator(np.random.Philox(key=np.array([seed, 4 * part + stream], np.uint64)))
                            for stream in range(3))  # fmt: skip
    expected = job.rate * job.seconds
    size, now = int(min(CHUNK, expected + 4 * math.sqrt(expected) + 8)), 0.0
    while now < job.seconds:
        times = now + np.cumsum(gaps.standard_exponential(size) / job.rate)
        now = float(times[-1])
        times = times[: np.searchsorted(times, job.seconds)]
        where = (places.random(len(times)) * job.slices).astype(np.int64)
        away = job.returns.delays(delays.random(len(times)))
        yield zip(times.tolist(), where.tolist(), away.tolist(), strict=True)
        count(len(times))


def without(begins: Array, ends: Array, taken_begins: Array, taken_ends: Array) -> tuple[Array, Array]:
    """The intervals less the taken ones; each list is in order and without overlaps."""
    gap_begins = np.concatenate(([-np.inf], taken_ends))
    gap_ends = np.concatenate((taken_begins, [np.inf]))
    first = np.searchsorted(gap_ends, begins, side="right")  # the first gap that ends within or after each interval
    after = np.searchsorted(gap_begins, ends, side="left")
    many = np.maximum(after - first, 0)
    interval = np.repeat(np.arange(len(begins)), many)
    gap = np.arange(len(interval)) + np.repeat(first - np.cumsum(many) + many, many)
    cut_begins, cut_ends = np.maximum(begins[interval], gap_begins[gap]), np.minimum(ends[interval], gap_ends[gap])
    left = cut_ends > cut_begins
    return cut_begins[left], cut_ends[left]
