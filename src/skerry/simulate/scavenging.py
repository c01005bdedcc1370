"""Scavenging: learners that come for parts of the time, and how much sooner the tokens are processed because of them.

    decoupled         who comes takes over every fragment and begins; nobody else notices. Who goes is missed by nobody
    elastic           data-parallel that grows and shrinks: at its next checkpoint after someone came or went all of it
                      stalls, and goes on with whoever is there then

Rules: extra learners are on offer in windows; in a window each stays for an exponential time, then it is taken away and another
one comes in its place. All randomness is from the seed. Time is virtual seconds; work is counted in seconds of the base, the
learners that are always there. Where a member has gone, elastic training goes on with the rest until the checkpoint.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skerry.config.checks import not_negative, one_of, positive, share, whole
from skerry.errors import cannot_work

Clock = Literal["time", "tokens"]
MOST_EVENTS = 1_000_000

PUBLISHED = {0.25: (0.90, 1.07), 0.5: (0.83, 1.09), 1.0: (0.75, 1.02), 3.0: (0.62, 0.80)}
"""By the share added: the time relative to none, decoupled and data-parallel (Decoupled DiLoCo, arXiv 2604.21428)."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Who is always there, who comes, and what coming costs. Raises ConfigError where a value cannot work.

    The defaults of `offered`, `clock`, `stay_s`, `stall_s` and `checkpoint_s` were fitted to the published table."""

    tokens: float = 1e12  # the budget
    rate: float = 125e3  # tokens a second of one learner
    learners: int = 8  # M: always there
    share: float = 1.0  # extra compute that is on offer, relative to theirs
    extra_learners: int | None = None  # in which it comes; none: as large as theirs
    efficiency: float = 1.0  # how much of an extra learner's compute becomes progress
    offered: float = 0.5  # share of every window's cycle in which the extra learners are on offer
    window_s: float = 100e3  # a cycle: first without them, then with them
    clock: Clock = "tokens"  # what the cycles go by: time, or the tokens that the base alone processes in such a time
    stay_s: float = 2700.0  # how long an extra learner stays, on average, before another one takes its place
    join_s: float = 60.0  # decoupled: from its coming to its first step
    stall_s: float = 660.0  # elastic: all stand still for so long when members change
    checkpoint_s: float = 600.0  # elastic: changes are taken up after so much training; 0 = at once
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "tokens", "rate", "window_s", "stay_s")
        not_negative(self, "share", "join_s", "stall_s", "checkpoint_s")
        share(self, "offered", "efficiency")
        whole(self, "learners", *(["extra_learners"] if self.extra_learners is not None else []))
        one_of(self, "clock", Clock)
        whole(self, "seed", least=0)
        cycles, checkpoints = self.base_s / self.window_s, self.base_s / self.checkpoint_s if self.checkpoint_s else 0.0
        events = 2 * self.extras * self.base_s / self.stay_s + (cycles + 1) * (2 + self.extras) + checkpoints
        if events > MOST_EVENTS:
            name = self._farthest()
            reason = f"{self.base_s:.3g} s with {events:.2g} comings, goings and checkpoints are too many to go through"
            raise cannot_work(name, getattr(self, name), f"{reason} (at most {MOST_EVENTS:,})")

    def _farthest(self) -> str:
        """Of what makes for many events, that which is farthest from its default."""
        more = {name: getattr(self, name) / getattr(Fleet, name) for name in ("tokens", "share")}
        more["extra_learners"] = (self.extra_learners or 0) / Fleet.learners
        less = {name: getattr(Fleet, name) / (getattr(self, name) or math.inf)
                for name in ("rate", "learners", "stay_s", "window_s", "checkpoint_s")}  # fmt: skip
        return max((found := more | less), key=lambda name: found[name])

    @property
    def base_s(self) -> float:
        """Seconds that the learners that are always there need alone."""
        return self.tokens / self.rate / self.learners

    @property
    def extras(self) -> int:
        """How many extra learners are on offer."""
        if self.share == 0:
            return 0
        return self.extra_learners or max(1, round(self.share * self.learners))

    @property
    def gain(self) -> float:
        """What one extra learner adds to the speed of the learners that are always there."""
        return self.efficiency * self.share / self.extras if self.extras else 0.0


@dataclass(frozen=True)
class Outcome:
    """Of one run."""

    seconds: float  # until the budget was processed
    stalled: float  # of them, in which everybody stood still
    changes: int  # times that an extra learner came or, elastic, that all reconfigured


class _Course:
    """Time and work as they go on, and the windows."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.time = self.work = 0.0
        self.offered = fleet.offered == 1
        self._edges = 0

    @property
    def over(self) -> bool:
        """Whether the budget is processed."""
        return self.work >= self.fleet.base_s * (1 - 1e-12)

    def until(self, speed: float) -> float:
        """Seconds until a window begins or ends, or the budget is processed, at that speed; relative to the base's."""
        left = (self.fleet.base_s - self.work) / speed if speed else math.inf
        return min(left, self._until_edge(speed))

    def go(self, seconds: float, speed: float) -> None:
        """Over the edges in between, too, and over one that is right here."""
        while seconds >= (edge := self._until_edge(speed)):
            self.time += edge
            self.work += edge * speed
            seconds -= edge
            self._edges += 1
            self.offered = not self.offered
        self.time += seconds
        self.work += seconds * speed

    def _until_edge(self, speed: float) -> float:
        fleet, cycle = self.fleet, self._edges // 2
        if not 0 < fleet.offered < 1:
            return math.inf
        edge = (cycle + (1 if self.offered else 1 - fleet.offered)) * fleet.window_s
        if fleet.clock == "time":
            return max(0.0, edge - self.time)
        return max(0.0, edge - self.work) / speed if speed else math.inf


