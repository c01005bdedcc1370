"""A learner's core alone, with a trainer and a syncer that say exactly what a test lets them say."""

from __future__ import annotations

from typing import Any

from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Ask, Contribution, Delivery, Join, Outcome, TakenOver, Verdict, Welcome
from skerry.core.orders import Applied, CopiedOut, CopyOut, Linked, Stepped, TakeOver, Unlinked
from skerry.core.policy import Policy
from support.desk import after, only
from support.layouts import tiny_layout


class Island:
    """A core and a trainer that carries out orders when told to. One fragment, H = 4, tau = 2 unless said otherwise."""

    def __init__(self, begun: bool = True, memory: LearnerMemory | None = None, **policy: Any) -> None:
        self.policy = Policy(**{"fragments": 1, "interval": 4, "overlap": 2, **policy})
        self.layout = tiny_layout(self.policy)
        memory = memory or LearnerMemory.empty(self.policy.fragments)
        self.core = LearnerCore(self.policy, self.layout, memory)
        self.now = 0.0
        self.steps = 0
        self.ordered_step = 0  # of the last order to copy out
        if begun:
            self.welcome()
            for fragment in range(self.policy.fragments):
                self.deliver(0, fragment=fragment)
                self.apply(0, fragment=fragment)

    def feed(self, event: Any) -> list:
        actions = self.core.handle(self.now, event)
        for order in only(actions, CopyOut):
            self.ordered_step = order.step
        return actions

    def join(self) -> Join:
        """What is said first on a new link."""
        (join,) = self.feed(Linked())
        return join

    def lose_link(self) -> list:
        return self.feed(Unlinked())

    def welcome(self, generation: int = 1, clock: int = 0) -> list:
        """Join, and be welcomed."""
        self.join()
        return self.feed(Welcome(learner=3, generation=generation, clock=clock, first_step=0, progress=0.0))

    def step(self, steps: int = 1) -> list:
        self.steps += steps
        return self.feed(Stepped(count=after(self.steps)))

    def ask(self, step: int, fragment: int = 0, final: bool = False) -> list:
        return self.feed(Ask(fragment=fragment, step=step, progress=0.0, final=final))

    def copy(self, step: int, fragment: int = 0) -> list:
        return self.feed(CopiedOut(fragment=fragment, step=step, count=after(self.steps)))

    def hand_over(self, step: int, fragment: int = 0) -> Contribution:
        assert only(self.ask(step, fragment), CopyOut)
        (contribution,) = only(self.copy(step, fragment), Contribution)
        return contribution

    def deliver(self, version: int, step: int = 0, merged: int = 0, fragment: int = 0) -> list:
        return self.feed(Delivery(fragment=fragment, version=version, step=step, merged=merged, progress=0.0))

    def apply(self, version: int, fragment: int = 0) -> list:
        return self.feed(Applied(fragment=fragment, version=version, count=after(self.steps)))

    def answer(self, step: int, verdict: Outcome, reason: str = "") -> list:
        return self.feed(Verdict(learner=3, generation=1, fragment=0, step=step, verdict=verdict, reason=reason))

    @property
    def memory(self) -> LearnerMemory:
        return self.core.memory

    def take(self, version: int, step: int, merged: int = 0) -> str:
        """Deliver and apply. Returns the rule that the order named."""
        (order,) = only(self.deliver(version, step, merged), TakeOver)
        assert only(self.apply(version), TakenOver)
        return order.rule
