"""A whole run in one object for tests of decisions: both real drivers, wires that misbehave, trainers and a plane that count.

Nothing happens by itself: whoever holds the fleet moves messages, orders and jobs on, one by one and in any order, and lets
time pass. After every event that the syncer's core heard `check` holds the values against the ledger. From the `cut`-th event
on a core that was restored from the state hears everything, too, and must decide the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from skerry.core.messages import (
    Ask,
    BodyName,
    BudgetReached,
    Close,
    Contribution,
    Distribute,
    Join,
    ProvideInitial,
    Published,
    Readmit,
    Restarted,
    SyncerAction,
    SyncerEvent,
    Verdict,
)
from skerry.core.phase import ENDED, RUNNING, Phase
from skerry.core.policy import ALL, Policy
from skerry.core.syncer import SyncerCore
from skerry.drive.syncer import SyncerDriver
from support.counting import Census, CountingPlane, Holding
from support.layouts import tiny_layout
from support.learners import Learner
from support.wires import Wire


class Twin:
    """A core that was restored from another one's state, and hears what that one hears."""

    def __init__(self, core: SyncerCore) -> None:
        self.core = SyncerCore(core.policy, core.layout, json.loads(json.dumps(core.state())))
        self._expected: list[SyncerAction] = []
        self._decided: list[SyncerAction] = []

    def heard(self, now: float, event: SyncerEvent) -> None:
        """It is about to be heard."""
        self.compare()
        self._expected.extend(self.core.handle(now, event))

    def decided(self, action: SyncerAction) -> None:
        """By the one that was not restored."""
        self._decided.append(action)

    def compare(self) -> None:
        """Both have decided the same so far."""
        assert self._decided == self._expected, "restored, the core decides otherwise"
        self._expected.clear()
        self._decided.clear()


