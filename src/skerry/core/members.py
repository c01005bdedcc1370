"""Membership: who has joined, who lives, and how far the K-th fastest living learner is.

A member is *live* while it is linked, heard of and has taken over every fragment once. Only live members count for
quorums and for the run's step t = max(t, K-th largest clock). The clocks ahead of t are counted by value, so that an
advance costs O(1) amortised and no event costs more than that.
"""

from __future__ import annotations

from collections.abc import Iterator

from skerry.core.ledger import Account
from skerry.core.policy import ALL


class Member:
    """One learner, through all its generations."""

    __slots__ = ("account", "clock", "first_join", "first_step", "generation", "heard", "id", "linked", "live",
                 "live_clock", "live_seq", "missing", "resumable")  # fmt: skip

    def __init__(self, learner: int, account: Account, first_join: float) -> None:
        self.id = learner
        self.generation = 0
        self.account = account
        self.first_join = first_join  # seconds
        self.first_step = 0  # steps of all earlier generations
        self.clock = 0  # t_m
        self.heard = first_join
        self.linked = False
        self.resumable = False  # the present generation may come back (false after the syncer itself was restored)
        self.missing = 0  # fragments it has yet to take over for the first time
        self.live = False
        self.live_seq = 0  # when it last became live, on the counter that also numbers rounds
        self.live_clock = 0  # t_m when it last became live


class Members:
    """All members, and the run's step."""

    def __init__(self, quorum: int) -> None:
        self._quorum = quorum
        self._by_id: dict[int, Member] = {}
        self._next = 0
        self._seq = 0  # numbers rounds and births, so that a round knows who was live when it was opened
        self.step = 0  # t
        self.live = 0
        self._ahead: dict[int, int] = {}  # clock > t -> how many live members stand there
        self._ahead_sum = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, learner: int) -> Member | None:
        """The member with that id."""
        return self._by_id.get(learner)

    def add(self, member: Member) -> None:
        """A learner that never was here before."""
        self._by_id[member.id] = member

    def free_id(self) -> int:
        """The smallest id that nobody ever had."""
        while self._next in self._by_id:
            self._next += 1
        return self._next

    def next_seq(self) -> int:
        """The next number of that counter."""
        self._seq += 1
        return self._seq

    @property
    def quorum(self) -> int:
        """K as it stands: all live ones if the policy says so, and at least one."""
        return max(1, self.live if self._quorum == ALL else self._quorum)

    def set_live(self, member: Member, live: bool) -> None:
        """The member begins or ceases to count."""
        assert live != member.live
        if live:
            member.live_seq, member.live_clock = self.next_seq(), member.clock
        self._count(member.clock, 1 if live else -1)
        self.live += 1 if live else -1
        member.live = live

    def set_clock(self, member: Member, clock: int) -> None:
        """The member's t_m; it never falls."""
        if clock > member.clock:
            if member.live:
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
