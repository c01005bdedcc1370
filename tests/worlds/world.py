"""A world: the fleet of the storms, with a disk, a syncer that dies and is restarted as the real one is, and links that fall
silent.

A death comes between two events or in the middle of one: `fuse` counts effects down. Then the log loses what was not committed,
or a part of it, and the restart replays it, feeds what the store holds and the log lacks, and Restarted. After every event the
fleet's invariants hold, and at any time what anybody was told is true: a version that was sent is in the store, a Welcome's
generation is known, what was denied is in no version, an end that was announced comes. The run's time is skerry's own clock,
which stands still while the disk is full.
"""

from __future__ import annotations

import json
from collections import Counter
from operator import le
from random import Random
from typing import Any

from skerry.core.messages import (
    BodyName,
    BudgetReached,
    Cancel,
    Contribution,
    Join,
    Merge,
    Quarantined,
    Restarted,
    RunOver,
    SyncerAction,
    SyncerEvent,
    ToLearner,
    Verdict,
    Welcome,
)
from skerry.core.phase import ENDED, ENDING, FINAL
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive import restart
from skerry.drive.syncer import SyncerDriver
from skerry.syncer import clock
from support.counting import Holding, Value
from support.fleet import Fleet
from support.wires import Wire
from worlds.disk import Record, Store, WorldPlane, decides
from worlds.wires import Stranger, WorldWire

BEAT = 0.5
"""Seconds between two heartbeats; a learner that hears nothing for three makes a new link."""
PATIENCE = 60.0
"""Seconds after which the syncer's machine gives up a link over which nothing passes."""


def bare(core: SyncerCore) -> dict[str, Any]:
    """Its state, but for alarms, which are looked through when the timer is set: a replay sets none."""
    return {name: part for name, part in core.state().items() if name != "timers"}


class SyncerDied(Exception):
    """In the middle of what it was doing."""


