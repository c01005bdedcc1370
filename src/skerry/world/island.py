"""One learner in virtual time: a trainer that steps, and the driver of its LearnerCore.

    joining --Go--> stepping --boundary--> (waiting --Go-->) stepping ... --StopLoop--> stopped

Rules: nothing is decided here; orders of the agent are carried out at step boundaries, or at once where the trainer stands
(before its first step, while it waits in synchronous policies, when it has stopped). A step's arithmetic is done at its end,
with the rate of its beginning: a trainer that is killed meanwhile costs nothing. Agent and trainer need no time of their own.
A frozen agent's messages wait for it; a frozen trainer's step ends later by as long as it was frozen. What the trainer carried
out stands in the memory that it shares with its agents, whether one heard of it or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.learner import LearnerCore
from skerry.core.maker import maker
from skerry.core.messages import Contribution, Count, ProvideInitial, ToLearner
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
from skerry.core.policy import Policy
from skerry.drive.learner import LearnerDriver
from skerry.world.hub import Hub, Line
from skerry.world.links import Link
from skerry.world.plane import Body
from skerry.world.queue import Queue
from skerry.world.shared import Shared, Trainer, Uplink, dropped

make_stepped = maker(Stepped)
make_copied_out = maker(CopiedOut)
make_applied = maker(Applied)
make_count = maker(Count)

AGENT_RESTART_S = 1.0
GIVEN_UP = 3  # heartbeats after which a line that carries nothing is given up


class State(Enum):
    """Of the trainer."""

    DOWN = "there is none"
    JOINING = "before its first step"
    STEPPING = "in a step"
    BOUNDARY = "at a step's end"
    WAITING = "at a boundary that must not be left yet"
    STOPPED = "no more steps"


_STEPPING, _BOUNDARY, _WAITING = State.STEPPING, State.BOUNDARY, State.WAITING  # an enum's own look-up is slow
STANDING = (State.JOINING, State.WAITING, State.STOPPED)
"""Where orders are carried out at once. A tuple: it is asked often, and an enum's hash is slow."""


