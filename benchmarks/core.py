"""`make bench-core`: what an event costs the syncer's core, with rounds going on, for 100 and for 1,000 learners.

Learners that report every step and contribute to every round they are asked for, in virtual time; the events are made
beforehand in batches, so that the core alone is timed, in CPU time. The two sizes and the reference loop (reference.py) are
measured in turn.
"""

from __future__ import annotations

import gc
from statistics import median
from time import process_time

from benchmarks._table import Row, at_most, report
from benchmarks.reference import Reference

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import (
    Ask,
    Close,
    Contribution,
    Count,
    Deliver,
    Distribute,
    Join,
    Published,
    Received,
    Report,
    Start,
    TakenOver,
    Tick,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore

TOKENS = 512
STEP_S = 1.0
BAR = 6.0  # of an event over one of the reference loop: 1.1 when it was set


class Fleet:
    """M learners of equal speed in one run; `cost` and `events` are what the core was fed so far."""

    def __init__(self, learners: int) -> None:
        policy = Policy(fragments=24, interval=24, quorum=learners // 2)
        layout = build_layout([TensorSpec(name=f"{i}.w", shape=(1000 + i,)) for i in range(48)], 24, "balanced")
        self.core, self.now, self.steps = SyncerCore(policy, layout), 0.0, 0
        self.cost, self.events = 0.0, 0
        self.since = {(m, p): Count() for m in range(learners) for p in range(24)}
        self.learners = range(learners)
        self.feed([Join(learner=m, layout=layout.hash) for m in self.learners])
        actions = self.feed([Start()])
        assert sum(isinstance(action, Deliver) for action in actions) == learners
        self.feed([self.took_over(m, p, 0, 0) for m in self.learners for p in range(24)])

    def feed(self, events: list) -> list:
        """Feed the core and time it; what it decided."""
        handle, now, out = self.core.handle, self.now, []
        began = process_time()
        for event in events:
            out += handle(now, event)
        self.cost += process_time() - began
        self.events += len(events)
        return out

    def count(self) -> Count:
        """Everybody's counters at the present step."""
        return Count(self.steps, self.steps * TOKENS, self.steps * 1_000_000)

    def took_over(self, m: int, p: int, version: int, step: int) -> TakenOver:
        """Learner m stands on that version now."""
        self.since[m, p] = self.count()
        return TakenOver(learner=m, generation=1, fragment=p, version=version, clock=max(self.steps, step),
                         settled=self.count(), count=self.count())  # fmt: skip

    def step(self) -> None:
        """One inner step of everybody, the hand-overs it brings about, the deliveries and the take-overs."""
        self.steps, self.now = self.steps + 1, self.now + STEP_S
        todo = self.feed([Report(learner=m, generation=1, clock=self.steps, count=self.count()) for m in self.learners])
        self.now += 0.1 * STEP_S
        todo += self.feed([Tick()])
        while todo:
            action = todo.pop(0)
            if isinstance(action, Ask):
                p, base = action.fragment, self.core.versions[action.fragment]
                todo += self.feed([
                    Contribution(learner=m, generation=1, fragment=p, step=action.step, base=base, since=self.since[m, p],
                                 until=self.count()) for m in self.learners
                ])  # fmt: skip
            elif isinstance(action, Close):
                todo += self.feed([Published(fragment=action.fragment, version=action.version)])
            elif isinstance(action, Distribute):
                p, version = action.fragment, action.version
                todo += self.feed([Received(learner=m, generation=1, fragment=p, version=version) for m in self.learners])
                todo += self.feed([self.took_over(m, p, version, action.step) for m in self.learners])


def microseconds(fleet: Fleet, steps: int) -> float:
    """Mean cost of an event over that many steps."""
    cost, events = fleet.cost, fleet.events
    for _ in range(steps):
        fleet.step()
    return (fleet.cost - cost) / (fleet.events - events) * 1e6


def main() -> None:
    """Both sizes and the reference in turn, five times; medians."""
    small, large, reference = Fleet(100), Fleet(1000), Reference()
    gc.freeze()
    pairs = []
    for _ in range(5):
        pairs.append((microseconds(small, 100), microseconds(large, 10)))
        reference.take()
    at_100, at_1000 = median(a for a, _ in pairs), median(b for _, b in pairs)
    growth = median(b / a for a, b in pairs)
    per_round = large.core.rounds.contributors / large.core.rounds.closed
    raise SystemExit(report("core", [
        Row("an event, 100 learners", at_100, "us"),
        Row("an event, 1,000 learners", at_1000, "us"),
        Row("an event of the reference loop", 1e6 * reference.event, "us"),
        at_most("an event, 1,000 learners, over one of the reference loop", 1e-6 * at_1000 / reference.event, BAR, "ratio"),
        Row("growth from 100 to 1,000", growth, "ratio", "< 1.5", growth < 1.5),
        Row("rounds closed, 1,000 learners", large.core.rounds.closed, "rounds", "> 0", large.core.rounds.closed > 0),
        Row("contributors a round, 1,000 learners", per_round, "learners", "> 900", per_round > 900),
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