class World(Fleet):
    """`machine`: the log's level. `gentle`: nothing happens that may cost a token but by overlap."""

    plane: WorldPlane

    def __init__(self, policy: Policy, learners: int, *, machine: bool = False, gentle: bool = False, cut: int = -1,
                 trace: bool = False) -> None:  # fmt: skip
        self.machine_level, self.gentle, self.trace = machine, gentle, trace
        self.counts: Counter[str] = Counter()  # what happened, rare as it may be
        self.log: list[Record] = []
        self.fuse: int | None = None
        self.up = True
        self.paused = False
        self.disk_slow = False
        self.strangers: set[int] = set()  # learners that are hostile
        self.loud_place: int | None = None
        self.stranger = Stranger()
        self._committed = 0
        self.heads: list[tuple[int, str]] = []  # (position, state) at the beginnings of segments
        self._snapshot: tuple[int, str, list[Any]] | None = None
        self._starts = 1
        self._told: dict[int, Holding] = {}  # the newest version that was sent of each fragment
        self._generations: dict[int, int] = {}  # the newest that was told, by learner
        self._refused_rounds: set[tuple[int, int]] = set()  # that were told to be cancelled
        self._announced = ""  # the end of the run, as far as it was told
        self.now = 0.0
        clock.time = self  # type: ignore[assignment]  # skerry's clock goes by ours
        self.clock = clock.Clock()
        self.store = Store(policy.fragments)
        super().__init__(policy, learners, cut)

    def monotonic(self) -> float:
        """For skerry's clock."""
        return self.now

    def _begin(self, core: SyncerCore, holdings: list[Holding]) -> None:
        self.core = core
        self._due, self._unchecked = None, False
        versions = core.versions or [0] * self.policy.fragments
        self.plane = WorldPlane(self, self.census, self.layout, self.store, versions)
        self.driver = SyncerDriver(core, self.plane, clock=self.clock.now, timer=self._set_timer, log=self,
                                   settled=self._settled)  # fmt: skip

    # ------------------------------------------------------------------ drive.syncer.Log

    @property
    def committed(self) -> int:
        return self._committed

    def heard(self, now: float, event: SyncerEvent) -> int:
        assert self.up and not self.paused, "the core hears what cannot be taken down"
        position = super().heard(now, event)
        self.tape.clear()
        self.log.append(Record(now, event, []))
        assert position == len(self.log)
        if not self.disk_slow:
            self._committed = position
        self.say(f"  {position} {event}")
        return position

    def decided(self, now: float, action: SyncerAction) -> None:
        self.log[-1].actions.append(action)
        self.say(f"      -> {action}")
        if type(action) is not Verdict:
            super().decided(now, action)
        elif self._twin is not None:  # what it denies counts from when it is told
            self._twin.decided(action)
        if type(action) is Merge and self.up:
            assert (action.fragment, action.step) not in self._refused_rounds, "a round goes on that was told to be cancelled"

    def commit(self, events: int | None = None) -> None:
        """The disk has taken so many more events, or all; what waited for that leaves."""
        if self.up and not self.paused:
            ahead = self.events - self._committed
            self._committed += ahead if events is None else min(events, ahead)
            self.driver.committed()

    def roll(self) -> None:
        """A new segment of the log, with the state at its head. Now and then it is the run's snapshot, too."""
        if self.up and not self.paused and self.core.versions:
            state = json.dumps(self.core.state())
            self.heads.append((self.events, state))
            if self.committed == self.events and self.core.versions == self.store.versions:
                self._snapshot = self.events, state, list(self.store.slots)

    @property
    def may_go_back(self) -> bool:
        """Whether the run may fall back to its last snapshot: nobody was told of its end yet, and made its last step."""
        let_go = any(learner.ended or learner.driver is None or learner.driver.over for learner in self.learners)
        return self._snapshot is not None and not self.gentle and not self.machine_level and not self._announced and not let_go

    def fill(self) -> None:
        """The disk is full."""
        if self.up and not self.paused:
            self.paused = True
            self.clock.stop()
            self.driver.pause()

    def clear(self) -> None:
        """There is room again."""
        if self.paused:
            self.paused = False
            self.clock.go_on()
            self.driver.resume()

    # ------------------------------------------------------------------ what is told

    def effect(self) -> None:
        """One of the syncer's is complete."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise SyncerDied

    def tells(self, wire: WorldWire, message: ToLearner) -> None:
        """It leaves; from now on it must stay true."""
        match message:
            case Welcome(learner=learner, generation=generation, epoch=epoch):
                join = wire.joined_as
                assert join is not None and epoch == self._starts, "an epoch is not the number of the syncer's start"
                if learner not in self.strangers and 0 < join.generation == self._generations.get(learner):
                    assert generation == join.generation, "a learner comes back, and is made another generation"
                self._generations[learner] = max(generation, self._generations.get(learner, 0))
            case Verdict(learner=learner, generation=generation, fragment=fragment, step=step) if message.verdict != "merged":
                self._denied.add(BodyName(learner, generation, fragment, step))
            case Cancel(learner=-1, fragment=fragment, step=step):
                self._refused_rounds.add((fragment, step))
            case BudgetReached():
                self._announced = self._announced or "budget"
            case RunOver():
                self._announced = "over"
            case Quarantined():
                self.took("quarantine")

    def sends(self, fragment: int, held: Holding) -> None:
        """A version leaves."""
        told = self._told.get(fragment, Holding())
        assert held.version >= told.version and held.value >= told.value, "a version that was sent is not what it was"
        self._told[fragment] = held

    def merged_loud(self, merge: Merge) -> None:
        """Values far beyond what is usual go into a round: that is right only as long as nothing is usual."""
        merged = [event for _, event, actions in self.log[:-1] if type(event) is Contribution
                  and event.fragment == merge.fragment and Merge in map(type, actions)][-16:]  # fmt: skip
        norms = sorted(event.norms[0] / max(1, event.until.steps - event.since.steps) ** 0.5 for event in merged)
        limit = self.policy.norm_limit * norms[(len(norms) - 1) // 2] if len(norms) >= 8 else 0.0
        assert not (self.core.members.live >= 2 and 1000.0 > limit > 0.0), "what is unlike all was merged"
        self.took("loud before anything is usual")

    def took(self, path: str) -> None:
        """A rare path was taken."""
        self.counts[f"path: {path}"] += 1

    def say(self, line: str) -> None:
        """For who watches."""
        if self.trace:
            print(f"{self.now:9.3f} {line}")

    # ------------------------------------------------------------------ the syncer's death and restart

    def die(self, random: Random, *, machine: bool = False, within: bool = False) -> None:
        """kill -9 of the syncer, or its machine's end. The log's tail may be gone, and with a machine what was not synced.
        `within`: in the middle of an event."""
        if not self.up:
            return
        self.driver.stop()
        if within:
            self.took("death in the middle of an event")
            self._twin = None
        self._end_twin()
        self.up, self.fuse, self._due = False, None, None
        if self.paused:
            self.took("death in a pause")
        self.took(f"restart in {self.core.phase.value}")
        for wire in self.wires:
            if machine:  # nobody is told
                wire.fall_silent()
            else:
                wire.close("the syncer is gone")
                if random.random() < 0.3:
                    wire.fall_silent()
        self.wires.clear()
        self.plane.jobs.clear()
        self._lose(random, machine)
        self.say(f"the syncer died ({'machine' if machine else 'process'}); the log holds {len(self.log)} events")

    def _lose(self, random: Random, machine: bool) -> None:
        some = random.randint(self._committed, self.events)
        kept = random.choice((self._committed, self.events, some, some))
        if machine and not self.machine_level:  # nothing is promised but the last snapshot
            assert self._snapshot is not None and not self.gentle
            kept, state, slots = self._snapshot
            self.store.slots, self.heads = list(slots), [(kept, state)]
            for told in (self._told, self._generations, self._denied, self._refused_rounds):
                told.clear()
            self.took("back to the last snapshot")
        elif machine:
            for fragment in sorted(self.store.unsynced):
                if random.random() < 0.5:
                    self.store.revert(fragment)
                    self.took("a header that was not synced")
        self.store.unsynced.clear()
        if self._committed < kept < self.events:
            self.took("torn tail")
        if kept < self.events:
            self.took("events that were not committed")
        del self.log[kept:]
        while self.heads and self.heads[-1][0] > kept:
            self.heads.pop()

    def restart(self) -> None:
        """The log's last segment is replayed, and what the store holds beyond it is told."""
        if self.up:
            return
        since, state = self.heads[-1] if self.heads else (0, None)
        start = None if state is None else json.loads(state)
        records = self.log[since:]
        core = SyncerCore(self.policy, self.layout, start)
        decides(core, records)
        if len(self.log) == self.events:
            assert bare(core) == bare(self.core), "replayed, the core comes to another state"
        found = restart.unheard(core, self.store.versions) if core.versions else []
        self._check_told(core)
        self.events = self._committed = len(self.log)
        self.up, self.paused, self._unchecked = True, False, False
        self._starts += 1
        self.clock = clock.Clock(self.log[-1].now if self.log else 0.0)
        phase = core.phase
        self._begin(core, [])
        for published in found:
            self.took("a version that the log had not heard of")
            self.driver.feed(published)
        self.driver.feed(Restarted(epoch=self._starts))
        assert self.core.phase is phase or (phase, self.core.phase) == (ENDING, FINAL) or self.core.phase is ENDED, (
            f"the run was {phase}, and is {self.core.phase}")  # fmt: skip
        self.say(f"the syncer is back: epoch {self._starts}, {self.core.phase}")

    def _check_told(self, core: SyncerCore) -> None:
        """Nobody was told anything that is not so any more."""
        for fragment, told in self._told.items():
            slot = self.store.slots[fragment][1]
            assert slot.version >= told.version and slot.holding.value >= told.value, "a version that was sent is gone"
        for learner, generation in self._generations.items():
            member = core.members.get(learner)
            assert member is not None and member.generation >= generation, "a generation that was told is not known"
        assert not self._announced or core.phase in (ENDING, FINAL, ENDED), "an end that was announced does not come"
        assert self._announced != "over" or core.phase is ENDED, "an end that was announced was none"

    # ------------------------------------------------------------------ links and time

    def connect(self, learner: Any) -> WorldWire:
        wire = WorldWire(self, learner)
        if self.up:
            self.wires.append(wire)
        else:
            wire.ended = True  # connection refused
        return wire

    def hear(self, wire: Wire, channel: str) -> None:
        message, _ = wire.up[channel][0]
        if type(message) is Join:
            wire.joined_as = message
            if 0 < message.epoch < self._starts:
                self.took("stale epoch")
        super().hear(wire, channel)

    def lose(self, wire: Wire) -> None:
        if wire in self.wires:  # the syncer that had its other end may be dead
            super().lose(wire)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.up and (due := self._due) is not None:
            at = self.now + max(0.0, due - self.clock.now()) + 1e-9
            if at > until:
                break
            self._due, self.now = None, at
            self.driver.tick(due)
        self.now = until
        for learner in [*self.learners, *self.ghosts]:
            wire = learner.wire
            if wire is not None and wire.silent_since is not None and self.now >= wire.silent_since + 3 * BEAT:
                self.took("half-open link made anew")
                learner.unlink()
        for wire in self.wires[:]:
            if wire.silent_since is not None and self.now >= wire.silent_since + PATIENCE:
                self.lose(wire)

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        super().check()
        versions = self.core.versions
        for member in self.core.members:
            assert not (member.live and member.quarantined), "who was refused too often is asked still"
            assert not member.linked or all(map(le, member.account.base, versions)), "a learner stands on what was lost"

    def existing(self) -> tuple[int, list[int]]:
        core, store = self.core, self.store
        for fragment, (known, stored) in enumerate(zip(core.versions, store.versions, strict=False)):
            assert stored == known or (stored == known + 1 and fragment in core.rounds.closing), "log and values have parted"
        versions = core.versions[:]
        return sum(store.at(p, version).inside for p, version in enumerate(versions)), versions

    def flow(self) -> bool:
        moved = self.up and not self.paused and self._committed < self.events
        self.commit()
        return super().flow() or moved

    def heal(self) -> None:
        """From here on nothing goes wrong any more."""
        self._heal()

    def _heal(self) -> None:
        self.fuse = None
        self.clear()
        self.disk_slow = False
        self.restart()
        self.commit()
        super()._heal()

    def values(self) -> list[Value]:
        """What is in the store, of each fragment."""
        return [present.holding.value for _, present in self.store.slots]
