"""One learner in virtual time: a trainer that steps, and the driver of its LearnerCore.

    joining --Go--> stepping --boundary--> (waiting --Go-->) stepping ... --Done--> stopped

Rules: nothing is decided here; orders of the agent are carried out at step boundaries, or at once where the trainer stands
(before its first step, while it waits in synchronous policies, when it has stopped). A step's arithmetic is done at its end,
with the rate of its beginning: a trainer that is killed meanwhile costs nothing. Agent and trainer need no time of their own.
A frozen agent's messages wait for it; a frozen trainer's step ends later by as long as it was frozen.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, NamedTuple, Protocol

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Abstain,
    Applied,
    Contribution,
    CopiedOut,
    CopyOut,
    Count,
    Delivery,
    Drop,
    Encode,
    FromLearner,
    Go,
    LearnerAction,
    LearnerEvent,
    LoopLeft,
    ProvideInitial,
    Received,
    Report,
    RunOver,
    Stepped,
    StopLoop,
    TakenOver,
    TakeOver,
    TakeOverRule,
    ToLearner,
    Warn,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.world.hub import Body, Hub, Line
from skerry.world.links import Link
from skerry.world.queue import Queue

AGENT_RESTART_S = 1.0


class Trainer(Protocol):
    """A learner's tensors; one of these lives as long as its training process."""

    def step(self, step: int, progress: float, since_start: int) -> int:
        """Make the learner's step with that number (over all its lives); gives its tokens."""

    def copy_out(self, fragment: int) -> Body:
        """The parameters as they stand, in fp32; must not change later."""

    def hand_over(self, fragment: int, copy: Body) -> Body:
        """base - copy, in the upward codec."""

    def take_over(self, fragment: int, rule: TakeOverRule, body: Body, copy: Body) -> None:
        """Take a delivered body over by that rule; it becomes the base. `copy`: what was handed over, for rebase."""


class State(Enum):
    """Of the trainer."""

    DOWN = "there is none"
    JOINING = "before its first step"
    STEPPING = "in a step"
    BOUNDARY = "at a step's end"
    WAITING = "at a boundary that must not be left yet"
    STOPPED = "no more steps"


STANDING = (State.JOINING, State.WAITING, State.STOPPED)
"""Where orders are carried out at once. A tuple: it is asked often, and an enum's hash is slow."""


class Hand(NamedTuple):
    """A hand-over that may have to be sent again, and what rebase needs of it."""

    body: Body
    copy: Body


