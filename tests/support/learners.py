"""A learner in the storms: a trainer whose steps are counted, its agents (the real driver), and the memory that they share.

The agent may die between any two of its effects: `fuse` counts them down, `fatal` chooses one. What it had posted the trainer
may still carry out; what it had not committed is gone with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Contribution, Count, Delivery, FromLearner, ProvideInitial
from skerry.core.orders import (
    Applied,
    Beat,
    CopiedOut,
    CopyOut,
    Detach,
    Go,
    LearnerEvent,
    Linked,
    LoopLeft,
    Reject,
    Stepped,
    StopLoop,
    TakeOver,
    TrainerEnded,
    Unlinked,
    Warn,
)
from skerry.drive.learner import LearnerDriver, Redo
from support.counting import LOUD, NAN, NOTHING, Unit, Value
from support.wires import Queue, Wire

if TYPE_CHECKING:
    from support.fleet import Fleet


class AgentDied(Exception):
    """In the middle of what it was doing."""


@dataclass(eq=False)
class Slot:
    """Memory of one value or copy. `applied`: the trainer's mark."""

    value: Value
    applied: Count | None = None
    free: bool = False

    def release(self) -> None:
        """It is the agent's again."""
        assert not self.free, "a slot was freed twice"
        self.free = True


def copied(memory: LearnerMemory) -> LearnerMemory:
    """As it is now."""
    return LearnerMemory(memory.learner, memory.generation, memory.shift, memory.origin, memory.base[:], memory.settled[:],
                         memory.epoch)  # fmt: skip


class Shared:
    """What the trainer and its agents share: drive.learner.Holdings of slots."""

    def __init__(self, learner: Learner, fragments: int) -> None:
        self.base: list[Value] = [NOTHING] * fragments
        self.memory = LearnerMemory.empty(fragments, learner.name)  # as committed
        self.progress = 0.0
        self.in_use: list[Slot] = []  # values
        self._redos: dict[int, Redo] = {}
        self._learner = learner

    def encode(self, fragment: int, copy: Slot) -> tuple[Value, Value]:
        base = self.base[fragment]
        assert not copy.free and base <= copy.value, "others' work would be undone"
        return copy.value - base, copy.value

    def initial(self, fragment: int, copy: Slot) -> Value:
        return copy.value

    def free_copy(self, copy: Slot) -> None:
        copy.release()

    def prepare(self, order: TakeOver, slot: Slot, kept: Value | None) -> tuple[Slot, Value | None]:
        assert not slot.free and order.at == 0
        self._learner.check_included(order, slot.value)
        slot.applied = None
        self._learner.lived()
        return slot, kept

    def follow(self, fragment: int, slot: Slot) -> None:
        assert not slot.free
        self.base[fragment] = slot.value
        self._learner.lived()

    def free(self, slot: Slot) -> None:
        slot.release()
        self.in_use.remove(slot)

    def commit(self, memory: LearnerMemory, redos: Mapping[int, Redo]) -> None:
        if memory.generation != self.memory.generation:
            self._learner.begins(memory)
        self.memory = copied(memory)
        self._redos = dict(redos)
        self._learner.lived()

    def show(self, progress: float, falls: bool) -> None:
        self.progress = progress if falls else max(self.progress, progress)

    def redos(self) -> Iterable[Redo]:
        return self._redos.values()

    def applied(self, redo: Redo) -> Count | None:
        slot: Slot = redo.value
        return slot.applied

    def introduce(self, learner: int, generation: int, first_step: int) -> None:
        self._learner.lived()


