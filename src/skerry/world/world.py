"""World: how many learners there are, how fast, over which links, and what strikes them. Virtual time, no tensors.

Rules: everything random is a pure function of (seed, learner, number of the draw), by a counter-based generator: it does
not depend on the order of events, so a change of policy meets the same world.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat

import numpy as np

from skerry.config.checks import not_negative, positive
from skerry.errors import ConfigError, cannot_work
from skerry.world.faults import Fault, FaultScript
from skerry.world.links import Link

MOST_LEARNERS = 10_000
_JITTER, _FAULTS = 1, 2  # which stream of random numbers


@dataclass(frozen=True, kw_only=True)
class World:
    """Learners, speeds, links and faults. Raises ConfigError where a value cannot work. Times are virtual seconds."""

    learners: int = 4  # M: those that the run starts with
    step_s: float = 1.0  # an inner step at speed 1
    speeds: tuple[float, ...] = ()  # one a learner, relative; fewer are repeated in turn; none = all 1
    jitter: float = 0.0  # spread of step times: standard deviation over mean
    link: str = ""  # "LATENCY,BANDWIDTH" ("100ms,1Gbit"); empty = neither; several, parted by ";", go to the learners in turn
    faults: str = ""  # what strikes whom and when: "kill:2@30s stop:1@45s+20s slow:3x0.5@10s+60s join:4@60s leave:0@90s"
    fault_rate: float = 0.0  # share of time that random kills take from each learner of the start, on average
    downtime: float = 60.0  # of a random kill, on average; times up and down are exponential
    merge_s: float = 0.0  # from the close of a round to the existence of its version
    restart: float = 10.0  # until a killed learner is back, where its fault does not say
    seed: int = 0  # of jitter and random faults

    def __post_init__(self) -> None:
        if not isinstance(self.learners, int) or not 1 <= self.learners <= MOST_LEARNERS:
            raise _bad("learners", self.learners, f"give a whole number, 1 or more and at most {MOST_LEARNERS:,}")
        positive(self, "step_s", "downtime", where="world.")
        not_negative(self, "restart", "merge_s", where="world.")
        for speed in self.speeds:
            if not 0 < speed < float("inf"):
                raise _bad("speeds", self.speeds, f"{speed!r} is no speed: give numbers above 0")
        if len(self.speeds) > self.learners:
            raise _bad("speeds", self.speeds, f"give at most one a learner ({self.learners})")
        if not 0 <= self.jitter < 1:
            raise _bad("jitter", self.jitter, "give at least 0 and below 1")
        if not 0 <= self.fault_rate < 1:
            raise _bad("fault_rate", self.fault_rate, "give a share of the time, at least 0 and below 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**64:
            raise _bad("seed", self.seed, "give a whole number, at least 0 and below 2**64")
        self.script.check_virtual()
        self.script.check_learners(self.learners, others=self.fault_rate > 0)
        if any(fault.learner >= MOST_LEARNERS for fault in self.script):
            raise _bad("faults", self.faults, f"learners bear numbers below {MOST_LEARNERS:,}")
        self.link_of(0)  # raises where it cannot be read

    @cached_property
    def script(self) -> FaultScript:
        """`faults`, read."""
        return FaultScript.parse(self.faults)

    @cached_property
    def _links(self) -> tuple[Link, ...]:
        return Link.parse_all(self.link)

    def link_of(self, learner: int) -> Link:
        """The learner's link to the syncer."""
        return self._links[learner % len(self._links)]

    def mean_step(self, learner: int) -> float:
        """Seconds of that learner's steps, on average."""
        return self.step_s / (self.speeds[learner % len(self.speeds)] if self.speeds else 1.0)

    def run_step(self, quorum: int) -> float:
        """Seconds of a step of the run: of the quorum-th fastest learner's (0: the slowest's), on average."""
        return sorted(map(self.mean_step, range(self.learners)))[quorum - 1]

    def step_times(self, learner: int) -> Iterator[float]:
        """Seconds of that learner's steps, one after the other: the mean, times a gamma variate."""
        return chain.from_iterable(self._step_times(learner)) if self.jitter else repeat(self.mean_step(learner))

    def _step_times(self, learner: int) -> Iterator[array[float]]:
        """In portions: the next one of a portion is had without going through Python. They become plain floats then, for what
        is written down."""
        mean, draws, shape = self.mean_step(learner), self._generator(_JITTER, learner), self.jitter**-2
        while True:
            yield array("d", (mean * draws.gamma(shape, 1 / shape, size=256)).tobytes())

    def random_faults(self, learner: int) -> Iterator[Fault]:
        """The random kills of that learner, in order, without end; none if fault_rate is 0."""
        if not self.fault_rate:
            return
        draws, at = self._generator(_FAULTS, learner), 0.0
        mean_up = self.downtime * (1 - self.fault_rate) / self.fault_rate
        while True:
            at += draws.exponential(mean_up)
            down = draws.exponential(self.downtime)
            yield Fault(kind="kill", learner=learner, at=at, duration=down)
            at += down

    def _generator(self, stream: int, learner: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([self.seed, learner * 4 + stream], np.uint64)))


def parse_speeds(text: str) -> tuple[float, ...]:
    """World.speeds from text: "1,0.5". Raises ConfigError."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise cannot_work("speeds", text, 'give numbers apart by commas, like "1,1,0.8,0.5"') from None


def _bad(name: str, value: object, allowed: str) -> ConfigError:
    return cannot_work(f"world.{name}", value, allowed)