def decoupled(fleet: Fleet) -> Outcome:
    """Extra learners come and go, each for itself."""
    course, draws = _Course(fleet), np.random.default_rng(fleet.seed)
    events: list[tuple[float, int, int]] = []  # (when, learners at work: one more or one less or as many, who came)
    working = came = 0
    offered = False
    while not course.over:
        if course.offered != offered:
            offered, working = course.offered, 0
            events.clear()
            for _ in range(fleet.extras * offered):
                came += 1
                _come(events, course.time, came, fleet, draws)
        speed = 1 + working * fleet.gain
        ahead = events[0][0] - course.time if events else math.inf
        if ahead > course.until(speed):
            course.go(course.until(speed), speed)
            continue
        course.go(ahead, speed)
        _, change, _ = heapq.heappop(events)
        working += change
        if change <= 0 and course.offered == offered:  # taken away: another one comes
            came += 1
            _come(events, course.time, came, fleet, draws)
    return Outcome(course.time, 0.0, came)


def _come(events: list[tuple[float, int, int]], now: float, who: int, fleet: Fleet, draws: np.random.Generator) -> None:
    """One extra learner's stay: it works from `join_s` on, if it is there for so long."""
    stay = draws.exponential(fleet.stay_s)
    works = stay > fleet.join_s
    if works:
        heapq.heappush(events, (now + fleet.join_s, 1, who))
    heapq.heappush(events, (now + stay, -1 if works else 0, who))


def elastic(fleet: Fleet) -> Outcome:
    """Data-parallel that stalls to take changes up."""
    course, draws = _Course(fleet), np.random.default_rng(fleet.seed)
    members, changes, stalled = fleet.extras * course.offered, 0, 0.0
    while not course.over:
        left = _train(course, members, draws)
        if not course.over and not left == members == fleet.extras * course.offered:
            course.go(fleet.stall_s, 0.0)
            members, changes, stalled = fleet.extras * course.offered, changes + 1, stalled + fleet.stall_s
    return Outcome(course.time, stalled, changes)


def _train(course: _Course, members: int, draws: np.random.Generator) -> int:
    """Until the next checkpoint, or with checkpoint_s = 0 the next change; how many of the extra members are left."""
    fleet, offered = course.fleet, course.offered
    checkpoint = course.time + (fleet.checkpoint_s or math.inf)
    leaving = sorted((course.time + draws.exponential(fleet.stay_s, members)).tolist(), reverse=True)
    while not course.over:
        speed = 1 + len(leaving) * fleet.gain
        goes = leaving[-1] if leaving else math.inf
        course.go(min(goes - course.time, checkpoint - course.time, course.until(speed)), speed)
        changed = course.offered != offered or course.time >= goes
        if course.offered != offered:
            leaving.clear()
        elif changed:
            leaving.pop()
        if course.time >= checkpoint or (changed and not fleet.checkpoint_s):
            break
    return len(leaving)
