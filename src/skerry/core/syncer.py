"""SyncerCore: every decision of the syncer. Events in with the time, actions out; no clock, socket, thread or tensor.

    waiting   until a first model lies ready and `wait_for` learners have joined
    running   t follows the K-th fastest live learner, and rounds (rounds.py) are opened as it reaches them
    ending    the budget is reached: the open rounds close
    final     one last round takes every fragment from all
    ended     nothing is pending any more

This file: who joins, leaves, dies and returns, the run's step, and the phases. Whatever an event was, `_settle` then
moves the run on as far as it goes. docs/algorithm.md gives the meaning of every term.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skerry.core.grace import Grace
from skerry.core.layout import Layout
from skerry.core.ledger import Ledger, Tally
from skerry.core.members import Member, Members
from skerry.core.messages import (
    Abstain,
    BudgetReached,
    Contribution,
    Count,
    Deliver,
    Gone,
    Join,
    Leave,
    ProvideInitial,
    Received,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    Start,
    SyncerAction,
    SyncerEvent,
    TakenOver,
    Tick,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.rounds import Rounds
from skerry.core.timers import Timers


class Watch:
    """Timers: look whether a member has been silent for too long."""

    __slots__ = ("born", "core", "member")

    def __init__(self, core: SyncerCore, member: Member) -> None:
        self.core = core
        self.member = member
        self.born = member.live_seq

    def wants(self) -> bool:
        """Whether this life of the member goes on."""
        return self.member.live and self.member.live_seq == self.born

    def look(self, now: float) -> None:
        """Dead if nothing was heard since, else look again when that may be so."""
        silent_at = self.member.heard + self.core.silence
        if now >= silent_at:
            self.core.set_live(now, self.member, False)
        else:
            self.core.timers.at(silent_at, self)


class SyncerCore:
    """The syncer's state machine for one run of this policy and layout. `state`: what state() gave, to resume a run."""

    def __init__(self, policy: Policy, layout: Layout, state: dict[str, Any] | None = None) -> None:
        assert len(layout.fragments) == policy.fragments, "the layout was built for another policy"
        self.policy = policy
        self.layout = layout
        self.phase = "waiting"
        self.now = 0.0
        self.silence = policy.sync_timeout if policy.synchronous else policy.silent_after
        self._out: list[SyncerAction] = []
        self.timers = Timers()
        self.members = Members(policy.quorum)
        self.ledger = Ledger(layout.sizes)
        self.grace = Grace(policy.grace, policy.overlap)
        self.rounds = Rounds(policy, self.members, self.ledger, self.grace, self.timers, self._out)
        self._seeder: int | None = None
        self._seeded: set[int] = set()
        self._advanced_at: float | None = None
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            Join: self._join, ProvideInitial: self._seed_came, Report: self._report, Abstain: self._nothing,
            Contribution: self._contribution, Received: self._received, TakenOver: self._taken_over,
            Leave: self._leave, Start: self._start, Gone: self._gone, Tick: self._tick,
        }  # fmt: skip
        if state is not None:
            self._restore(state)

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

    def handle(self, now: float, event: SyncerEvent) -> list[SyncerAction]:
        """What follows from the event. `now`: seconds, never falling. Unknown senders and old news change nothing."""
        self.now = now
        if self.phase != "ended":
            self._handlers[type(event)](now, event)
            self._settle(now)
        elif isinstance(event, Join):
            self._out.append(Refused(code="over", reason="the run is over"))
        actions = self._out[:]
        self._out.clear()
        return actions

    def deadline(self) -> float | None:
        """When the next Tick is due; None if nothing is."""
        return self.timers.next() if self.phase != "ended" else None

    def merged(self, learner: int, fragment: int, version: int) -> int:
        """Delivery.merged for a learner that is sent `version`: up to how many of its tokens are in there; 0 = none."""
        member = self.members.get(learner)
        if member is None:
            return 0
        in_version, tokens = member.account.merged[fragment]
        return tokens if in_version <= version else 0

    # ------------------------------------------------------------------ the run goes on

    def _settle(self, now: float) -> None:
        """Move the run on as far as it goes: t, what falls due, the budget, the phases of the end."""
        if self.phase == "waiting":
            self._try_to_begin()
        if self.phase == "running":
            self._advance(now)
            if self.policy.reached(self.members.step, self.ledger.tokens):
                self.phase = "ending"
                self._out.append(BudgetReached())
                self.rounds.end()
            elif self.rounds.due:
                self.rounds.open_due(now, self.progress)
        if self.phase == "ending" and not self.rounds.open:
            self.phase = "final"
            self.rounds.open_final(now)
        if self.phase == "final" and not self.rounds.open:
            self.phase = "ended"
            for member in self.members:
                self.ledger.retire(member.account)
            self._out.append(RunOver())

    def _advance(self, now: float) -> None:
        old = self.members.advance()
        if self.step > old:
            if self._advanced_at is not None:
                self.grace.step.add((now - self._advanced_at) / (self.step - old))
            self._advanced_at = now
            self.rounds.fall_due(old, self.step)

    def _try_to_begin(self) -> None:
        """Ask a learner for the first model, or begin if there is one and enough learners are here."""
        here = [member for member in self.members if member.linked]
        if self.versions:
            if len(here) >= self.policy.wait_for:
                self.phase = "running"
                for member in here:
                    self._deliver_news(member)
        elif self._seeder is None and here:
            self._seeder = here[0].id
            self._seeded.clear()
            self._out.append(RequestInitial(learner=here[0].id))

    def _seed_came(self, now: float, event: ProvideInitial) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is None or self._seeder != member.id or self.versions:
            return
        if event.flaw:
            self._out.append(Verdict(learner=member.id, generation=member.generation, fragment=event.fragment, step=-1,
                                    verdict="refused", reason=event.flaw))  # fmt: skip
            self._depart(now, member)
            return
        self._seeded.add(event.fragment)
        if len(self._seeded) == self.policy.fragments:
            self._start(now, Start())

    def _start(self, now: float, event: Start) -> None:
        if not self.versions:
            self.versions[:] = [0] * self.policy.fragments
            self._seeder = None

    def _tick(self, now: float, event: Tick) -> None:
        self.timers.run(now)

    # ------------------------------------------------------------------ learners come and go

    def _join(self, now: float, event: Join) -> None:
        refusal = self._refusal(event)
        if refusal is not None:
            self._out.append(refusal)
            return
        learner = event.learner if event.learner >= 0 else self.members.free_id()
        member = self.members.get(learner)
        if member is None:
            member = Member(learner, self.ledger.open(learner), now)
            self.members.add(member)
        member.linked, member.heard = True, now
        if self._seeder == learner:  # what it was sending got lost with its former link: ask anew
            self._seeder = None
        if member.resumable and event.generation == member.generation:
            self._resume(now, member, event)
        else:
            self._renew(now, member, event)
        self._out.append(Welcome(learner=learner, generation=member.generation, clock=self.step,
                                 first_step=member.first_step, progress=self.progress))  # fmt: skip
        if member.missing == 0 and not member.live:
            self.set_live(now, member, True)
        if self.phase == "running":
            self._deliver_news(member)

    def _refusal(self, event: Join) -> Refused | None:
        if self.phase in ("ending", "final"):
            return Refused(code="over", reason="the run has reached its budget")
        if event.layout != self.layout.hash:
            return Refused(code="layout", reason="your model's parameters, or how they are fragmented, differ from the "
                           "run's: join with the same model and configuration")  # fmt: skip
        member = self.members.get(event.learner)
        if member is not None and member.linked and 0 < event.generation < member.generation:
            return Refused(code="superseded", reason=f"a newer learner {member.id} has taken this one's place: give each "
                           "learner an id of its own")  # fmt: skip
        return None

    def _renew(self, now: float, member: Member, event: Join) -> None:
        """A new generation of the member begins; the one before it is closed."""
        if member.live:
            self.set_live(now, member, False)
        if member.generation:
            if event.generation == member.generation:  # it lived on while the syncer was away: count what it did
                self.ledger.counted(member.account, event.count)
            member.first_step += member.account.count.steps
            self.ledger.retire(member.account)
            member.account = self.ledger.open(member.id)
        member.generation = max(member.generation, event.generation) + 1  # ours may come from an old snapshot
        member.resumable = True
        member.missing = self.policy.fragments
        member.clock = self.step

    def _resume(self, now: float, member: Member, event: Join) -> None:
        """The same generation after a broken link or with a new agent: make good what was not heard."""
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
            self._depart(now, member)

    def _depart(self, now: float, member: Member) -> None:
        member.linked = False
        if member.live:
            self.set_live(now, member, False)
        if self._seeder == member.id:
            self._seeder = None

    def set_live(self, now: float, member: Member, live: bool) -> None:
        """The member begins to count, or ceases to: no round waits for the dead."""
        if not live:
            self.rounds.lose(member)
        self.members.set_live(member, live)
        if live:
            self.timers.at(now + self.silence, Watch(self, member))
        else:
            self.rounds.review_all(now)

    # ------------------------------------------------------------------ what learners say

    def _sender(self, now: float, learner: int, generation: int) -> Member | None:
        """The member that speaks, if it is its present generation; it lives again if it was only silent."""
        member = self.members.get(learner)
        if member is None or member.generation != generation or not member.linked:
            return None
        member.heard = now
        if not member.live and member.missing == 0:
            self.set_live(now, member, True)
        return member

    def _report(self, now: float, event: Report) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self.ledger.counted(member.account, event.count)
            self.members.set_clock(member, event.clock)

    def _nothing(self, now: float, event: Abstain) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None:
            self.rounds.nothing(now, member, event.fragment, event.step)

    def _contribution(self, now: float, event: Contribution) -> None:
        member = self._sender(now, event.learner, event.generation)
        if member is not None and self.versions:
            self._moved(now, member, event.fragment, event.base, event.since)
            self.ledger.counted(member.account, event.until)
            self.rounds.contribution(now, member, event)

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
                self.set_live(now, member, True)

    # ------------------------------------------------------------------ snapshots

    def state(self) -> dict[str, Any]:
        """Plain JSON-able values, from which a run resumes: its learners come back as new generations."""
        return {
            "now": self.now,
            "step": self.step,
            "rounds": self.rounds.state(),
            "grace": self.grace.state(),
            "members": [
                {"id": m.id, "generation": m.generation, "first_join": m.first_join, "first_step": m.first_step,
                 "count": m.account.count, "settled": m.account.settled}
                for m in self.members
            ],
            "tallies": [[learner, tally.state()] for learner, tally in self.ledger.tallies.items()],
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        self.now = state["now"]
        self.members.step = state["step"]
        self.rounds.restore(state["rounds"])
        self.grace.restore(state["grace"])
        for learner, plain in state["tallies"]:
            self.ledger.tallies[learner] = Tally.restored(plain)
            self.ledger.tokens += plain["tokens"]
        for plain in state["members"]:
            member = Member(plain["id"], self.ledger.open(plain["id"]), plain["first_join"])
            member.generation, member.first_step = plain["generation"], plain["first_step"]
            member.account.count = Count(*plain["count"])
            member.account.settled = [Count(*settled) for settled in plain["settled"]]
            self.members.add(member)
            self.ledger.write_off(member.account)