class Island:
    """One learner's place, and the Trainer of its driver. `step_times`: seconds of its steps; `new_trainer`: the tensors of a
    new life."""

    __slots__ = ("_agent_frozen", "_agent_up", "_beat_every", "_count", "_done", "_driver", "_frozen_at",
                 "_hears", "_hub", "_inbox", "_later", "_layout", "_left", "_line", "_link", "_new_trainer",
                 "_no_link_until", "_orders", "_policy", "_queue", "_rate", "_released", "_seconds", "_shared", "_shift",
                 "_standing", "_step_times", "_stood_since", "_synchronous", "_trainer", "_up_bytes", "_uplink", "learner",
                 "lives", "loaded", "slowed", "state", "waited")  # fmt: skip

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
        self._synchronous = policy.synchronous
        codec = get_codec(policy.codec_up)
        self._up_bytes = [codec.nbytes(size) for size in layout.sizes]
        self._beat_every = min(policy.silent_after, policy.sync_timeout) / 4
        self._line: Line | None = None
        self._no_link_until = 0.0
        self._agent_up = self._agent_frozen = False
        self._hears = False  # up, and not frozen
        self._standing = False

    # ------------------------------------------------------------------ a life

    def start(self) -> None:
        """A new training process, with its agent."""
        assert self.state is State.DOWN
        self.lives += 1
        self.state = State.JOINING
        self._trainer = self._new_trainer(self.learner)
        self._shared = Shared(self._trainer, self._policy, self.learner)
        self._count = Count()
        self._rate = 0.0  # the progress that the step goes by
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
        self._orders: list[tuple[CopyOut | TakeOver, Any]] = []
        self._later: list[tuple[CopyOut | TakeOver, Any]] = []  # islands of many ranks: orders for a boundary to come
        self._inbox: list[tuple[LearnerEvent, Body]] = []  # of an agent that is frozen
        core = LearnerCore(self._policy, self._layout, self._shared.memory, self._count)
        self._uplink = Uplink(dropped, self._send_body)
        self._driver = LearnerDriver(core, self._shared, self, self._uplink)
        self._agent_up = self._hears = True
        self._driver.begin(self._queue.now, Stepped(count=self._count, progress=self._rate))
        if self.state is State.STOPPED:
            self._feed(LoopLeft(count=self._count))
        self._dial(self._driver)

    def _dial(self, driver: LearnerDriver) -> None:
        """A line of that agent's, as soon as there can be one."""
        if driver is not self._driver or not self._agent_up or self._line is not None:
            return
        if self._queue.now < self._no_link_until:
            self._queue.at(self._no_link_until, self._dial, driver)
            return
        self._line = line = Line(self._hub, self, self._link)
        self._uplink.send = line.say
        self._feed(Linked())
        if self.state in STANDING:
            self._stand()
        self._queue.after(self._beat_every, self._beat, line)

    def cut(self, seconds: float, *, mute: bool) -> bool:
        """The line breaks, and there is another in so many seconds. `mute`: both ends keep it, but nothing passes any more; the
        agent gives it up after 3 heartbeats. False: there is no line."""
        line, now = self._line, self._queue.now
        if line is None:
            return False
        self._no_link_until = max(self._no_link_until, now + seconds)
        if mute:
            self._line, self._uplink.send = None, dropped
            self._queue.after(seconds, line.hang_up)
            self._queue.after(GIVEN_UP * self._beat_every, self._give_up, self._driver)
        else:
            self._unlink()
            self._give_up(self._driver)
        return True

    def _give_up(self, driver: LearnerDriver) -> None:
        """The agent notices that it has no line."""
        if driver is self._driver and self._agent_up and self._line is None:
            self._feed(Unlinked())
            self._dial(driver)

    def kill(self, part: str) -> bool:
        """Trainer and agent die (""), the trainer (its agent tells its last count) or the agent. False: there is none."""
        if self.state is State.DOWN or (part == "agent" and not self._agent_up):
            return False
        if part == "agent":
            self._agent_up = self._agent_frozen = self._hears = False
            self._orders.clear()
            self._later.clear()
            self._unlink()
            self._queue.after(AGENT_RESTART_S, self._start_agent, self.lives)
            return True
        if part == "trainer":
            self._tell_end("the trainer has ended")
        self._go_down()
        return True

    def leave(self) -> bool:
        """Leave cleanly, for good."""
        if self.state is State.DOWN:
            return False
        self._tell_end()
        self._go_down()
        return True

    def _tell_end(self, reason: str = "") -> None:
        if self._agent_up:
            self._driver.feed(self._queue.now, TrainerEnded(count=self._count, reason=reason))

    def _go_down(self) -> None:
        if self.state in (State.JOINING, State.WAITING):
            self._stood()
        self.state = State.DOWN
        self.lives += 1  # whatever was asked for in this life is void
        self._agent_up = self._hears = False
        self._inbox.clear()
        self._unlink()

    def _unlink(self) -> None:
        if self._line is not None:
            self._line.hang_up()
            self._line, self._uplink.send = None, dropped

    def freeze(self, part: str) -> bool:
        """Trainer, agent or both stand still until `thaw`."""
        if self.state is State.DOWN or (part == "agent" and not self._agent_up):
            return False
        if part != "agent" and self._frozen_at is None:
            self._frozen_at = self._queue.now
        if part != "trainer":
            self._agent_frozen, self._hears = True, False
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
            self._hears = self._agent_up
            while self._hears and self._inbox:
                self._feed(*self._inbox.pop(0))
            if self.state in STANDING:
                self._stand()

    # ------------------------------------------------------------------ the trainer

    def _proceed(self) -> None:
        """At a boundary: into the next step, if that may begin."""
        if self._done:
            self.state = State.STOPPED
            self._feed(LoopLeft(count=self._count))
        elif self._synchronous and self._released < self._count.steps:
            self.state = _WAITING
            self._stood_since = self._queue.now
        else:
            self.state = _STEPPING
            self._seconds = next(self._step_times)
            if self.slowed:
                self._seconds /= math.prod(self.slowed)
            self._rate = self._shared.progress
            self._queue.at(self._queue.now + self._seconds, self._boundary, self.lives, self._seconds)
            return
        self._stand()

    def _boundary(self, life: int, seconds: float) -> None:
        """A step has ended, unless the trainer was frozen in it."""
        if life != self.lives:
            return
        if self._frozen_at is not None:
            self._left, self._shift = self._queue.now + self._shift - self._frozen_at, 0.0
            return
        if self._shift:
            self._queue.after(self._shift, self._boundary, life, seconds)
            self._shift = 0.0
            return
        steps, tokens, busy = self._count
        tokens += self._trainer.step(self._shared.earlier + steps, self._rate, steps)
        self._count = make_count(steps + 1, tokens, busy + round(seconds * 1e6))
        self.state = _BOUNDARY
        if self._later:
            self._take_up_later()
        ready = len(self._orders)  # what the agent orders from now on is for the next boundary
        self._feed(make_stepped(count=self._count, progress=self._rate))
        for _ in range(ready):
            self._carry_out(*self._orders.pop(0))
        self._proceed()

    def _stand(self) -> None:
        """The trainer stands: carry out whatever is ordered, and go on when it may."""
        if self._standing:
            return
        self._standing = True
        while self.state in STANDING and self._frozen_at is None:
            if self._orders:
                self._carry_out(*self._orders.pop(0))
            elif self.state is not State.STOPPED and (self._done or self._released >= self._count.steps):
                self._stood()
                self.state = _BOUNDARY
                self._proceed()
            else:
                break
        self._standing = False

    def _stood(self) -> None:
        seconds = self._queue.now - self._stood_since
        self.waited += seconds
        self.loaded += seconds if self.state is State.JOINING else 0.0

    def _carry_out(self, order: CopyOut | TakeOver, ready: Any) -> None:
        p = order.fragment
        if isinstance(order, CopyOut):
            self._feed(make_copied_out(fragment=p, step=order.step, count=self._count), self._trainer.copy_out(p))
        else:
            self._trainer.take_over(p, order.rule, *ready)
            self._shared.marks[p] = self._count
            self._feed(make_applied(fragment=p, version=order.version, count=self._count))

    # ------------------------------------------------------------------ drive.learner.Trainer

    def copy_out(self, order: CopyOut) -> None:
        """At the next boundary."""
        if order.at:
            self._keep_for_later(order, None)
        else:
            self._orders.append((order, None))

    def take_over(self, order: TakeOver, ready: tuple[Body, Body]) -> None:
        """At the next boundary."""
        if order.at:
            self._keep_for_later(order, ready)
        else:
            self._orders.append((order, ready))

    def _keep_for_later(self, order: CopyOut | TakeOver, ready: Any) -> None:
        assert order.at >= self._count.steps, "an order for a boundary that is passed"
        (self._later if order.at > self._count.steps else self._orders).append((order, ready))

    def _take_up_later(self) -> None:
        """Orders that are for the boundary that has come."""
        at = self._count.steps
        self._orders.extend(each for each in self._later if each[0].at == at)
        self._later = [each for each in self._later if each[0].at > at]

    def go(self, order: Go) -> None:
        """A trainer that waits goes on when the event is done with."""
        self._released = order.steps

    def stop_loop(self, order: StopLoop) -> None:
        """At the next boundary."""
        self._done = True

    def detach(self, order: Detach) -> None:
        """Trainer and agent end."""
        self._go_down()

    def reject(self, action: Reject) -> None:
        """The trainer ends with an error."""
        self._go_down()

    def warn(self, action: Warn) -> None:
        """Nobody reads it."""

    # ------------------------------------------------------------------ the agent

    def hear(self, line: Line, message: ToLearner, body: Body = None) -> None:
        """A message from the syncer."""
        if line is self._line:
            if self._hears:
                self._driver.feed(self._queue.now, message, body)
            else:
                self._inbox.append((message, body))
            if self.state is not _STEPPING and self.state in STANDING:
                self._stand()

    def _feed(self, event: LearnerEvent, came: Body = None) -> None:
        if self._hears:
            self._driver.feed(self._queue.now, event, came)
        elif self._agent_up:
            self._inbox.append((event, came))

    def _send_body(self, message: Contribution | ProvideInitial, body: Body) -> None:
        if self._line is None:
            return
        p = message.fragment
        nbytes = self._up_bytes[p] if type(message) is Contribution else 4 * self._layout.sizes[p]
        self._line.send(message, body, nbytes)

    def _beat(self, line: Line) -> None:
        """The heartbeat, if nothing else was said, as long as this is the agent's line."""
        if line is self._line:
            if self._hears and self._queue.now - line.said_at >= self._beat_every:
                self._feed(Beat())
            self._queue.after(self._beat_every, self._beat, line)
