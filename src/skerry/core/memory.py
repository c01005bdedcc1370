"""What outlives a learner's agent: kept in the memory that trainer and agent share, and given to the next agent."""

from __future__ import annotations

from dataclasses import dataclass, field

from skerry.core.messages import Count


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