class Fleet:
    """The syncer's driver and all learners. `now` only moves by wait(). It is the driver's log."""

    def __init__(self, policy: Policy, learners: int, cut: int = -1) -> None:
        self.policy, self.layout = policy, tiny_layout(policy)
        self.census = Census()
        self.now = 0.0
        self._denied: set[BodyName] = set()
        self.ambush = False  # the agent of whoever hands over from an old base dies, and all others are slow to answer
        self.events = 0
        self.was_cut = False
        self.tape: list[tuple[float, SyncerEvent]] = []  # all that the present core heard
        self.start: dict[str, Any] | None = None  # the state that it began with
        self.wires: list[Wire] = []  # whose end the syncer has not seen
        self._cut = cut
        self._twin: Twin | None = None
        self._stopped = False  # the learners were told that the budget is reached
        self._saved: tuple[str, list[Holding], bool] | None = None
        self._starts = 1
        self.fell_back = self.any_refused = False
        self._begin(SyncerCore(policy, self.layout), [])
        self.learners = [Learner(self, place, -1 if place % 3 == 1 else 10 + place) for place in range(learners)]
        self.ghosts: list[Learner] = []  # agents whose trainers have died, and who have that to say still

    def _begin(self, core: SyncerCore, holdings: list[Holding]) -> None:
        self.core = core
        self._due: float | None = None
        self._unchecked = False
        self.plane = CountingPlane(self.census, self.layout, holdings)
        self.driver = SyncerDriver(core, self.plane, clock=lambda: self.now, timer=self._set_timer, log=self,
                                   settled=self._settled)  # fmt: skip

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.core.phase is ENDED

    # ------------------------------------------------------------------ drive.syncer.Log, and its timer

    @property
    def committed(self) -> int:
        return self.events

    def heard(self, now: float, event: SyncerEvent) -> int:
        if self._unchecked:
            self.check()
        if self.events == self._cut:
            self._twin, self.was_cut = Twin(self.core), True
        self.events += 1
        self._unchecked = True
        self.tape.append((now, event))
        if self.ambush and type(event) is Contribution and event.base < self.core.versions[event.fragment]:
            self._peers()[event.learner].die()
        if self._twin is not None:
            self._twin.heard(now, event)
        return self.events

    def decided(self, now: float, action: SyncerAction) -> None:
        if self._twin is not None:
            self._twin.decided(action)
        match action:
            case Ask(fragment=fragment) if self.ambush:
                self._delay(fragment)
            case Close(included=included):
                assert len({learner for learner, _, _ in included}) == len(included) > 0
                if self.policy.quorum != ALL and self.core.phase is RUNNING:
                    assert len(included) >= self.policy.quorum
            case BudgetReached():
                self._stopped = True
            case Verdict() if action.verdict != "merged":
                self.any_refused |= action.verdict == "refused"
                self._denied.add(BodyName(action.learner, action.generation, action.fragment, action.step))
            case Distribute(fragment=fragment, included=included):
                names = self.plane.check_contributors(fragment, included)
                assert self._denied.isdisjoint(names), "its learner was told that it is not in there"

    def _delay(self, fragment: int) -> None:
        """If somebody may hand over from an old base, let the others miss their turns."""
        peers, newest = self._peers(), self.core.versions[fragment]
        late = [i for i in peers if (at := self.core.members.by_id[i]).live and at.account.base[fragment] < newest]
        for i, peer in peers.items():
            if late and i != late[0]:
                peer.asleep = 10

    def _peers(self) -> dict[int, Learner]:
        """Who speaks for which learner."""
        return {i: wire.peer for i, wire in self.driver.lines.items() if isinstance(wire, Wire)}

    def _set_timer(self, due: float | None) -> None:
        self._due = due

    def wait(self, seconds: float) -> None:
        """Let time pass; what falls due happens."""
        until = self.now + seconds
        while self._due is not None and self._due <= until:
            due, self._due = self._due, None  # it goes off once
            self.now = max(self.now, due)
            self.driver.tick(due)
        self.now = until

    # ------------------------------------------------------------------ links

    def connect(self, learner: Learner) -> Wire:
        """A new link."""
        self.wires.append(wire := Wire(self, learner))
        return wire

    def hear(self, wire: Wire, channel: str) -> None:
        """The next message arrives at the syncer."""
        message, body = wire.up[channel].popleft()
        driver = self.driver
        match message:
            case Join():
                for other in self.wires:
                    if other is wire:
                        break
                    if other.peer.place == wire.peer.place and not other.generation:
                        other.close("overtaken")  # a handshake takes long enough for the former link's Join
                driver.join(wire, message)
            case Contribution():
                if driver.is_own(wire, message):
                    self.plane.put(message.name, body)
                    driver.contributed(wire, message)
            case ProvideInitial():
                if driver.is_own(wire, message) and driver.awaits_initial(wire):
                    self.plane.put(message.name, body)
                    driver.provided(wire, message)
            case _:
                driver.hear(wire, message)

    def sent(self, wire: Wire) -> None:
        """A value that was on its way out has left."""
        wire.leaves()
        self.driver.sent(wire)

    def lose(self, wire: Wire) -> None:
        """The syncer finds the link broken."""
        wire.close("broken")
        self.wires.remove(wire)
        self.driver.lost(wire)

    def wires_of(self, learner: Learner) -> list[Wire]:
        """The learner's, and those of its former lives."""
        return [wire for wire in self.wires if wire.peer.place == learner.place]

    # ------------------------------------------------------------------ faults

    def kill_trainer(self, learner: Learner) -> None:
        """Its agent tells its last count and goes; the trainer returns as a new process."""
        if not learner.ended:
            learner.ended = True
            learner.end()
            if learner.driver is not None and not learner.driver.over:
                self.ghosts.append(learner)
            else:
                learner.die()  # an agent ends when there is nothing more to be said
            self.learners[learner.place] = Learner(self, learner.place, learner.name)

    def kill_island(self, learner: Learner) -> None:
        """Trainer and agent die at once."""
        if not learner.ended:
            learner.ended = True
            learner.die()
            self.learners[learner.place] = Learner(self, learner.place, learner.name)

    def save(self) -> None:
        """A snapshot: the core's state, and the values of the versions that exist."""
        if self.core.versions and not self.ended:
            state = json.dumps(self.core.state())
            self._saved = state, list(self.plane.held), self._stopped

    def crash(self, made: float = 0.5) -> None:
        """kill -9 of the syncer, and a restart from its log: from the very state of its core, and the values. Of those versions
        that were being made `made` is the share that was there already, though nobody had heard of it."""
        before, ended = self.plane, self.ended
        self._fall(json.dumps(self.core.state()), before.held)
        for number, fragment in enumerate(list(before.under_way)):
            if (number + self._starts) % 4 < 4 * made:
                self.driver.feed(Published(fragment=fragment, version=self.plane.left(before, fragment)))
        self._rise()
        assert self.ended >= ended

    def fall_back(self) -> bool:
        """kill -9 of the syncer, of whose log nothing is left, and a restart from the last snapshot. Not once a learner was let
        go; nor to before their end, for they make no more steps."""
        over = any(learner.ended or (learner.driver is not None and learner.driver.over) for learner in self.learners)
        if self._saved is None or self.ended or over or self._saved[2] != self._stopped:
            return False
        self._end_twin()
        self.fell_back = True
        self._denied.clear()  # whom that was said does not know it any more, or hands over anew
        state, holdings, _ = self._saved
        self.tape, self.start = [], json.loads(state)
        self._fall(state, holdings)
        self._rise()
        return True

    def _fall(self, state: str, holdings: list[Holding]) -> None:
        self.driver.stop()
        for wire in self.wires:
            wire.close("the syncer is gone")
        self.wires.clear()
        self._starts += 1
        slow = self.plane.slow
        self._begin(SyncerCore(self.policy, self.layout, json.loads(state)), holdings)
        self.plane.slow = slow

    def _rise(self) -> None:
        self.driver.feed(Restarted(epoch=self._starts))

    # ------------------------------------------------------------------ what must hold after every event

    def _settled(self) -> None:
        self.check()
        if self._twin is not None:
            self._twin.compare()
            assert self._twin.core.deadline() == self.core.deadline(), "restored, the core sets its timer otherwise"

    def check(self) -> None:
        """docs/architecture.md, Rules."""
        self._unchecked = False
        core = self.core
        pending, processed, merged = sum(self._pending()), 0, 0
        for tally in core.ledger.tallies.values():
            lost = tally.lost.values()
            processed += tally.processed - sum(lost)
            merged += tally.merged
            assert min(lost) >= 0
        assert processed == merged + pending and pending >= 0
        inside, versions = self.existing()
        assert inside == merged, "what is in the model is not what the ledger says was merged"
        assert core.versions in ([], versions)
        rounds = core.rounds
        if not self.policy.synchronous:
            assert rounds.open.keys().isdisjoint(rounds.closing), "a fragment that is closing is not asked for anew"
            if core.phase is RUNNING:
                assert len(rounds.open) + len(rounds.closing) <= max(1, self.policy.overlap)
        if core.phase is ENDED:
            assert pending == 0 and not rounds.closing

    def existing(self) -> tuple[int, list[int]]:
        """How much is in the model, and the versions that exist."""
        return self.plane.inside, [holding.version for holding in self.plane.held]

    def _pending(self) -> Iterator[int]:
        ledger = self.core.ledger
        for member in self.core.members:
            yield ledger.pending(member.account)
        for accounts in ledger.retired.values():
            for account in accounts.values():
                yield ledger.pending(account)

    def _end_twin(self) -> None:
        """To the end a restored core's state is the same, too."""
        if self._twin is not None:
            self._twin.compare()
            assert self._twin.core.state() == self.core.state(), "restored, the core comes to another state"
            self._twin = None

    # ------------------------------------------------------------------ letting things flow

    def flow(self) -> bool:
        """Carry all that is under way, once; whether there was anything."""
        moved = False
        for wire in list(self.wires):
            for channel, queue in wire.up.items():
                while queue:
                    self.hear(wire, channel)
                    moved = True
            if wire.outgoing is not None:
                self.sent(wire)
                moved = True
            if wire.cut and wire in self.wires:
                self.lose(wire)
        while self.plane.jobs:
            self.plane.work()
            moved = True
        for learner in [*self.learners, *self.ghosts]:
            moved |= self._flow_at(learner)
        return moved

    def haunt(self) -> None:
        """Those whose trainers have died try to say so."""
        for ghost in self.ghosts[:]:
            if ghost.driver is None or ghost.driver.over:
                ghost.unlink()
                self.ghosts.remove(ghost)
            else:
                ghost.link()
                ghost.beat()

    def _flow_at(self, learner: Learner) -> bool:
        moved = False
        for channel in ("control", "bulk"):
            while learner.incoming(channel):
                learner.receive(channel)
                moved = True
        while learner.inbox:
            learner.hear_trainer()
            moved = True
        while learner.bodies:
            learner.transmit()
            moved = True
        return moved

    def _heal(self) -> None:
        """From here on nothing goes wrong any more; links on which something was lost are found broken."""
        self.plane.slow, self.plane.failures = False, 0
        for learner in self.learners:
            learner.fuse, learner.fatal = None, False
            if learner.wire is not None:
                learner.wire.slow = False
                if learner.wire.doomed:
                    learner.unlink()

    def run_to(self, *phases: Phase) -> None:
        """All links up, everybody steps: the run must come to one of these phases, whatever happened before."""
        self._heal()
        for _ in range(800):
            for learner in self.learners:
                if learner.driver is None and not learner.ended:
                    learner.begin_agent()
                learner.link()
            self.haunt()
            for member in self.core.members.quarantined:
                self.driver.feed(Readmit(learner=member))
            while self.core.phase not in phases and self.flow():
                pass
            if self.core.phase in phases:
                return
            for learner in self.learners:
                learner.step(5)
                learner.stop()
            self.wait(0.3)
            for learner in self.learners:
                learner.beat()
        core = self.core
        raise AssertionError(f"the run stands still: {core.phase}, t={core.step}, open={list(core.rounds.open)}")

    def finish(self) -> None:
        """To the end, and nothing may be left."""
        self.run_to(ENDED)
        while self.flow():
            pass
        self._end_twin()
        assert self.plane.idle(), "bodies were left lying about"
