"""SyncerCore: every decision of the syncer. Events in with the time, actions out; no clock, socket, thread or tensor.

This file: who joins, leaves and returns, the run's step, and the phases (phase.py); who counts is in attendance.py. Whatever an
event was, `_settle` then moves the run on as far as it goes. docs/algorithm.md gives the meaning of every term. What the core
annotates in its body, and its parts in theirs, is the whole state (plain.py): restored, it goes on with the same actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from skerry.core.attendance import Attendance
from skerry.core.layout import Layout
from skerry.core.members import JOINING, LIVE, SILENT, Member
from skerry.core.messages import (
    INITIAL,
    Abstain,
    Amend,
    BudgetReached,
    Contribution,
    Contributor,
    Count,
    Deliver,
    Failed,
    Farewell,
    Gone,
    Join,
    Leave,
    ProvideInitial,
    Published,
    Readmit,
    Received,
    Refused,
    Report,
    RequestInitial,
    Restarted,
    RunOver,
    Start,
    SyncerAction,
    SyncerEvent,
    TakenOver,
    Tick,
    Verdict,
    Welcome,
)
from skerry.core.phase import ENDED, ENDING, FINAL, RUNNING, WAITING
from skerry.core.plain import dump, load
from skerry.core.policy import Policy


class SyncerCore(Attendance):
    """The syncer's state machine for one run of this policy and layout. `state`: what state() gave, to go on from there."""

    now: float
    provided: set[int]  # the fragments of the first model that have come
    advanced_at: float | None  # when t last rose

    def __init__(self, policy: Policy, layout: Layout, state: dict[str, Any] | None = None) -> None:
        assert len(layout.fragments) == policy.fragments, "the layout was built for another policy"
        super().__init__(policy, layout)
        self.now, self.provided, self.advanced_at = 0.0, set(), None
        self._by_tokens = policy.tokens > 0
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            Join: self._join, ProvideInitial: self._provided, Report: self._report, Abstain: self._abstain,
            Contribution: self._contribution, Received: self._received, TakenOver: self._taken_over,
            Leave: self._leave, Start: self._start, Gone: self._gone, Published: self.rounds.published,
            Failed: self.rounds.failed, Restarted: self._restarted, Amend: self._amend, Readmit: self._readmit,
            Tick: self._tick,
        }  # fmt: skip
        if state is not None:
            for name, part in self._parts():
                load(part, state[name])
            self.members.restored()
            self.screening.restored()

    # ------------------------------------------------------------------ for the driver

    @property
    def step(self) -> int:
        """The run's step t."""
        return self.members.step

    @property
    def progress(self) -> float:
        """Share of the budget that is done."""
        return self.policy.progress(self.members.step, self.ledger.tokens)

    @property
    def versions(self) -> list[int]:
        """Version of each fragment; empty until there is a model."""
        return self.rounds.versions

    def handle(self, now: float, event: SyncerEvent) -> Sequence[SyncerAction]:
        """What follows from the event. `now`: seconds, never falling. Unknown senders and old news change nothing."""
        self.now = now
        if self.phase is not ENDED or type(event) in (Restarted, Amend):
            self._handlers[type(event)](now, event)
            if self.phase is not RUNNING or self._by_tokens or self.members.may_advance or self.rounds.due:
                self._settle(now)
        elif type(event) is Join:
            self._out.append(Refused(code="over", reason="the run is over"))
        if not self._out:
            return ()
        actions = self._out[:]
        self._out.clear()
        return actions

    def deadline(self) -> float | None:
        """When the next Tick is due; None if nothing is."""
        return None if self.phase is ENDED else self.timers.next()

    def contributors(self) -> Iterator[tuple[int, Contributor]]:
        """Of whose present generation there is how much work in the present versions, by fragment, as the Distributes told."""
        for member in self.members:
            for fragment, (_, tokens) in enumerate(member.account.merged):
                if tokens:
                    yield fragment, Contributor(member.id, member.generation, tokens)

    def state(self) -> dict[str, Any]:
        """All that the core is, in plain JSON-able values: a core made of it goes on with the same actions."""
        return {name: dump(part) for name, part in self._parts()}

    def _parts(self) -> tuple[tuple[str, object], ...]:
        return (("core", self), ("members", self.members), ("ledger", self.ledger), ("grace", self.grace),
                ("screening", self.screening), ("rounds", self.rounds), ("timers", self.timers))  # fmt: skip

    # ------------------------------------------------------------------ the run goes on

    def _settle(self, now: float) -> None:
        """Move the run on as far as it goes: t, what falls due, the budget, the phases of the end."""
        rounds, members = self.rounds, self.members
        if self.phase is WAITING:
            self._try_to_begin()
        if self.phase is RUNNING:
            self._advance(now)
            if self.policy.reached(members.step, self.ledger.tokens):
                self.phase = ENDING
                self._out.append(BudgetReached())
                rounds.end()
            elif rounds.may_open:
                rounds.open_due(now, self.progress)
        if self.phase is ENDING and not rounds.under_way:
            self.phase = FINAL
            rounds.open_final(now)
        if self.phase is FINAL and not rounds.under_way:
            self.phase, self.timers.unsure = ENDED, True
            for member in members:
                self.ledger.retire(member.account)
            self._out.append(RunOver())

    def _advance(self, now: float) -> None:
        old = self.members.advance()
        if self.step > old:
            if self.advanced_at is not None:
                self.grace.step.add((now - self.advanced_at) / (self.step - old))
            self.advanced_at = now
            self.rounds.fall_due(old, self.step)

    def _try_to_begin(self) -> None:
        """Ask a learner for the first model, or begin if there is one and enough learners are here."""
        here = [member for member in self.members if member.linked]
        if self.versions:
            if len(here) >= self.policy.wait_for:
                self.phase = RUNNING
                for member in here:
                    self._deliver_news(member)
        elif self.provider is None and here:
            self.provider = here[0].id
            self.provided.clear()
            self._out.append(RequestInitial(learner=here[0].id))

    def _provided(self, now: float, event: ProvideInitial) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is None or self.provider != member.id or self.versions:
            return
        if event.flaw:
            self._out.append(Verdict(learner=member.id, generation=member.generation, fragment=event.fragment, step=INITIAL,
                                     verdict="refused", reason=event.flaw))  # fmt: skip
            self._depart(now, member)
            return
        self.provided.add(event.fragment)
        if len(self.provided) == self.policy.fragments:
            self._start(now, Start())

    def _start(self, now: float, event: Start) -> None:
        if not self.versions:
            self.versions[:] = [0] * self.policy.fragments
            self.provider = None

    def _tick(self, now: float, event: Tick) -> None:
        for alarm in self.timers.due(now):
            self._look_at(now, alarm)

    # ------------------------------------------------------------------ the syncer comes back

    def _restarted(self, now: float, event: Restarted) -> None:
        """All links are gone, and the rounds with them; the phase stays, and learners come back as who they were."""
        self.epochs += [tuple(self.versions)] * max(1, event.epoch - self.epoch)
        self._all_gone(now)
        self.rounds.restart()
        self._out.clear()  # nobody is there to hear of it
        self.provider = self.advanced_at = None
        self.provided.clear()
        if self.phase in (ENDING, FINAL):
            self.phase = FINAL
            self.rounds.open_final(now)

    def _amend(self, now: float, event: Amend) -> None:
        """Go by another policy. A run that has come to its end, and not to that of its new budget, goes on; those who were told
        of its end leave it."""
        policy = event.policy
        assert not self.policy.differences(policy), "these cannot change while a run lives"
        self.policy, self._by_tokens = policy, policy.tokens > 0
        self.rounds.amend(policy)
        self.screening.amend(policy)
        self.grace.amend(policy.grace)
        if self.phase in (ENDING, FINAL, ENDED) and not policy.reached(self.members.step, self.ledger.tokens):
            self.phase = RUNNING
            self.rounds.run_on()
            for member in self.members:
                self.members.wait_for(member, False)
        self.timers.unsure = True
        if self.phase is not ENDED:
            self._settle(now)

    # ------------------------------------------------------------------ learners come and go

    def _join(self, now: float, event: Join) -> None:
        resumes = self._resumes(event)
        refusal = self._refusal(now, event, resumes)
        if refusal is not None:
            self._out.append(refusal)
            return
        member = self._member(now, event)
        learner, member.heard, was_live = member.id, now, member.live
        if self.provider == learner:  # what it was sending got lost with its former link: ask anew
            self.provider = None
        if resumes:
            self._resume(now, member, event)
        else:
            self._renew(now, member, event)
        if member.missing == 0 and not member.live:
            self._arrive(now, member)
        if self.phase is RUNNING:
            self._advance(now)  # so that it is told how far the run is with it
        self._out.append(Welcome(learner=learner, generation=member.generation, clock=self.step,
                                 first_step=member.first_step, progress=self.progress, epoch=self.epoch))  # fmt: skip
        if member.quarantined:
            self._tell_quarantined(member)
        if self.phase is not WAITING:
            self._deliver_news(member)
        if self.phase in (ENDING, FINAL):
            self._out.append(BudgetReached(learner=learner))
            self.rounds.ask_again(member)
        elif resumes and was_live and not self.policy.synchronous:  # the end of its former link was not seen yet
            self.rounds.ask_again(member, self.progress)

    def _resumes(self, event: Join) -> bool:
        """Whether it is its learner's present generation, and holds nothing that was lost in a restart since it was told of
        one: no version above those that a later start began from."""
        member = self.members.get(event.learner)
        if member is None or event.generation != member.generation or not member.generation or member.account.retired:
            return False
        seen, holds = event.epoch or member.born, event.holds or event.bases
        if not member.born <= seen <= self.epoch:
            return False
        return all(version <= began for versions in (*self.epochs[seen:], self.versions)
                   for version, began in zip(holds, versions or [-1] * len(holds), strict=False))  # fmt: skip

    def _member(self, now: float, event: Join) -> Member:
        """Whose Join it is. Where an older state was restored its id may be another's by now: it gets a new one then."""
        member = self.members.get(event.learner)
        if member is None or (event.generation >= member.generation and 0 < event.epoch < member.born and event.generation):
            learner = event.learner if event.learner >= 0 and member is None else self.members.free_id()
            member = Member(learner, self.ledger.open(learner, 0), heard=now, first_join=now)
            self.members.add(member)
        return member

    def _refusal(self, now: float, event: Join, resumes: bool) -> Refused | None:
        member = self.members.get(event.learner)
        if self.phase in (ENDING, FINAL) and not resumes:
            if member is not None and event.generation == member.generation and event.epoch >= member.born:
                self.ledger.counted(member.account, event.count)  # what it stands on was lost, but not what it did
            if member is not None and member.awaited:  # it is not who we wait for, and that one will not come
                self._give_up(now, member)
            return Refused(code="over", reason="the run has reached its budget")
        if event.leaving and not resumes:
            return Refused(code="superseded", reason="its generation is closed")
        if event.layout != self.layout.hash:
            return Refused(code="layout", reason="your model's parameters, or how they are fragmented, differ from the "
                           "run's: join with the same model and configuration")  # fmt: skip
        if (member is not None and member.linked and 0 < event.generation < member.generation
                and event.generation != member.came_as):  # as that one it comes again where its Welcome was lost  # fmt: skip
            return Refused(code="superseded", reason=f"a newer learner {member.id} has taken this one's place: give each "
                           "learner an id of its own")  # fmt: skip
        return None

    def _renew(self, now: float, member: Member, event: Join) -> None:
        """A new generation of the member begins; the one before it is closed."""
        if member.live:
            self._die(now, member, JOINING)
        elif member.awaited:
            self._give_up(now, member)
        before = member.account
        if before.generation:
            if event.generation == before.generation:  # it lived on while the syncer was away: count what it did
                self.ledger.counted(before, event.count)
            member.first_step += before.count.steps
            self.ledger.retire(before)
        generation = max(before.generation, event.generation) + 1  # ours may come from an old snapshot
        member.account = self.ledger.open(member.id, generation)
        member.came_as, member.born = event.generation, self.epoch
        member.missing, member.clock = self.policy.fragments, self.step
        member.refusals, member.quarantined = 0, ""
        self._stand(member, JOINING)

    def _resume(self, now: float, member: Member, event: Join) -> None:
        """The same generation after a broken link, with a new agent or with a new syncer: make good what was not heard."""
        if not member.linked:
            self._stand(member, JOINING if member.missing else SILENT)
        for fragment, (version, settled) in enumerate(zip(event.bases, event.settled, strict=False)):
            if version >= 0:
                self._moved(now, member, fragment, version, settled)
        self.ledger.counted(member.account, event.count)
        self.members.set_clock(member, event.clock)

    def _deliver_news(self, member: Member) -> None:
        news = tuple(p for p, version in enumerate(self.versions) if version > member.account.base[p])
        if news:
            self._out.append(Deliver(learner=member.id, fragments=news))

    def _leave(self, now: float, event: Leave) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self.ledger.counted(member.account, event.count)
            self._depart(now, member)
            self._out.append(Farewell(learner=member.id, generation=member.generation))

    # ------------------------------------------------------------------ what learners say

    def _report(self, now: float, event: Report) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self.ledger.counted(member.account, event.count)
            self.members.set_clock(member, event.clock)

    def _abstain(self, now: float, event: Abstain) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self.rounds.abstain(now, member, event.fragment, event.step)

    def _contribution(self, now: float, event: Contribution) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None and self.rounds.versions:
            account = member.account
            if event.base != account.base[event.fragment] or event.fragment in account.refused:  # seldom news
                self._moved(now, member, event.fragment, event.base, event.since)
            self.ledger.counted(account, event.until)
            self.rounds.contribution(now, member, event, self.phase is ENDING)
            if member.quarantined and member.standing is LIVE:
                self._quarantine(now, member)

    def _received(self, now: float, event: Received) -> None:
        if self._sender(now, event.learner, event.generation) is not None:
            self.rounds.received(now, event.learner, event.fragment, event.version)

    def _taken_over(self, now: float, event: TakenOver) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self._moved(now, member, event.fragment, event.version, event.settled)
            self.ledger.counted(member.account, event.count)
            self.members.set_clock(member, event.clock)
            self.rounds.taken_over(member, event.fragment)

    def _moved(self, now: float, member: Member, fragment: int, version: int, settled: Count) -> None:
        """The learner stands on `version`, whichever message said so first."""
        first = member.account.base[fragment] < 0
        self.ledger.moved(member.account, fragment, version, settled)
        if first and member.account.base[fragment] >= 0:
            member.missing -= 1
            if member.missing == 0:
                self.members.set_clock(member, self.step)
                self._arrive(now, member)
