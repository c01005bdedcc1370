"""Membership: who has joined, who lives, and how far the K-th fastest living learner is.

    AWAY --joins--> JOINING --has taken over every fragment--> LIVE --is silent--> SILENT --speaks--> LIVE
      ^------------- its link breaks, or it leaves ---------------'--------------------'
    LIVE --too many refusals in a row--> QUARANTINED --let in again--> LIVE; when it comes back, QUARANTINED again

Only LIVE members count for quorums and for the run's step t = max(t, K-th largest clock). The clocks ahead of t are counted
by value, so that an advance costs O(1) amortised and no event costs more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from skerry.core.ledger import Account
from skerry.core.policy import ALL


class Standing(Enum):
    """How a member stands with the run."""

    AWAY = "away"  # no link
    JOINING = "joining"  # a link, but fragments to take over for the first time
    LIVE = "live"
    SILENT = "silent"  # a link, but nothing was heard for too long
    QUARANTINED = "quarantined"  # a link, but it is asked for nothing


AWAY, JOINING, LIVE, SILENT, QUARANTINED = Standing


@dataclass(slots=True)
class Member:
    """One learner, through all its generations."""

    id: int
    account: Account  # of the present generation
    heard: float  # seconds
    first_join: float  # seconds
    standing: Standing = AWAY
    first_step: int = 0  # steps of all earlier generations
    clock: int = 0  # t_m
    came_as: int = 0  # the generation that its Join named when the present one began
    born: int = 0  # the epoch in which the present generation began
    missing: int = 0  # fragments it has yet to take over for the first time
    awaited: bool = False  # its link broke, or the syncer's did: the last round waits for it
    missed: bool = False  # every round does, and it counts for the quorum of all
    refusals: int = 0  # of its contributions, in a row
    quarantined: str = ""  # why it is asked for nothing
    live_seq: int = 0  # when it last became live, on the counter that also numbers rounds
    live_clock: int = 0  # t_m when it last became live
    watched: int = 0  # how often it has: an alarm is for one of these times, and matters never again

    @property
    def generation(self) -> int:
        """The present one; 0 before the first Welcome."""
        return self.account.generation

    @property
    def live(self) -> bool:
        """Whether it counts."""
        return self.standing is LIVE

    @property
    def linked(self) -> bool:
        """Whether there is a link to it."""
        return self.standing is not AWAY


class Members:
    """All members, and the run's step."""

    by_id: dict[int, Member]
    seq: int  # numbers rounds and births, so that a round knows who was live when it was opened
    step: int  # t
    live: int

    def __init__(self, quorum: int) -> None:
        self.by_id = {}
        self.seq = self.step = self.live = 0
        self._quorum = quorum
        self._free_id = 0  # ids below it are taken
        self._missed = 0  # how many are
        self._ahead: dict[int, int] = {}  # clock > t -> how many live members stand there
        self._ahead_sum = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(self.by_id.values())

    def __len__(self) -> int:
        return len(self.by_id)

    def get(self, learner: int) -> Member | None:
        """The member with that id."""
        return self.by_id.get(learner)

    def add(self, member: Member) -> None:
        """A learner that never was here before."""
        self.by_id[member.id] = member

    def free_id(self) -> int:
        """The smallest id that nobody ever had."""
        while self._free_id in self.by_id:
            self._free_id += 1
        return self._free_id

    def next_seq(self) -> int:
        """The next number of that counter."""
        self.seq += 1
        return self.seq

    @property
    def quorum(self) -> int:
        """K as it stands: all live ones (and those that are missed) if the policy says so, and at least one."""
        return max(1, self.live + self._missed if self._quorum == ALL else self._quorum)

    @property
    def may_advance(self) -> bool:
        """Whether t is behind."""
        return self._ahead_sum >= (self._quorum or max(1, self.live + self._missed))

    @property
    def quarantined(self) -> list[int]:
        """Who is."""
        return [member.id for member in self if member.quarantined]

    def wait_for(self, member: Member, awaited: bool, *, missed: bool = False) -> None:
        """Whether it is awaited from now on, and missed."""
        self._missed += missed - member.missed
        member.awaited, member.missed = awaited, missed

    def stand(self, member: Member, standing: Standing) -> None:
        """The member's standing from now on; who becomes LIVE begins to count, who was LIVE ceases to. Who was awaited comes
        back to the rounds that wait for it."""
        was, member.standing = member.standing, standing
        if standing is LIVE:
            assert was is not LIVE
            if not member.awaited:
                member.live_seq, member.live_clock = self.next_seq(), member.clock
            self.live += 1
            self._count(member.clock, 1)
        elif was is LIVE:
            self.live -= 1
            self._count(member.clock, -1)

    def set_clock(self, member: Member, clock: int) -> None:
        """The member's t_m; it never falls."""
        if clock > member.clock:
            if member.standing is LIVE and clock > self.step:
                if member.clock > self.step:
                    self._count(member.clock, -1)
                self._count(clock, 1)
            member.clock = clock

    def advance(self) -> int:
        """t = max(t, K-th largest t_m of the live ones). Returns the old t."""
        old, quorum = self.step, self.quorum
        while self._ahead_sum >= quorum:
            self.step += 1
            self._ahead_sum -= self._ahead.pop(self.step, 0)
        return old

    def _count(self, clock: int, by: int) -> None:
        if clock > self.step:
            self._ahead_sum += by
            left = self._ahead.get(clock, 0) + by
            if left:
                self._ahead[clock] = left
            else:
                del self._ahead[clock]

    def pass_to(self, step: int) -> None:
        """t is that step, at least."""
        self.step = max(self.step, step)
        self.restored()

    def restored(self) -> None:
        """The state was loaded: count what follows from it."""
        self._ahead, self._ahead_sum, self._missed = {}, 0, sum(member.missed for member in self)
        for member in self:
            if member.live:
                self._count(member.clock, 1)
