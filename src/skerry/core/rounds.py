"""Rounds: one is the merge of one fragment at one global step.

    due -> open -> K-th complete contribution -> grace over, or all answered -> closed: a new version, delivered to all
                \\-> all answered, or out of time, and K not complete          -> cancelled: nothing changes

Rules: at most max(1, tau) are open, the due ones wait in order; a fragment that falls due while it still waits is
skipped. A round waits only for those that were live when it was opened, and never for one that died since. It is named
(fragment, step); the final ones bear a step of their own, past all others'. In synchronous policies nobody is asked:
the first hand-over opens the round, and it waits for all.
"""

from __future__ import annotations

from skerry.core.grace import Grace
from skerry.core.ledger import Account, Ledger
from skerry.core.members import Member, Members
from skerry.core.messages import (
    Ask,
    Cancel,
    Close,
    Contribution,
    Deliver,
    Merge,
    Outcome,
    SyncerAction,
    Verdict,
)
from skerry.core.policy import ALL, Policy
from skerry.core.timers import Timers


class Round:
    """A round that is open. It waits for `waiting` of the members that were live when it was opened."""

    __slots__ = ("accepted", "answered", "close_at", "final", "fragment", "give_up_at", "opened", "owner", "seq", "step",
                 "synchronous", "waiting")  # fmt: skip

    def __init__(self, owner: Rounds, fragment: int, step: int, opened: float, give_up_at: float, *, final: bool) -> None:
        self.owner = owner
        self.fragment = fragment
        self.step = step
        self.opened = opened
        self.seq = owner.members.next_seq()  # members that became live later were not asked
        self.give_up_at = give_up_at
        self.close_at: float | None = None  # end of the grace window, once the quorum is complete
        self.final = final
        self.synchronous = owner.policy.synchronous and not final
        self.waiting = owner.members.live
        if self.synchronous:
            self.waiting = sum(self.expects(member) for member in owner.members)
        self.answered: set[int] = set()
        self.accepted: dict[int, tuple[Account, Contribution]] = {}

    def expects(self, member: Member) -> bool:
        """Whether the round waits for this member as long as it lives. In a synchronous policy nobody is asked: who
        became live at or past the round's step will not hand over for it."""
        if not member.live or member.live_seq > self.seq:
            return False
        return not self.synchronous or member.live_clock < self.step

    def answer(self, member: Member) -> None:
        """The member has said what it has to say in this round."""
        if member.id not in self.answered:
            self.answered.add(member.id)
            if self.expects(member):
                self.waiting -= 1

    def lose(self, member: Member) -> None:
        """The member is about to die: do not wait for it."""
        if member.id not in self.answered and self.expects(member):
            self.waiting -= 1

    def wants(self) -> bool:
        """Timers: whether it is still open."""
        return self.owner.open.get(self.fragment) is self

    def look(self, now: float) -> None:
        """Timers: its grace or its patience may be over."""
        self.owner.review(now, self)