class Island:
    """One learner's place. `step_times`: seconds of its steps; `new_trainer`: the tensors of a new life."""

    def __init__(self, learner: int, queue: Queue, hub: Hub, policy: Policy, layout: Layout, link: Link,
                 step_times: Iterator[float], new_trainer: Callable[[int], Trainer]) -> None:  # fmt: skip
        self.learner = learner
        self.state = State.DOWN
        self.slowed: list[float] = []  # shares of its speed that faults leave it
        self.waited = 0.0  # seconds in which its trainer stood, for others or for the model
        self.loaded = 0.0  # of these, before a life's first step
        self.lives = 0
        self._queue, self._hub, self._policy, self._layout, self._link = queue, hub, policy, layout, link
        self._step_times, self._new_trainer = step_times, new_trainer
        codec = get_codec(policy.codec_up)
        self._up_bytes = [codec.nbytes(size) for size in layout.sizes]
        self._beat_every = min(policy.silent_after, policy.sync_timeout) / 4
        self._line: Line | None = None
        self._inbox: deque[tuple[LearnerEvent, Body]] = deque()
        self._working = False
        self._agent_up = False
        self._standing = False
        self._do: dict[type, Callable[[Any], None]] = {
            CopyOut: self._post, TakeOver: self._post, Encode: self._prepare, Contribution: self._contribute,
            ProvideInitial: self._seed, Go: self._go,
            StopLoop: self._finish, Drop: self._drop, Warn: lambda warning: None, RunOver: self._end, Report: self._say,
            Abstain: self._say, Received: self._say, TakenOver: self._say,
        }  # fmt: skip

    # ------------------------------------------------------------------ a life

    def start(self) -> None:
        """A new training process, with its agent."""
        assert self.state is State.DOWN
        self.lives += 1
        self.state = State.JOINING
        self._trainer = self._new_trainer(self.learner)
        self._memory = LearnerMemory.empty(self._policy.fragments, self.learner)
        self._count = Count()
        self._earlier = 0  # steps of the learner's earlier lives
        self._progress = 0.0
        self._done = False
        self._released = -1
        self._stood_since = self._queue.now
        self._frozen_at: float | None = None
        self._shift = 0.0  # by so much this step ends later, having been frozen
        self._left: float | None = None  # of a step whose end came while the trainer was frozen
        self._agent_frozen = False
        self._start_agent(self.lives)

    def _start_agent(self, life: int) -> None:
        if life != self.lives or self.state is State.DOWN:
            return
        self._core = LearnerCore(self._policy, self._layout, self._memory, self._count, self._progress)
        self._orders: deque[CopyOut | TakeOver] = deque()
        self._hands: dict[int, Hand] = {}
        self._values: dict[tuple[int, int], list[Body]] = {}  # of (fragment, version), not taken over yet
        self._inbox.clear()
        self._agent_up = True
        if self._core.begun and self.state is State.JOINING:
            self._go(Go(steps=0))
        if self.state is not State.JOINING:
            self._feed(Stepped(count=self._count))
        if self._done:
            self._feed(LoopLeft(count=self._count))
        self._line = Line(self._hub, self, self._link)
        self._line.say(self._core.join())
        self._queue.after(self._beat_every, self._beat, self._line)

    def kill(self, part: str) -> bool:
        """Trainer and agent die (""), the trainer (its agent tells its last count) or the agent. False: there is none."""
        if self.state is State.DOWN or (part == "agent" and not self._agent_up):
            return False
        if part == "agent":
            self._kill_agent()
            self._queue.after(AGENT_RESTART_S, self._start_agent, self.lives)
            return True
        if part == "trainer" and self._agent_up and self._core.joined:
            self._say(self._core.leave(self._count, "the trainer has ended"))
        self._go_down()
        return True

    def leave(self) -> bool:
        """Leave cleanly, for good."""
        if self.state is State.DOWN:
            return False
        if self._agent_up and self._core.joined:
            self._say(self._core.leave(self._count))
        self._go_down()
        return True

    def _go_down(self) -> None:
        if self.state in (State.JOINING, State.WAITING):
            self._stood()
        self.state = State.DOWN
        self.lives += 1  # whatever was asked for in this life is void
        self._agent_up = False
        self._inbox.clear()
        self._unlink()

    def _kill_agent(self) -> None:
        """What the trainer has carried out stands in the memory it shares with its agents: see to it before it goes."""
        for event, _ in self._inbox:
            if isinstance(event, Applied):
                self._core.handle(event)
        self._agent_up = self._agent_frozen = False
        self._orders.clear()
        self._unlink()

    def _unlink(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def freeze(self, part: str) -> bool:
        """Trainer, agent or both stand still until `thaw`."""
        if self.state is State.DOWN or (part == "agent" and not self._agent_up):
            return False
        if part != "agent" and self._frozen_at is None:
            self._frozen_at = self._queue.now
        if part != "trainer":
            self._agent_frozen = True
        return True

    def thaw(self, part: str, life: int) -> None:
        """Go on, if it is still the process that was frozen."""
        if life != self.lives or self.state is State.DOWN:
            return
        if part != "agent" and self._frozen_at is not None:
            frozen, self._frozen_at = self._queue.now - self._frozen_at, None
            if self._left is not None:
                self._queue.after(self._left, self._boundary, life, self._seconds)
                self._left = None
            elif self.state is State.STEPPING:
                self._shift += frozen
            else:
                self._stand()
        if part != "trainer":
            self._agent_frozen = False
            self._work()

    # ------------------------------------------------------------------ the trainer

    def _proceed(self) -> None:
        """At a boundary: into the next step, if that may begin."""
        if self._done:
            self.state = State.STOPPED
            self._feed(LoopLeft(count=self._count))
        elif self._policy.synchronous and self._released < self._count.steps:
            self.state = State.WAITING
            self._stood_since = self._queue.now
        else:
            self.state = State.STEPPING
            self._seconds = next(self._step_times) / math.prod(self.slowed)
            self._rate = self._progress
            self._queue.after(self._seconds, self._boundary, self.lives, self._seconds)
            return
        self._stand()

    def _boundary(self, life: int, seconds: float) -> None:
        """A step has ended, unless the trainer was frozen in it."""
        if life != self.lives:
            return
        shift, self._shift = self._shift, 0.0
        if self._frozen_at is not None:
            self._left = self._queue.now + shift - self._frozen_at
            return
        if shift:
            self._queue.after(shift, self._boundary, life, seconds)
            return
        steps, tokens, busy = self._count
        tokens += self._trainer.step(self._earlier + steps, self._rate, steps)
        self._count = Count(steps + 1, tokens, busy + round(seconds * 1e6))
        self.state = State.BOUNDARY
        ready = len(self._orders)  # what the agent orders from now on is for the next boundary
        self._feed(Stepped(count=self._count))
        for _ in range(ready):
            self._carry_out(self._orders.popleft())
        self._proceed()

    def _stand(self) -> None:
        """The trainer stands: carry out whatever is ordered, and go on when it may."""
        if self._standing:
            return
        self._standing = True
        while self.state in STANDING and self._frozen_at is None:
            if self._orders:
                self._carry_out(self._orders.popleft())
            elif self.state is not State.STOPPED and (self._done or self._released >= self._count.steps):
                self._stood()
                self.state = State.BOUNDARY
                self._proceed()
            else:
                break
        self._standing = False

    def _stood(self) -> None:
        seconds = self._queue.now - self._stood_since
        self.waited += seconds
        self.loaded += seconds if self.state is State.JOINING else 0.0

    def _carry_out(self, order: CopyOut | TakeOver) -> None:
        p = order.fragment
        if isinstance(order, CopyOut):
            self._feed(CopiedOut(fragment=p, step=order.step, count=self._count), self._trainer.copy_out(p))
            return
        versions = self._values[p, order.version]
        body = versions.pop(0)
        if not versions:
            del self._values[p, order.version]
        hand = self._hands.pop(p, None)
        self._trainer.take_over(p, order.rule, body, hand.copy if hand else None)
        self._feed(Applied(fragment=p, version=order.version, count=self._count))

    # ------------------------------------------------------------------ the agent

    def hear(self, line: Line, message: ToLearner, body: Body = None) -> None:
        """A message from the syncer."""
        if line is self._line:
            self._feed(message, body)

    def _feed(self, event: LearnerEvent, extra: Body = None) -> None:
        if self._agent_up:
            self._inbox.append((event, extra))
            if not self._working and not self._agent_frozen:
                self._work()

    def _work(self) -> None:
        """One event after the other: what the trainer does at once on an order is heard when the order's event is done."""
        self._working = True
        while self._inbox and not self._agent_frozen:
            event, self._extra = self._inbox.popleft()
            if type(event) is Delivery:
                self._values.setdefault((event.fragment, event.version), []).append(self._extra)
            for action in self._core.handle(event):
                self._do[type(action)](action)
            if type(event) is Welcome:
                self._earlier = event.first_step - self._memory.origin.steps
            self._progress = self._core.progress
        self._working = False
        if self.state in STANDING:
            self._stand()

    def _say(self, message: FromLearner) -> None:
        if self._line is not None:
            self._line.say(message)

    def _post(self, order: CopyOut | TakeOver) -> None:
        self._orders.append(order)

    def _prepare(self, action: Encode) -> None:
        p = action.fragment
        self._hands[p] = Hand(self._trainer.hand_over(p, self._extra), self._extra)

    def _contribute(self, message: Contribution) -> None:
        p = message.fragment
        if self._core.joined and self._line is not None:
            self._line.send(message, self._hands[p].body, self._up_bytes[p])

    def _seed(self, message: ProvideInitial) -> None:
        if self._line is not None:
            self._line.send(message, self._extra, 4 * self._layout.sizes[message.fragment])

    def _go(self, order: Go) -> None:
        self._released = order.steps

    def _finish(self, order: StopLoop) -> None:
        self._done = True

    def _drop(self, action: Drop) -> None:
        self._values[action.fragment, action.version].pop(0)

    def _end(self, action: LearnerAction) -> None:
        self._go_down()

    def _beat(self, line: Line) -> None:
        """The heartbeat, if nothing else was said, as long as this is the agent's line."""
        if line is self._line:
            silent = self._queue.now - line.said_at >= self._beat_every
            if silent and self._core.joined and not self._agent_frozen:
                line.say(self._core.report())
            self._queue.after(self._beat_every, self._beat, line)
