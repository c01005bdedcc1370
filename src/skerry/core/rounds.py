"""Rounds: one is the merge of one fragment at one global step.

    due -> OPEN -> K-th complete contribution -> GRACE -> window over, or all answered -> CLOSING -> published: a new version
             \\-> all answered, or out of time, and K not complete -> cancelled: nothing changes <- failed -'

Rules: at most max(1, tau) go on, closing ones included; the due ones wait in order, and a fragment that falls due while it
still waits is skipped. A round waits only for those that were live when it was opened, and never for one that died since (the
last ones do, if it is its link that broke). While a round is closing its contributions are its learners' still, its
fragment is not asked for anew, and what is sent for it again waits: publishing answers that. A round is named
(fragment, step); the final ones bear a step of their own, past all others'. In synchronous policies nobody is asked: the
first hand-over opens the round, and it waits for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from skerry.core.grace import Grace
from skerry.core.ledger import Account, Ledger
from skerry.core.maker import maker
from skerry.core.members import LIVE, Member, Members
from skerry.core.messages import (
    Ask,
    Cancel,
    Close,
    Contribution,
    Count,
    Deliver,
    Distribute,
    Failed,
    Merge,
    Outcome,
    Published,
    SyncerAction,
    Verdict,
)
from skerry.core.policy import ALL, Policy
from skerry.core.round import CLOSING, GRACE, OPEN, Part, Receipts, Round, last_name
from skerry.core.screening import Screening
from skerry.core.timers import Subject, Timers

make_merge = maker(Merge)


class Rounds:
    """The rounds that go on and those that are due, and the versions they made."""

    versions: list[int]  # of each fragment; empty until there is a model
    steps: list[int]  # of each fragment, of the round that made its version
    open: dict[int, Round]  # by fragment: those that take contributions
    closing: dict[int, Round]
    due: dict[int, None]  # fragments that wait for a free place, in order
    last_step: list[int]  # of each fragment's last round that was decided
    passed: dict[int, dict[int, set[int]]]  # synchronous: fragment -> step -> who answered a round before it opened
    receipts: dict[int, Receipts]
    closed: int  # these are counts; contributors summed over closed rounds
    contributors: int
    skipped: int
    cancelled: int
    refused: int

    def __init__(self, policy: Policy, members: Members, ledger: Ledger, grace: Grace, screening: Screening, timers: Timers,
                 out: list[SyncerAction]) -> None:  # fmt: skip
        self.versions, self.steps = [], [0] * policy.fragments
        self.open, self.closing, self.due = {}, {}, {}
        self.last_step, self.passed, self.receipts = [0] * policy.fragments, {}, {}
        self.closed = self.contributors = self.skipped = self.cancelled = self.refused = 0
        self.policy, self._most = policy, policy.open_rounds
        self._members, self._ledger, self._grace, self._screening = members, ledger, grace, screening
        self._timers, self._out = timers, out
        self._due_at: dict[int, list[int]] = {}  # t modulo H -> fragments
        for fragment in range(policy.fragments):
            self._due_at.setdefault(policy.offset(fragment), []).append(fragment)

    @property
    def under_way(self) -> int:
        """How many rounds go on."""
        return len(self.open) + len(self.closing)

    @property
    def may_open(self) -> bool:
        """Whether a round is due, and there is a place for it."""
        return bool(self.due) and len(self.open) + len(self.closing) < self._most

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
        members = self._members
        while self.may_open and members.live >= members.quorum:
            fragment = next((p for p in self.due if p not in self.open and p not in self.closing), None)
            if fragment is None:
                return
            del self.due[fragment]
            self._open(now, fragment, members.step, self.policy.round_timeout)
            self._out.append(Ask(fragment=fragment, step=members.step, progress=progress))

    def end(self) -> None:
        """Open no more; in synchronous policies ask for what the open ones still wait for."""
        self.due.clear()
        if self.policy.synchronous:
            self._ask(self.open.values(), -1)

    def open_final(self, now: float) -> None:
        """One last round of every fragment, asked of all."""
        step = last_name(self.policy, self._members, self.last_step)
        opened = [self._open(now, fragment, step, self.policy.final_timeout, final=True)
                  for fragment in range(self.policy.fragments)]  # fmt: skip
        self._ask(opened, -1)
        for round_ in opened:
            self.review(now, round_)

    def ask_again(self, member: Member, progress: float = 1.0) -> None:
        """The member comes back, and was waited for, or the run is ending: what it may not have heard is asked once more."""
        self._ask([round_ for round_ in self.open.values() if member.id not in round_.answered], member.id, progress)

    def _ask(self, rounds: Iterable[Round], learner: int, progress: float = 1.0) -> None:
        self._out.extend(Ask(learner=learner, fragment=round_.fragment, step=round_.step, progress=progress, final=round_.final)
                         for round_ in rounds)  # fmt: skip

    def _open(self, now: float, fragment: int, step: int, patience: float, *, final: bool = False) -> Round:
        until, members = now + patience, self._members
        round_ = Round(fragment, step, now, members.next_seq(), until, until, final)
        self.open[fragment] = round_
        if final or self.policy.synchronous:
            round_.waiting = sum(self._expects(round_, member) for member in members)
        else:
            round_.waiting = members.live
        for learner in self.passed.get(fragment, {}).get(step, ()):
            if (member := members.get(learner)) is not None:
                self._answered(round_, member)
        self._timers.at(until, Subject.ROUND, fragment, round_.seq)
        return round_

    def _expects(self, round_: Round, member: Member) -> bool:
        """Whether the round waits for this member as long as it lives. In a synchronous policy nobody is asked: who
        became live at or past the round's step will not hand over for it."""
        if member.live_seq > round_.seq or (self.policy.synchronous and not round_.final and member.live_clock >= round_.step):
            return False
        return member.standing is LIVE or (member.awaited and (round_.final or member.missed))

    def _waits_for(self, round_: Round, member: Member) -> bool:
        """Whether it has not answered yet, and is waited for."""
        return member.id not in round_.answered and self._expects(round_, member)

    def _answered(self, round_: Round, member: Member) -> None:
        """The member has said what it has to say in this round."""
        if self._waits_for(round_, member):
            round_.waiting -= 1
        round_.answered.add(member.id)

    def _opened_by(self, now: float, member: Member, event: Contribution, ending: bool) -> Round | None:
        """Synchronous policies: the first hand-over at a step opens the round. Not of who has answered it already, and did not
        hear what became of that."""
        if not self.policy.synchronous or event.step <= self.last_step[event.fragment]:
            return None
        if member.id in self.passed.get(event.fragment, {}).get(event.step, ()):
            return None
        round_ = self._open(now, event.fragment, event.step, self.policy.sync_timeout)
        if ending:  # whoever stops before its hand-over is asked for it
            self._ask([round_], -1)
        return round_

    # ------------------------------------------------------------------ answers

    def contribution(self, now: float, member: Member, event: Contribution, ending: bool) -> None:
        """A hand-over is complete and screened: merge it, or say why not. `ending`: the budget is reached."""
        round_ = self.open.get(event.fragment)
        if round_ is None and not member.quarantined:
            round_ = self._opened_by(now, member, event, ending)
        if round_ is not None and round_.step == event.step:
            if member.id not in round_.answered and not self._asks_again(member, event, round_):
                self._answered(round_, member)
                self._judge(member, event, round_)
                self.review(now, round_)
        elif not self._in_closing(member, event):
            self._pass(member, event.fragment, event.step)
            if member.account.merged[event.fragment][1] >= event.until.tokens > 0:
                self._say(member, event, "merged")
            elif member.quarantined:
                self._refuse(member, event, member.quarantined)
            elif event.step > self.last_step[event.fragment] and not self.policy.synchronous:  # a restart ended it
                self._out.append(Cancel(learner=member.id, fragment=event.fragment, step=event.step))
            else:
                self._say(member, event, "late")

    def _in_closing(self, member: Member, event: Contribution) -> bool:
        """Whether it lies in a round that is closing: it hears of its fate when that is over."""
        round_ = self.closing.get(event.fragment)
        held = round_.accepted.get(member.id) if round_ is not None and round_.step == event.step else None
        return held is not None and held.generation == event.generation

    def _judge(self, member: Member, event: Contribution, round_: Round) -> None:
        account, fragment = member.account, event.fragment
        steps = max(1, event.until.steps - event.since.steps)
        if flaw := event.flaw or member.quarantined:
            self._refuse(member, event, flaw)
        elif event.base < self.versions[fragment] - self.policy.max_staleness and not self._carried(round_):
            self._say(member, event, "stale")
            self._out.append(Deliver(learner=member.id, fragments=(fragment,)))
        elif (event.since != account.settled[fragment] or event.until.tokens <= event.since.tokens
              or fragment in account.promised):  # to the round that is closing, before an agent died  # fmt: skip
            self._say(member, event, "stale", "part of this interval is settled already")
        elif flaw := self._screening.flaw(account, fragment, steps, event.norms, self.versions[fragment]):
            self._refuse(member, event, flaw)
        else:
            round_.accepted[member.id] = Part(event.generation, event.until)
            self._ledger.promise(account, fragment)
            tokens = event.until.tokens - event.since.tokens
            weight = self._screening.weigh(fragment, tokens, steps)
            self._out.append(make_merge(learner=member.id, generation=event.generation, fragment=fragment, step=event.step,
                                        tokens=tokens, steps=steps, weight=weight))  # fmt: skip

    def _asks_again(self, member: Member, event: Contribution, round_: Round) -> bool:
        """Whether the last round waits on: a part of this is in a version that the member has yet to take over."""
        p, account = event.fragment, member.account
        as_usual = event.since >= account.settled[p] or event.base >= self.versions[p]
        if as_usual or not round_.final or event.flaw or member.quarantined:
            return False
        round_.again.add(member.id)
        self._say(member, event, "stale", "part of this interval is settled already")
        self._out.append(Deliver(learner=member.id, fragments=(p,)))
        return True

    def taken_over(self, member: Member, fragment: int) -> None:
        """The member stands on what was delivered: it may have been what its answer had to wait for."""
        if (round_ := self.open.get(fragment)) is not None and member.id in round_.again:
            round_.again.discard(member.id)
            self._ask([round_], member.id)

    def _refuse(self, member: Member, event: Contribution, why: str) -> None:
        """Its values are flawed: the sender takes the present version over once more."""
        self.refused += 1
        member.refusals += 1
        if member.refusals >= self.policy.quarantine_after > 0 and self._members.live > 1:  # one is left to go on with
            member.quarantined = member.quarantined or why
        member.account.refused.add(event.fragment)
        self._say(member, event, "refused", why)
        self._out.append(Deliver(learner=member.id, fragments=(event.fragment,)))

    def _carried(self, round_: Round) -> bool:
        """In the last round there is no next time for what would be carried; and v would be the same from a newer base."""
        return round_.final and self.policy.on_excluded == "carry"

    def _say(self, member: Member, event: Contribution, verdict: Outcome, reason: str = "") -> None:
        self._out.append(Verdict(learner=member.id, generation=member.generation, fragment=event.fragment,
                                 step=event.step, verdict=verdict, reason=reason))  # fmt: skip

    def abstain(self, now: float, member: Member, fragment: int, step: int) -> None:
        """The member has nothing for this round."""
        round_ = self.open.get(fragment)
        if round_ is not None and round_.step == step:
            self._answered(round_, member)
            self.review(now, round_)
        else:
            self._pass(member, fragment, step)

    def _pass(self, member: Member, fragment: int, step: int) -> None:
        """Synchronous policies: the member has answered a round that is not open yet; when it is, do not wait for it."""
        if self.policy.synchronous and step > self.last_step[fragment]:
            self.passed.setdefault(fragment, {}).setdefault(step, set()).add(member.id)

    def lose(self, member: Member, *, returns: bool = False) -> None:
        """The member is about to be waited for no more; but by the last rounds, if it may come back (`returns`)."""
        for round_ in self.open.values():
            if self._waits_for(round_, member) and not (returns and round_.final):
                round_.waiting -= 1

    def regain(self, member: Member) -> None:
        """A member that was awaited has come back: the rounds before the last ones wait for it once more."""
        for round_ in self.open.values():
            if not round_.final and not member.missed and self._waits_for(round_, member):
                round_.waiting += 1

    def received(self, now: float, learner: int, fragment: int, version: int) -> None:
        """A receipt; the median one of the newest version measures xi_sync."""
        receipts = self.receipts.get(fragment)
        if receipts is not None and receipts.median(learner, version):
            self._grace.sync.add(now - receipts.since)
            del self.receipts[fragment]

    # ------------------------------------------------------------------ closing

    def review_all(self, now: float) -> None:
        """Somebody died: look whether a round has nothing left to wait for."""
        for round_ in list(self.open.values()):
            self.review(now, round_)

    def review(self, now: float, round_: Round) -> None:
        """Close, cancel or go on waiting."""
        if round_.stage is GRACE and round_.waiting > 0 and now < round_.look_at and now < round_.patient_until:
            return  # the usual case
        if round_.fragment in self.closing:
            return  # synchronous policies: after the one before it
        any_do = round_.final or self.policy.quorum == ALL  # these wait for everybody, and take whoever comes
        enough = len(round_.accepted) >= (1 if any_do else self._members.quorum)
        if enough and not any_do and round_.stage is OPEN:
            self._grace.quorum.add(now - round_.opened)
            round_.stage, round_.look_at = GRACE, now + self._grace.window()
            self._timers.at(round_.look_at, Subject.ROUND, round_.fragment, round_.seq)
        in_time = now < round_.patient_until
        if round_.waiting > 0 and in_time and now < round_.look_at:
            return
        if not in_time and self.policy.quorum == ALL and not self.policy.synchronous and not round_.final:
            enough = False  # all were wanted, and some did not come
        self._decide(now, round_, merge=enough)

    def _decide(self, now: float, round_: Round, *, merge: bool) -> None:
        fragment = round_.fragment
        del self.open[fragment]
        self._timers.unsure = True
        self.last_step[fragment] = round_.step
        if passed := {step: who for step, who in self.passed.pop(fragment, {}).items() if step > round_.step}:
            self.passed[fragment] = passed
        if not merge:
            self._cancel(round_)
            return
        round_.stage, round_.closed, round_.readers = CLOSING, now, self._members.live
        self.closing[fragment] = round_
        self._out.append(Close(fragment=fragment, step=round_.step, version=self.versions[fragment] + 1,
                               included=round_.contributors))  # fmt: skip

    def _cancel(self, round_: Round) -> None:
        for account, _ in self._parts(round_):
            self._ledger.release(account, round_.fragment)
        self.cancelled += 1
        self._out.append(Cancel(fragment=round_.fragment, step=round_.step))

    def published(self, now: float, event: Published) -> None:
        """The version exists: what lies in its round is merged."""
        fragment, version = event.fragment, event.version
        round_ = self.closing.get(fragment)
        if round_ is None or version != self.versions[fragment] + 1:
            return
        del self.closing[fragment]
        self.versions[fragment], self.steps[fragment] = version, round_.step
        for account, until in self._parts(round_):
            self._ledger.keep(account, fragment, until, version)
            self._members.by_id[account.learner].refusals = 0
        self.closed += 1
        self.contributors += len(round_.accepted)
        self.receipts[fragment] = Receipts(version, round_.closed, round_.readers // 2 + 1)
        self._out.append(Distribute(fragment=fragment, version=version, step=round_.step, included=round_.contributors))
        self._review_next(now, fragment)

    def failed(self, now: float, event: Failed) -> None:
        """There will be no such version: the round is cancelled."""
        round_ = self.closing.get(event.fragment)
        if round_ is not None and round_.step == event.step:
            del self.closing[event.fragment]
            self._cancel(round_)
            self._review_next(now, event.fragment)

    def _review_next(self, now: float, fragment: int) -> None:
        if (round_ := self.open.get(fragment)) is not None:
            self.review(now, round_)

    def _parts(self, round_: Round) -> Iterator[tuple[Account, Count]]:
        """The accounts of those who contributed, closed though their generations may be."""
        for learner, (generation, until) in round_.accepted.items():
            account = self._members.by_id[learner].account
            yield account if account.generation == generation else self._ledger.retired[learner][generation], until

    def restart(self) -> None:
        """The syncer was restored: what lay in the rounds that went on is its learners' still. What is sent for one of them
        again opens it anew (synchronous policies; who had nothing for it will not say so again), or hears that it is over. In
        the place of the last ones others come."""
        for round_ in [*self.open.values(), *self.closing.values()]:
            fragment, step = round_.fragment, round_.step
            self._cancel(round_)
            self.last_step[fragment] = step if round_.final else min(self.last_step[fragment], step - 1)
            for learner in round_.answered - round_.accepted.keys():
                self._pass(self._members.by_id[learner], fragment, step)
        for forgotten in (self.open, self.closing, self.receipts):
            forgotten.clear()
        self._timers.unsure = True

    def run_on(self) -> None:
        """The run is not over after all, though last rounds may have been named."""
        self.restart()
        if self.policy.synchronous:  # nobody is left who knew them
            self.last_step = [min(step, self._members.step) for step in self.last_step]
        else:
            self._members.pass_to(max(self._members.step, *self.last_step))

    def amend(self, policy: Policy) -> None:
        """Go by this policy from now on."""
        self.policy = policy
