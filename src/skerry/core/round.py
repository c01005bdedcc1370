"""One round that goes on, as data; rounds.py decides what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from skerry.core.members import Members
from skerry.core.messages import Contributor
from skerry.core.policy import Policy
from skerry.core.terms import Count


class Stage(Enum):
    """How far a round has come."""

    OPEN = "open"
    GRACE = "grace"  # the quorum is complete
    CLOSING = "closing"  # decided, but its version does not exist yet


OPEN, GRACE, CLOSING = Stage


class Part(NamedTuple):
    """What was accepted of a learner."""

    generation: int
    until: Count  # its counters


@dataclass(slots=True)
class Round:
    """A round that goes on. It waits for `waiting` of the members that were live when it was opened."""

    fragment: int
    step: int
    opened: float
    seq: int  # members that became live later were not asked
    look_at: float  # when its patience ends; in GRACE when its window does
    patient_until: float
    final: bool
    stage: Stage = OPEN
    waiting: int = 0
    answered: set[int] = field(default_factory=set)
    again: set[int] = field(default_factory=set)  # who is asked once more, after taking over what part of its answer is in
    accepted: dict[int, Part] = field(default_factory=dict)  # by learner, in order of arrival
    closed: float = 0.0
    readers: int = 0  # those live at the close

    @property
    def contributors(self) -> tuple[Contributor, ...]:
        """Whose work is in it, in order of arrival."""
        return tuple([Contributor(learner, part.generation, part.until.tokens) for learner, part in self.accepted.items()])


@dataclass(slots=True)
class Receipts:
    """The newest version of a fragment on its way to the learners; the median receipt measures xi_sync."""

    version: int
    since: float
    missing: int  # to the median
    who: set[int] = field(default_factory=set)  # has received it

    def median(self, learner: int, version: int) -> bool:
        """It has received that version: whether that is the median receipt of this one."""
        if version != self.version or learner in self.who:
            return False
        self.who.add(learner)
        self.missing -= 1
        return self.missing == 0


def last_name(policy: Policy, members: Members, decided: Sequence[int]) -> int:
    """A step for the last rounds, that no other bears. Synchronous learners name rounds by themselves, ahead of t, though none
    gets further than to its next hand-over's end. `decided`: of each fragment, the step of the last round that was."""
    if not policy.synchronous:
        return max(members.step, *decided) + 1
    furthest = max(members.step, *decided, *(member.clock for member in members))
    return furthest + 2 * policy.interval + policy.overlap + 1
