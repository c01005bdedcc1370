"""What outlives a learner's agent: kept in the memory that trainer and agent share, and given to the next agent. What a learner
says of itself is made of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from skerry.core.maker import maker
from skerry.core.messages import Count, Join, Leave, Report, TakenOver

make_report = maker(Report)
make_taken_over = maker(TakenOver)


@dataclass(slots=True)
class LearnerMemory:
    """What outlives the agent. Counters here are since the generation began (raw ones less `origin`)."""

    learner: int = -1
    generation: int = 0
    shift: int = 0  # t_m = raw steps + shift
    origin: Count = Count()  # the trainer's raw counters when the generation began
    base: list[int] = field(default_factory=list)  # version taken over of each fragment, -1 = none
    settled: list[Count] = field(default_factory=list)  # from here on its progress is not handed in
    epoch: int = 0  # the syncer's start that it heard of last

    @staticmethod
    def empty(fragments: int, learner: int = -1) -> LearnerMemory:
        """Of a learner that has joined nothing yet. `learner` -1: let the syncer choose."""
        return LearnerMemory(learner=learner, base=[-1] * fragments, settled=[Count()] * fragments)

    # ------------------------------------------------------------------ in its words, at these raw counters

    def join(self, layout: str, count: Count, holds: Sequence[int], leaving: bool) -> Join:
        """The first word on a link."""
        return Join(learner=self.learner, generation=self.generation, layout=layout, count=count.minus(self.origin),
                    clock=count.steps + self.shift, bases=tuple(self.base), settled=tuple(self.settled), epoch=self.epoch,
                    holds=tuple(holds), leaving=leaving)  # fmt: skip

    def report(self, count: Count) -> Report:
        """How far it is."""
        return make_report(learner=self.learner, generation=self.generation, clock=count.steps + self.shift,
                           count=count.minus(self.origin))  # fmt: skip

    def taken_over(self, fragment: int, version: int, clock: int, count: Count) -> TakenOver:
        """It stands on that version, which was set down already."""
        return make_taken_over(learner=self.learner, generation=self.generation, fragment=fragment, version=version,
                               clock=clock, settled=self.settled[fragment], count=count.minus(self.origin))  # fmt: skip

    def leave(self, count: Count, reason: str) -> Leave:
        """The last word."""
        return Leave(learner=self.learner, generation=self.generation, count=count.minus(self.origin), reason=reason)

    def taken_since(self, join: Join | None, clock: int, count: Count) -> list[TakenOver]:
        """What was taken over since that Join, if there was one: on a link without a place nothing is heard."""
        told = () if join is None else zip(join.bases, join.settled, strict=True)
        return [self.taken_over(p, self.base[p], clock, count)
                for p, before in enumerate(told) if before != (self.base[p], self.settled[p])]  # fmt: skip
