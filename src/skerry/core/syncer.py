"""SyncerCore: every decision of the syncer. Events in with the time, actions out; no clock, socket, thread or tensor.

This file: who joins, leaves, dies and returns, the run's step, and the phases (phase.py). Whatever an event was, `_settle` then
moves the run on as far as it goes. docs/algorithm.md gives the meaning of every term. What the core annotates in its body, and
its parts in theirs, is the whole state (plain.py): restored, it goes on with the same actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from skerry.core.grace import Grace
from skerry.core.layout import Layout
from skerry.core.ledger import Ledger
from skerry.core.members import AWAY, JOINING, LIVE, SILENT, Member, Members, Standing
from skerry.core.messages import (
    INITIAL,
    Abstain,
    BudgetReached,
    Contribution,
    Contributor,
    Count,
    Deliver,
    Failed,
    Gone,
    Join,
    Leave,
    ProvideInitial,
    Published,
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
from skerry.core.phase import ENDED, ENDING, FINAL, RUNNING, WAITING, Phase
from skerry.core.plain import dump, load
from skerry.core.policy import Policy
from skerry.core.rounds import Rounds
from skerry.core.timers import Alarm, Subject, Timers


class SyncerCore:
    """The syncer's state machine for one run of this policy and layout. `state`: what state() gave, to go on from there."""

    phase: Phase
    now: float
    provider: int | None  # who was asked for the first model
    provided: set[int]  # the fragments of it that have come
    advanced_at: float | None  # when t last rose

    def __init__(self, policy: Policy, layout: Layout, state: dict[str, Any] | None = None) -> None:
        assert len(layout.fragments) == policy.fragments, "the layout was built for another policy"
        self.policy = policy
        self.layout = layout
        self.phase, self.now, self.provider, self.provided, self.advanced_at = WAITING, 0.0, None, set(), None
        self._by_tokens = policy.tokens > 0
        self._silence = policy.sync_timeout if policy.synchronous else policy.silent_after
        self._out: list[SyncerAction] = []
        self.timers = Timers(self._matters)
        self.members = Members(policy.quorum)
        self.ledger = Ledger(layout.sizes)
        self.grace = Grace(policy.grace, policy.overlap)
        self.rounds = Rounds(policy, self.members, self.ledger, self.grace, self.timers, self._out)
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            Join: self._join, ProvideInitial: self._provided, Report: self._report, Abstain: self._abstain,
            Contribution: self._contribution, Received: self._received, TakenOver: self._taken_over,
            Leave: self._leave, Start: self._start, Gone: self._gone, Published: self.rounds.published,
            Failed: self.rounds.failed, Restarted: self._restarted, Tick: self._tick,
        }  # fmt: skip
        if state is not None:
            for name, part in self._parts():
                load(part, state[name])
            self.members.restored()

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
        if self.phase is not ENDED or type(event) is Restarted:
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
                ("rounds", self.rounds), ("timers", self.timers))  # fmt: skip

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

    def _matters(self, alarm: Alarm) -> bool:
        if alarm.subject is Subject.ROUND:
            round_ = self.rounds.open.get(alarm.key)
            return round_ is not None and round_.step == alarm.mark
        member = self.members.by_id[alarm.key]
        return member.standing is LIVE and member.live_seq == alarm.mark

    def _tick(self, now: float, event: Tick) -> None:
        for alarm in self.timers.due(now):
            if alarm.subject is Subject.ROUND:
                self.rounds.review(now, self.rounds.open[alarm.key])
                continue
            member = self.members.by_id[alarm.key]
            if now >= (silent_at := member.heard + self._silence):
                self._die(now, member, SILENT)
            else:
                self.timers.at(silent_at, Subject.MEMBER, member.id, member.live_seq)

    def _restarted(self, now: float, event: Restarted) -> None:
        """Learners come back as new generations: what they know may be newer than what was restored."""
        for member in self.members:
            self._stand(member, AWAY)
            member.resumable = member.awaited = False
        self.rounds.cancel_all()
        self._out.clear()  # nobody is there to hear of it
        self.provider, self.advanced_at, self.phase = None, None, WAITING

    # ------------------------------------------------------------------ learners come and go

    def _join(self, now: float, event: Join) -> None:
        refusal = self._refusal(now, event)
        if refusal is not None:
            self._out.append(refusal)
            return
        learner = event.learner if event.learner >= 0 else self.members.free_id()
        member = self.members.get(learner)
        if member is None:
            member = Member(learner, self.ledger.open(learner, 0), heard=now, first_join=now)
            self.members.add(member)
        member.heard = now
        if self.provider == learner:  # what it was sending got lost with its former link: ask anew
            self.provider = None
        if member.resumable and event.generation == member.generation:
            self._resume(now, member, event)
        else:
            self._renew(now, member, event)
        self._out.append(Welcome(learner=learner, generation=member.generation, clock=self.step,
                                 first_step=member.first_step, progress=self.progress))  # fmt: skip
        if member.missing == 0 and not member.live:
            self._live(now, member)
        if self.phase is not WAITING:
            self._deliver_news(member)
        if self.phase in (ENDING, FINAL):
            self._out.append(BudgetReached(learner=learner))
            self.rounds.ask_again(member)

    def _refusal(self, now: float, event: Join) -> Refused | None:
        member = self.members.get(event.learner)
        known = member is not None and member.resumable and event.generation == member.generation
        if self.phase in (ENDING, FINAL) and not known:
            if member is not None and member.awaited:  # it is not who we wait for, and that one will not come
                self._give_up(now, member)
            return Refused(code="over", reason="the run has reached its budget")
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
        before = member.account
        if before.generation:
            if event.generation == before.generation:  # it lived on while the syncer was away: count what it did
                self.ledger.counted(before, event.count)
            member.first_step += before.count.steps
            self.ledger.retire(before)
        generation = max(before.generation, event.generation) + 1  # ours may come from an old snapshot
        member.account = self.ledger.open(member.id, generation)
        member.came_as, member.resumable = event.generation, True
        member.missing = self.policy.fragments
        member.clock = self.step
        self._stand(member, JOINING)

    def _resume(self, now: float, member: Member, event: Join) -> None:
        """The same generation after a broken link or with a new agent: make good what was not heard."""
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

    def _gone(self, now: float, event: Gone) -> None:
        member = self.members.get(event.learner)
        if member is not None and member.generation == event.generation:
            self._depart(now, member, returns=member.live and self.phase in (ENDING, FINAL))

    def _depart(self, now: float, member: Member, *, returns: bool = False) -> None:
        """There is no link to it any more. `returns`: the last round waits for it all the same."""
        if self.provider == member.id:
            self.provider = None
        if member.live:
            self._die(now, member, AWAY, returns=returns)
        else:
            self._stand(member, AWAY)

    def _stand(self, member: Member, standing: Standing) -> None:
        self.members.stand(member, standing)
        self.timers.unsure = True

    def _live(self, now: float, member: Member) -> None:
        """The member begins to count."""
        self._stand(member, LIVE)
        if member.awaited:
            self.rounds.regain(member)
            member.awaited = False
        self.timers.at(now + self._silence, Subject.MEMBER, member.id, member.live_seq)

    def _die(self, now: float, member: Member, standing: Standing, *, returns: bool = False) -> None:
        """A live member ceases to count: no round waits for the dead."""
        self.rounds.lose(member, returns=returns)
        member.awaited = returns
        self._stand(member, standing)
        self.rounds.review_all(now)

    def _give_up(self, now: float, member: Member) -> None:
        """It was awaited, and is not any more."""
        self.rounds.lose(member)
        member.awaited = False
        self.rounds.review_all(now)

    # ------------------------------------------------------------------ what learners say

    def _sender(self, now: float, learner: int, generation: int) -> Member | None:
        """The member that speaks, if it is its present generation; it lives again if it was only silent."""
        member = self.members.by_id.get(learner)
        if member is None or member.account.generation != generation or member.standing is AWAY:
            return None
        member.heard = now
        if member.standing is SILENT:
            self._live(now, member)
        return member

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

    def _received(self, now: float, event: Received) -> None:
        if self._sender(now, event.learner, event.generation) is not None:
            self.rounds.received(now, event.fragment, event.version)

    def _taken_over(self, now: float, event: TakenOver) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self._moved(now, member, event.fragment, event.version, event.settled)
            self.ledger.counted(member.account, event.count)
            self.members.set_clock(member, event.clock)

    def _moved(self, now: float, member: Member, fragment: int, version: int, settled: Count) -> None:
        """The learner stands on `version`, whichever message said so first."""
        first = member.account.base[fragment] < 0
        self.ledger.moved(member.account, fragment, version, settled)
        if first and member.account.base[fragment] >= 0:
            member.missing -= 1
            if member.missing == 0:
                self.members.set_clock(member, self.step)
                self._live(now, member)