class Learner:
    """One trainer's life with its agents: drive.learner.Trainer and Uplink. `name`: the id that it asks for; -1: any."""

    def __init__(self, fleet: Fleet, place: int, name: int) -> None:
        self.place, self.name = place, name
        self.trainer = fleet.census.trainer()
        self.count = Count()
        self.done = self.stopped = self.ended = False
        self.spoilt = False  # its next body will be flawed
        self.loud = 0  # so many of its next bodies will be loud
        self.asleep = 0  # so many of its turns it misses, being frozen
        self.driver: LearnerDriver | None = None  # of its agent, if one lives
        self.fuse: int | None = None
        self.fatal = False  # it dies when it has ordered the next take-over
        self.wire: Wire | None = None
        self.inbox: Queue = deque()  # from the trainer to the agent
        self.bodies: Queue = deque()  # that wait for their turn
        self._fleet, self._policy, self._layout = fleet, fleet.policy, fleet.layout
        self._theta: list[set[Unit]] = [set() for _ in range(self._policy.fragments)]
        self._orders: deque[tuple[Any, Any]] = deque()
        self._released = -1
        self._rate = 0.0
        self.shared = Shared(self, self._policy.fragments)
        self.begin_agent()

    # ------------------------------------------------------------------ the agent's life

    def begin_agent(self) -> None:
        """Another one takes the place of the one that died. What that one still wanted is void from here on."""
        assert self.driver is None
        self.inbox.clear()
        self._orders.clear()
        shared, self.fuse, self.fatal = self.shared, None, False
        shared.in_use.clear()
        core = LearnerCore(self._policy, self._layout, copied(shared.memory), self.count)
        self.driver = LearnerDriver(core, shared, self, self)
        self.driver.begin(self._fleet.now, Stepped(count=self.count, progress=self._rate))
        if self.stopped:
            self.feed(LoopLeft(count=self.count))
        self._stand()

    def begins(self, memory: LearnerMemory) -> None:
        """A new generation has begun."""
        self._fleet.census.began(memory.learner, memory.generation, self.trainer, memory.origin)

    def lived(self) -> None:
        """An effect of the agent's is complete."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise AgentDied

    def die(self) -> None:
        """The agent is killed."""
        self.driver, self.fuse, self.fatal = None, None, False
        self._hang_up()

    def feed(self, event: LearnerEvent, came: Any = None) -> None:
        """To the driver of the agent."""
        if self.driver is not None:
            try:
                self.driver.feed(self._fleet.now, event, came)
            except AgentDied:
                self.die()
            self._stand()

    def beat(self) -> None:
        """A heartbeat is due."""
        self.feed(Beat())

    # ------------------------------------------------------------------ its link

    def link(self) -> None:
        """Make one, if there is none."""
        if self.wire is not None and self.wire.ended:
            self.unlink()
        if self.wire is None and self.driver is not None and not self.driver.over:
            self.wire = self._fleet.connect(self)
            self.feed(Linked())

    def unlink(self) -> None:
        """The agent finds the link broken."""
        if self.wire is not None:
            self._hang_up()
            self.feed(Unlinked())

    def _hang_up(self) -> None:
        if self.wire is not None:
            self.wire.cut = True
            self.wire = None
        self.bodies.clear()

    def incoming(self, channel: str) -> int:
        """How many messages from the syncer may be read."""
        if self.wire is None or (channel == "bulk" and len(self.shared.in_use) >= self._policy.slots):
            return 0  # without room for a value that connection is not read
        return len(self.wire.down[channel])

    def receive(self, channel: str) -> None:
        """The next message from the syncer arrives."""
        assert self.wire is not None
        message, value = self.wire.down[channel].popleft()
        slot = None
        if type(message) is Delivery:
            self.shared.in_use.append(slot := Slot(value))
        self.feed(message, slot)

    def hear_trainer(self) -> None:
        """The next event from the trainer arrives."""
        event, copy = self.inbox.popleft()
        self.feed(event, copy)

    def transmit(self) -> None:
        """The next body leaves, if it is still wanted."""
        message, body = self.bodies.popleft()
        if self.wire is not None and self.driver is not None and self.driver.wants(message):
            self.wire.up["bulk"].append((message, body))

    def send(self, message: FromLearner) -> None:
        if self.wire is not None:
            self.wire.up["control"].append((message, None))
        self.lived()

    def send_body(self, message: Contribution | ProvideInitial, body: Value) -> None:
        if self.spoilt:
            body, self.spoilt = body | {NAN}, False
        elif self.loud and type(message) is Contribution:
            body, self.loud = body | {LOUD}, self.loud - 1
        self.bodies.append((message, body))
        self.lived()

    # ------------------------------------------------------------------ drive.learner.Trainer

    def _post(self, order: Any, ready: Any = None) -> None:
        self._orders.append((order, ready))
        self.lived()

    def copy_out(self, order: CopyOut) -> None:
        assert order.at == 0
        self._post(order)

    def take_over(self, order: TakeOver, ready: tuple[Slot, Value | None]) -> None:
        self._post(order, ready)
        if self.fatal:
            raise AgentDied

    def go(self, order: Go) -> None:
        self._post(order)

    def stop_loop(self, order: StopLoop) -> None:
        self._post(order)

    def detach(self, order: Detach) -> None:
        self._post(order)

    def reject(self, action: Reject) -> None:
        raise AssertionError(f"a learner was turned away: {action.reason}")

    def warn(self, action: Warn) -> None:
        """Nobody reads it."""

    # ------------------------------------------------------------------ the trainer

    @property
    def _waits(self) -> bool:
        """It stands at a boundary that may not be left."""
        return self._released < (self.count.steps if self._policy.synchronous and not self.done else 0)

    def step(self, tokens: int) -> None:
        """Make a step, if that may be."""
        if self.done or self.stopped or self.ended or self._waits:
            return
        unit = self._fleet.census.step(self.trainer, tokens)
        for theta in self._theta:
            theta.add(unit)
        self.count = Count(unit.step, self.count.tokens + tokens, self.count.busy_us + 1000 + tokens)
        self.inbox.append((Stepped(count=self.count, progress=self._rate), None))
        self._carry_out()
        self._stand()
        self._rate = self.shared.progress

    def stop(self) -> None:
        """Leave the loop, if the run says so."""
        if self.done and not self.stopped:
            self.stopped = True
            self.inbox.append((LoopLeft(count=self.count), None))
            self._stand()

    def end(self) -> None:
        """The process ends; its agent sees it, and says so."""
        self.feed(TrainerEnded(count=self.count, reason="killed"))

    def _stand(self) -> None:
        """Where it stands, orders are carried out at once."""
        if self._waits or self.stopped:
            self._carry_out()

    def _carry_out(self) -> None:
        while self._orders and not self.ended:
            order, ready = self._orders.popleft()
            match order:
                case CopyOut(fragment=p, step=step):
                    self.inbox.append((CopiedOut(fragment=p, step=step, count=self.count), Slot(frozenset(self._theta[p]))))
                case TakeOver():
                    self._take_over(order, *ready)
                case Go(steps=steps):
                    self._released = steps
                case StopLoop():
                    self.done = True
                case Detach():
                    self.done = self.ended = True
                    self.unlink()

    def _take_over(self, order: TakeOver, slot: Slot, kept: Value | None) -> None:
        p, value = order.fragment, slot.value
        theta, base = self._theta[p], self.shared.base[p]
        match order.rule:
            case "overwrite" | "blend":
                own: set[Unit] = set()
            case "carry":
                assert base <= theta, "others' work would be undone"
                own = theta - base
            case "rebase":
                assert kept is not None and kept <= theta, "work would be undone"
                own = theta - kept
        assert own.isdisjoint(value), "work would be in it twice"
        own.update(value)
        self._theta[p] = own
        slot.applied = self.count
        self.inbox.append((Applied(fragment=p, version=order.version, count=self.count), None))

    def check_included(self, order: TakeOver, value: Value) -> None:
        """What the order says of the generation's work since its base, held against the value."""
        assert self.driver is not None
        first = self.driver.core.memory.origin.steps
        since = self._theta[order.fragment] - self.shared.base[order.fragment]  # others' too, if a take-over was void
        own = {unit for unit in since if unit.trainer == self.trainer and unit.step > first}
        inside = own & value
        assert order.included == bool(inside), "the order does not tell whether the learner's work is in the value"
        if inside:
            until = max(inside)
            assert all(unit in inside for unit in own if unit <= until), "only a part of what was handed over is in the value"
