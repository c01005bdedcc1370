"""The syncer's core alone with learners that say exactly what a test lets them say, in virtual time.

A scripted learner makes TOKENS tokens and 1000 microseconds a step. Nothing happens by itself but what falls due.
"""

from __future__ import annotations

from typing import Any, TypeVar

from skerry.core.messages import (
    Abstain,
    Close,
    Contribution,
    Count,
    Failed,
    Gone,
    Join,
    Leave,
    Published,
    Received,
    Report,
    Start,
    SyncerAction,
    TakenOver,
    Tick,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from support.layouts import tiny_layout

TOKENS = 10
Kind = TypeVar("Kind")


def only(actions: list[SyncerAction], kind: type[Kind]) -> list[Kind]:
    """The actions of that kind."""
    return [action for action in actions if isinstance(action, kind)]


def who(close: Close) -> tuple[int, ...]:
    """The learners in a version, in order of arrival."""
    return tuple(contributor.learner for contributor in close.included)


def after(steps: int) -> Count:
    """A scripted learner's counters after so many steps."""
    return Count(steps, steps * TOKENS, steps * 1000)


class Scripted:
    """What a learner would know of itself."""

    def __init__(self, learner: int, fragments: int) -> None:
        self.id, self.generation, self.epoch = learner, 0, 0
        self.steps = self.clock = 0
        self.base = [-1] * fragments
        self.settled = [Count()] * fragments

    @property
    def name(self) -> dict[str, int]:
        return {"learner": self.id, "generation": self.generation}


class Desk:
    """A core with `learners` that have joined and taken over version 0 of everything. One fragment, H = 4, tau = 2, no
    grace and a far budget, unless the policy's fields say otherwise."""

    def __init__(self, learners: int, **policy: Any) -> None:
        self.policy = Policy(**{"fragments": 1, "interval": 4, "overlap": 2, "grace": 0.0, "steps": 1000, **policy})
        self.layout = tiny_layout(self.policy)
        self.core = SyncerCore(self.policy, self.layout)
        self.now = 0.0
        self.slow = False
        self.learners: dict[int, Scripted] = {}
        self.feed(Start())
        for learner in range(learners):
            self.enter(learner)

    def feed(self, event: Any) -> list[SyncerAction]:
        """Tell the core; what is closed is published at once, unless the store is `slow`."""
        actions = list(self.core.handle(self.now, event))
        for close in only(actions, Close) if not self.slow else ():
            actions += self.publish(close.version, close.fragment)
        return actions

    def publish(self, version: int, fragment: int = 0) -> list[SyncerAction]:
        return self.feed(Published(fragment=fragment, version=version))

    def fail(self, step: int, fragment: int = 0) -> list[SyncerAction]:
        return self.feed(Failed(fragment=fragment, step=step, why="the disk is gone"))

    def wait(self, seconds: float) -> list[SyncerAction]:
        """Let time pass; what falls due happens."""
        until, actions = self.now + seconds, []
        while (due := self.core.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            actions += self.feed(Tick())
        self.now = until
        return actions

    # -------------------------------------------------------- what learners do

    def join(self, learner: int, **changes: Any) -> list[SyncerAction]:
        """Say Join as a new generation, and listen to the Welcome."""
        scripted = Scripted(learner, self.policy.fragments)
        actions = self.feed(Join(**{"learner": learner, "layout": self.layout.hash, **changes}))
        for welcome in only(actions, Welcome):
            scripted.id, scripted.generation, scripted.clock = welcome.learner, welcome.generation, welcome.clock
            scripted.epoch = welcome.epoch
            self.learners[welcome.learner] = scripted
        return actions

    def enter(self, learner: int) -> list[SyncerAction]:
        """Join, and take over every fragment."""
        actions = self.join(learner)
        for fragment in range(self.policy.fragments):
            actions += self.take(learner, fragment)
        return actions

    def rejoin(self, learner: int) -> list[SyncerAction]:
        """Join again as the same generation."""
        at = self.learners[learner]
        return self.feed(Join(**at.name, layout=self.layout.hash, count=after(at.steps), clock=at.clock,
                              bases=tuple(at.base), settled=tuple(at.settled), epoch=at.epoch))  # fmt: skip

    def step(self, learner: int, steps: int = 1) -> list[SyncerAction]:
        """Make steps and report the last one."""
        at = self.learners[learner]
        at.steps += steps
        at.clock += steps
        return self.report(learner)

    def report(self, learner: int) -> list[SyncerAction]:
        at = self.learners[learner]
        return self.feed(Report(**at.name, clock=at.clock, count=after(at.steps)))

    def all_step(self, steps: int = 1) -> list[SyncerAction]:
        actions = []
        for learner in self.learners:
            actions += self.step(learner, steps)
        return actions

    def contribution(self, learner: int, step: int, fragment: int = 0, **changes: Any) -> Contribution:
        at = self.learners[learner]
        return Contribution(**{**at.name, "fragment": fragment, "step": step, "base": at.base[fragment],
                               "since": at.settled[fragment], "until": after(at.steps), **changes})  # fmt: skip

    def hand(self, learner: int, step: int, fragment: int = 0, **changes: Any) -> list[SyncerAction]:
        """Hand the fragment over for the round of that step."""
        return self.feed(self.contribution(learner, step, fragment, **changes))

    def nothing(self, learner: int, step: int, fragment: int = 0) -> list[SyncerAction]:
        return self.feed(Abstain(**self.learners[learner].name, fragment=fragment, step=step))

    def take(self, learner: int, fragment: int = 0, settled: Count | None = None) -> list[SyncerAction]:
        """Take the present version over. `settled`: from where the progress counts on; default: from here."""
        at = self.learners[learner]
        at.base[fragment] = self.core.versions[fragment]
        at.settled[fragment] = after(at.steps) if settled is None else settled
        return self.feed(TakenOver(**at.name, fragment=fragment, version=at.base[fragment], clock=at.clock,
                                   settled=at.settled[fragment], count=after(at.steps)))  # fmt: skip

    def received(self, learner: int, fragment: int = 0) -> list[SyncerAction]:
        version = self.core.versions[fragment]
        return self.feed(Received(**self.learners[learner].name, fragment=fragment, version=version))

    def die(self, learner: int) -> list[SyncerAction]:
        """Its link breaks."""
        return self.feed(Gone(**self.learners[learner].name))

    def leave(self, learner: int) -> list[SyncerAction]:
        at = self.learners[learner]
        return self.feed(Leave(**at.name, count=after(at.steps)))

    def mine(self, learner: int, fragment: int = 0) -> int:
        """How many of its tokens are in the present version."""
        return sum(c.tokens for p, c in self.core.contributors() if (p, c.learner) == (fragment, learner))

    # -------------------------------------------------------- what the ledger says

    def amounts(self) -> dict[str, int]:
        """Merged, pending and lost tokens of one parameter of the fragment, by cause; checked to add up. One fragment only."""
        ledger, size = self.core.ledger, self.layout.total
        total = ledger.total()
        closed = [account for old in ledger.retired.values() for account in old.values()]
        pending = sum(ledger.pending(account) for account in (*closed, *(m.account for m in self.core.members)))
        assert total.processed == total.merged + pending + sum(total.lost.values())
        found = {"merged": total.merged, "pending": pending, **total.lost}
        assert all(amount % size == 0 for amount in found.values())
        return {name: amount // size for name, amount in found.items() if amount}
