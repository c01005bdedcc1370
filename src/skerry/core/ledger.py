"""The token ledger: every token a learner processed is merged, pending or lost (with its cause), and the three add up.

Kept in integers, per (learner, generation, fragment), as cursors on the learner's cumulative counters:

    0 ........ settled ........ count
    merged or lost    pending

A merge moves `settled` from the contribution's `since` to its `until`; a take-over moves it on to where the fragment's
progress counts anew, and what it passes over without a merge is lost. Amounts are tokens x parameters, and with the
same cursors microseconds x parameters, from which goodput follows. The totals are kept apart from the cursors, so that
`processed = merged + pending + lost` is a check and not a tautology.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from skerry.core.messages import CAUSES, Count, LostCause

ZERO = Count()


@dataclass(slots=True)
class Tally:
    """What became of one learner's work (all its generations), in tokens x parameters and microseconds x parameters."""

    tokens: int = 0  # plain tokens processed
    processed: int = 0
    merged: int = 0
    busy_processed: int = 0
    busy_merged: int = 0
    lost: dict[LostCause, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    busy_lost: dict[LostCause, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))

    def add(self, other: Tally) -> None:
        """Add another learner's tally to this one."""
        for name in ("tokens", "processed", "merged", "busy_processed", "busy_merged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for cause in CAUSES:
            self.lost[cause] += other.lost[cause]
            self.busy_lost[cause] += other.busy_lost[cause]


class Move(NamedTuple):
    """A take-over that was told."""

    version: int
    settled: Count


@dataclass(slots=True)
class Account:
    """The cursors of one learner's generation."""

    learner: int
    generation: int
    settled: list[Count]
    base: list[int]
    merged: list[tuple[int, int]]  # the last merges: version, tokens up to which (plain: the collector need not look at them)
    count: Count = ZERO
    refused: set[int] = field(default_factory=set)  # fragments whose last contribution was refused
    promised: set[int] = field(default_factory=set)  # fragments with a contribution in a round that is not over
    moves: dict[int, Move] = field(default_factory=dict)  # take-overs told while promised, seen to afterwards
    retired: bool = False  # a later generation lives: nothing of this one can be merged any more


class Ledger:
    """All accounts' amounts. `sizes`: parameters per fragment."""

    tallies: dict[int, Tally]
    tokens: int  # plain tokens processed by all, for the budget
    retired: dict[int, dict[int, Account]]  # learner -> generation -> what was closed with contributions in open rounds

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.total_size = sum(sizes)
        self.tallies, self.tokens, self.retired = {}, 0, {}

    def open(self, learner: int, generation: int) -> Account:
        """A new generation's account."""
        self.tallies.setdefault(learner, Tally())
        n = len(self.sizes)
        return Account(learner, generation, [ZERO] * n, [-1] * n, [(0, 0)] * n)

    def counted(self, account: Account, count: Count) -> None:
        """The learner's counters have come to `count`; what is older than known changes nothing."""
        done = account.count
        if count <= done:
            return
        if count.tokens < done.tokens or count.busy_us < done.busy_us:  # no honest learner's counters fall
            count = Count(count.steps, max(count.tokens, done.tokens), max(count.busy_us, done.busy_us))
        tokens, size = count.tokens - done.tokens, self.total_size
        tally = self.tallies[account.learner]
        tally.tokens += tokens
        tally.processed += tokens * size
        tally.busy_processed += (count.busy_us - done.busy_us) * size
        self.tokens += tokens
        account.count = count

    def promise(self, account: Account, fragment: int) -> None:
        """A contribution was accepted into an open round: until `keep` or `release` its interval stays as it is."""
        account.promised.add(fragment)

    def keep(self, account: Account, fragment: int, until: Count, version: int) -> None:
        """The round closed: (settled, until] of the fragment is merged, in that version."""
        since, size, tally = account.settled[fragment], self.sizes[fragment], self.tallies[account.learner]
        tally.merged += (until.tokens - since.tokens) * size
        tally.busy_merged += (until.busy_us - since.busy_us) * size
        account.settled[fragment] = until
        account.merged[fragment] = (version, until.tokens)
        account.refused.discard(fragment)
        self.release(account, fragment)

    def release(self, account: Account, fragment: int) -> None:
        """The round is over: see to what had to wait for that."""
        account.promised.discard(fragment)
        if fragment in account.moves:
            self.moved(account, fragment, *account.moves.pop(fragment))
        if account.retired:
            self._lose(account, fragment, account.count, "died")
            if not account.promised:
                self._forget(account)

    def _forget(self, account: Account) -> None:
        """Of this closed generation nothing is needed any more but its tally."""
        closed = self.retired[account.learner]
        del closed[account.generation]
        if not closed:
            del self.retired[account.learner]

    def moved(self, account: Account, fragment: int, version: int, settled: Count) -> None:
        """The learner took `version` over; from `settled` on its progress counts anew. What lies between is lost:
        `overlap` if a contribution since the old base was merged, else `refused` or `excluded`."""
        base = account.base[fragment]
        again = version == base and fragment in account.refused and settled > account.settled[fragment]  # not old news
        if version <= base and not again:
            return
        if fragment in account.promised:
            account.moves[fragment] = Move(version, settled)
            return
        account.base[fragment] = version
        included = base < account.merged[fragment][0] <= version
        cause: LostCause = "overlap" if included else "refused" if fragment in account.refused else "excluded"
        account.refused.discard(fragment)
        self.counted(account, settled)
        self._lose(account, fragment, settled, cause)

    def retire(self, account: Account) -> None:
        """Nothing more will come of this generation: what is pending and not in a round that goes on is lost."""
        account.retired = True
        if account.promised:
            self.retired.setdefault(account.learner, {})[account.generation] = account
        for fragment in range(len(self.sizes)):
            if fragment not in account.promised:
                self._lose(account, fragment, account.count, "died")

    def _lose(self, account: Account, fragment: int, until: Count, cause: LostCause) -> None:
        since = account.settled[fragment]
        if until <= since:
            return
        size, tally = self.sizes[fragment], self.tallies[account.learner]
        tally.lost[cause] += (until.tokens - since.tokens) * size
        tally.busy_lost[cause] += (until.busy_us - since.busy_us) * size
        account.settled[fragment] = until

    def pending(self, account: Account) -> int:
        """Tokens x parameters of an account that are neither merged nor lost, from its cursors."""
        return sum((account.count.tokens - at.tokens) * size for at, size in zip(account.settled, self.sizes, strict=True))

    def total(self) -> Tally:
        """The tallies of all learners, added up."""
        total = Tally()
        for tally in self.tallies.values():
            total.add(tally)
        return total
