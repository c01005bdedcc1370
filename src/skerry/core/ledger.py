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
from typing import Any

from skerry.core.messages import CAUSES, Count, LostCause

ZERO = Count()


class Tally:
    """What became of one learner's work (all its generations), in tokens x parameters and microseconds x parameters."""

    __slots__ = ("busy_lost", "busy_merged", "busy_processed", "lost", "merged", "processed", "tokens")

    def __init__(self) -> None:
        self.tokens = 0  # plain tokens processed
        self.processed = self.merged = 0
        self.busy_processed = self.busy_merged = 0
        self.lost: dict[LostCause, int] = dict.fromkeys(CAUSES, 0)
        self.busy_lost: dict[LostCause, int] = dict.fromkeys(CAUSES, 0)

    def add(self, other: Tally) -> None:
        """Add another learner's tally to this one."""
        for name in ("tokens", "processed", "merged", "busy_processed", "busy_merged"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for cause in CAUSES:
            self.lost[cause] += other.lost[cause]
            self.busy_lost[cause] += other.busy_lost[cause]

    def state(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @staticmethod
    def restored(state: dict[str, Any]) -> Tally:
        """The inverse of state()."""
        tally = Tally()
        for name in Tally.__slots__:
            setattr(tally, name, state[name])
        return tally


class Account:
    """The cursors of one learner's generation."""

    __slots__ = ("base", "count", "merged", "moves", "promised", "refused", "retired", "settled", "tally")

    def __init__(self, tally: Tally, fragments: int) -> None:
        self.tally = tally
        self.count = ZERO
        self.settled = [ZERO] * fragments
        self.base = [-1] * fragments
        self.merged: list[tuple[int, int]] = [(0, 0)] * fragments  # (version, tokens up to which) of the last merge
        self.refused: set[int] = set()  # fragments whose last contribution was refused
        self.promised: set[int] = set()  # fragments with a contribution in a round that is still open
        self.moves: dict[int, tuple[int, Count]] = {}  # take-overs reported while promised, seen to afterwards
        self.retired = False  # a later generation lives: nothing of this one can be merged any more


class Ledger:
    """All accounts' amounts. `sizes`: parameters per fragment."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.total_size = sum(sizes)
        self.tallies: dict[int, Tally] = {}
        self.tokens = 0  # plain tokens processed by all, for the budget

    def open(self, learner: int) -> Account:
        """A new generation's account."""
        return Account(self.tallies.setdefault(learner, Tally()), len(self.sizes))

    def counted(self, account: Account, count: Count) -> None:
        """The learner's counters have come to `count`; what is older than known changes nothing."""
        done = account.count
        if count <= done:
            return
        if count.tokens < done.tokens or count.busy_us < done.busy_us:  # no honest learner's counters fall
            count = Count(count.steps, max(count.tokens, done.tokens), max(count.busy_us, done.busy_us))
        tokens = count.tokens - done.tokens
        tally = account.tally
        tally.tokens += tokens
        tally.processed += tokens * self.total_size
        tally.busy_processed += (count.busy_us - done.busy_us) * self.total_size
        self.tokens += tokens
        account.count = count

    def promise(self, account: Account, fragment: int) -> None:
        """A contribution was accepted into an open round: until `keep` or `release` its interval stays as it is."""
        account.promised.add(fragment)

    def keep(self, account: Account, fragment: int, until: Count, version: int) -> None:
        """The round closed: (settled, until] of the fragment is merged, in that version."""
        since, size, tally = account.settled[fragment], self.sizes[fragment], account.tally
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

    def moved(self, account: Account, fragment: int, version: int, settled: Count) -> None:
        """The learner took `version` over; from `settled` on its progress counts anew. What lies between is lost:
        `overlap` if a contribution since the old base was merged, else `refused` or `excluded`."""
        base = account.base[fragment]
        again = version == base and fragment in account.refused and settled > account.settled[fragment]  # not old news
        if version <= base and not again:
            return
        if fragment in account.promised:
            account.moves[fragment] = (version, settled)
            return
        account.base[fragment] = version
        included = base < account.merged[fragment][0] <= version
        cause: LostCause = "overlap" if included else "refused" if fragment in account.refused else "excluded"
        account.refused.discard(fragment)
        self.counted(account, settled)
        self._lose(account, fragment, settled, cause)

    def retire(self, account: Account) -> None:
        """Nothing more will come of this generation: what is pending and not in an open round is lost."""
        account.retired = True
        for fragment in range(len(self.sizes)):
            if fragment not in account.promised:
                self._lose(account, fragment, account.count, "died")

    def _lose(self, account: Account, fragment: int, until: Count, cause: LostCause) -> None:
        since = account.settled[fragment]
        if until <= since:
            return
        size, tally = self.sizes[fragment], account.tally
        tally.lost[cause] += (until.tokens - since.tokens) * size
        tally.busy_lost[cause] += (until.busy_us - since.busy_us) * size
        account.settled[fragment] = until

    def write_off(self, account: Account) -> None:
        """After a restore: what superseded generations had in rounds that were open then is in no account any more."""
        tally = account.tally
        tally.lost["died"] += tally.processed - tally.merged - sum(tally.lost.values()) - self.pending(account)
        busy = sum((account.count.busy_us - at.busy_us) * n for at, n in zip(account.settled, self.sizes, strict=True))
        tally.busy_lost["died"] += tally.busy_processed - tally.busy_merged - sum(tally.busy_lost.values()) - busy

    def pending(self, account: Account) -> int:
        """Tokens x parameters of an account that are neither merged nor lost, from its cursors."""
        return sum((account.count.tokens - at.tokens) * size for at, size in zip(account.settled, self.sizes, strict=True))

    def total(self) -> Tally:
        """The tallies of all learners, added up."""
        total = Tally()
        for tally in self.tallies.values():
            total.add(tally)
        return total