class Rounds:
    """The open and the due rounds, and the versions they made."""

    def __init__(self, policy: Policy, members: Members, ledger: Ledger, grace: Grace, timers: Timers,
                 out: list[SyncerAction]) -> None:  # fmt: skip
        self.policy = policy
        self.members = members
        self.open: dict[int, Round] = {}  # by fragment
        self.versions: list[int] = []  # of each fragment; empty until there is a model
        self.closed = self.contributors = self.skipped = self.cancelled = 0  # counts; contributors summed over closed
        self.ending = False  # the budget is reached: whoever stops before its hand-over is asked for it
        self._ledger = ledger
        self._grace = grace
        self._timers = timers
        self._out = out
        self.due: dict[int, None] = {}  # fragments that wait for a free place, in order
        self._due_at: dict[int, list[int]] = {}  # t modulo H -> fragments
        for fragment in range(policy.fragments):
            self._due_at.setdefault(policy.offset(fragment), []).append(fragment)
        self._last_step = [0] * policy.fragments  # step of each fragment's last round
        self._passed: dict[tuple[int, int], set[int]] = {}  # synchronous: who answered a round before it opened
        self._receipts: dict[int, list[float]] = {}  # fragment -> [version, closed at, receipts still to the median]

    # ------------------------------------------------------------------ opening

    def fall_due(self, old: int, new: int) -> None:
        """The run's step went from `old` to `new`."""
        if self.policy.synchronous:
            return
        for step in range(old + 1, new + 1):
            for fragment in self._due_at.get(step % self.policy.interval, ()):
                if fragment in self.due:
                    self.skipped += 1
                self.due[fragment] = None

    def open_due(self, now: float, progress: float) -> None:
        """Open what is due, in order, as far as there is room and enough learners live."""
        members = self.members
        while self.due and len(self.open) < self.policy.open_rounds and members.live >= members.quorum:
            fragment = next((p for p in self.due if p not in self.open), None)
            if fragment is None:
                return
            del self.due[fragment]
            self._open(now, fragment, members.step, self.policy.round_timeout)
            self._out.append(Ask(fragment=fragment, step=members.step, progress=progress))

    def end(self) -> None:
        """Open no more; in synchronous policies ask for what the open ones still wait for."""
        self.ending = True
        self.due.clear()
        if self.policy.synchronous:
            for round_ in self.open.values():
                self._out.append(Ask(fragment=round_.fragment, step=round_.step, progress=1.0))

    def open_final(self, now: float) -> None:
        """One last round of every fragment, asked of all."""
        step = self._last_name()
        opened = [self._open(now, fragment, step, self.policy.final_timeout, final=True)
                  for fragment in range(self.policy.fragments)]  # fmt: skip
        self._out.extend(Ask(fragment=round_.fragment, step=step, progress=1.0, final=True) for round_ in opened)
        for round_ in opened:
            self.review(now, round_)

    def _last_name(self) -> int:
        """A step that no other round bears. Synchronous learners name rounds by themselves, ahead of t, though none gets
        further than to its next hand-over's end."""
        if not self.policy.synchronous:
            return self.members.step + 1
        furthest = max(self.members.step, *self._last_step, *(member.clock for member in self.members))
        return furthest + 2 * self.policy.interval + self.policy.overlap + 1

    def _open(self, now: float, fragment: int, step: int, patience: float, *, final: bool = False) -> Round:
        round_ = self.open[fragment] = Round(self, fragment, step, now, now + patience, final=final)
        for learner in self._passed.pop((fragment, step), ()):
            if (member := self.members.get(learner)) is not None:
                round_.answer(member)
        self._timers.at(round_.give_up_at, round_)
        return round_

    def _opened_by(self, now: float, event: Contribution) -> Round | None:
        """Synchronous policies: the first hand-over at a step opens the round."""
        if not self.policy.synchronous or event.step <= self._last_step[event.fragment]:
            return None
        if self.ending:
            self._out.append(Ask(fragment=event.fragment, step=event.step, progress=1.0))
        return self._open(now, event.fragment, event.step, self.policy.sync_timeout)

    # ------------------------------------------------------------------ answers

    def contribution(self, now: float, member: Member, event: Contribution) -> None:
        """A hand-over is complete and screened: merge it, or say why not."""
        round_ = self.open.get(event.fragment) or self._opened_by(now, event)
        if round_ is None or round_.step != event.step:
            self._pass(member, event.fragment, event.step)
            was_merged = member.account.merged[event.fragment][1] >= event.until.tokens > 0
            self._answer(member, event, "merged" if was_merged else "late")
        elif member.id not in round_.answered:
            round_.answer(member)
            self._judge(member, event, round_)
            self.review(now, round_)

    def _judge(self, member: Member, event: Contribution, round_: Round) -> None:
        account, fragment = member.account, event.fragment
        if event.flaw:
            account.refused.add(fragment)
            self._answer(member, event, "refused", event.flaw)
            self._out.append(Deliver(learner=member.id, fragments=(fragment,)))
        elif event.base < self.versions[fragment] - self.policy.max_staleness and not self._carried(round_):
            self._answer(member, event, "stale")
            self._out.append(Deliver(learner=member.id, fragments=(fragment,)))
        elif event.since != account.settled[fragment] or event.until.tokens <= event.since.tokens:
            self._answer(member, event, "stale", "part of this interval is settled already")
        else:
            round_.accepted[member.id] = (account, event)
            self._ledger.promise(account, fragment)
            work = event.until.minus(event.since)
            self._out.append(Merge(learner=member.id, generation=member.generation, fragment=fragment, step=event.step,
                                   tokens=work.tokens, steps=work.steps))  # fmt: skip

    def _carried(self, round_: Round) -> bool:
        """In the last round there is no next time for what would be carried; and v would be the same from a newer base."""
        return round_.final and self.policy.on_excluded == "carry"

    def _answer(self, member: Member, event: Contribution, verdict: Outcome, reason: str = "") -> None:
        self._out.append(Verdict(learner=member.id, generation=member.generation, fragment=event.fragment,
                                step=event.step, verdict=verdict, reason=reason))  # fmt: skip

    def nothing(self, now: float, member: Member, fragment: int, step: int) -> None:
        """The member has nothing for this round."""
        round_ = self.open.get(fragment)
        if round_ is not None and round_.step == step:
            round_.answer(member)
            self.review(now, round_)
        else:
            self._pass(member, fragment, step)

    def _pass(self, member: Member, fragment: int, step: int) -> None:
        """Synchronous policies: the member has answered a round that is not open yet; when it is, do not wait for it."""
        if self.policy.synchronous and step > self._last_step[fragment]:
            self._passed.setdefault((fragment, step), set()).add(member.id)

    def lose(self, member: Member) -> None:
        """The member is about to die."""
        for round_ in self.open.values():
            round_.lose(member)

    def received(self, now: float, fragment: int, version: int) -> None:
        """A receipt; the median one of the newest version measures xi_sync."""
        receipts = self._receipts.get(fragment)
        if receipts is not None and receipts[0] == version:
            receipts[2] -= 1
            if receipts[2] == 0:
                self._grace.sync.add(now - receipts[1])

    # ------------------------------------------------------------------ closing

    def review_all(self, now: float) -> None:
        """Somebody died: look whether a round has nothing left to wait for."""
        for round_ in list(self.open.values()):
            self.review(now, round_)

    def review(self, now: float, round_: Round) -> None:
        """Close, cancel or go on waiting."""
        any_do = round_.final or self.policy.quorum == ALL  # these wait for everybody, and take whoever comes
        enough = len(round_.accepted) >= (1 if any_do else self.members.quorum)
        if enough and not any_do and round_.close_at is None:
            self._grace.quorum.add(now - round_.opened)
            round_.close_at = now + self._grace.window()
            self._timers.at(round_.close_at, round_)
        in_time = now < round_.give_up_at
        if round_.waiting > 0 and in_time and (round_.close_at is None or now < round_.close_at):
            return
        if not in_time and self.policy.quorum == ALL and not self.policy.synchronous and not round_.final:
            enough = False  # all were wanted, and some did not come
        self._close(now, round_, merge=enough)

    def _close(self, now: float, round_: Round, *, merge: bool) -> None:
        fragment = round_.fragment
        del self.open[fragment]
        self._last_step[fragment] = round_.step
        for key in [key for key in self._passed if key[0] == fragment and key[1] <= round_.step]:
            del self._passed[key]
        if not merge:
            for account, _ in round_.accepted.values():
                self._ledger.release(account, fragment)
            self.cancelled += 1
            self._out.append(Cancel(fragment=fragment, step=round_.step))
            return
        version = self.versions[fragment] = self.versions[fragment] + 1
        for account, event in round_.accepted.values():
            self._ledger.keep(account, fragment, event.until, version)
        self.closed += 1
        self.contributors += len(round_.accepted)
        self._receipts[fragment] = [version, now, self.members.live // 2 + 1]
        self._out.append(Close(fragment=fragment, step=round_.step, version=version, included=tuple(round_.accepted)))

    # ------------------------------------------------------------------ snapshots

    COUNTS = ("closed", "contributors", "skipped", "cancelled")

    def state(self) -> dict[str, object]:
        """Plain values. Open rounds are left out: what they hold is still its learners'. These will begin anew at t."""
        return {"versions": self.versions, "last_step": [min(step, self.members.step) for step in self._last_step],
                **{name: getattr(self, name) for name in self.COUNTS}}  # fmt: skip

    def restore(self, state: dict[str, object]) -> None:
        """The inverse of state()."""
        self.versions[:], self._last_step[:] = state["versions"], state["last_step"]  # type: ignore[call-overload]
        for name in self.COUNTS:
            setattr(self, name, state[name])
