"""What a training process does for Skerry at a step boundary: publish its counters, carry out the agent's orders.

Rules: no network, no serialisation, no waiting, but for `Go`: before the first step, and at each boundary of a synchronous
policy. A step goes by the progress that was known when it began. A dead agent changes nothing here; the next one's channel is
taken up at the next boundary. Times are kept in nanoseconds of the monotonic clock; frozen time (learner/supervisor.py) and
time waited for others are no step's time.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Any

import msgspec

from skerry import errors
from skerry.core.layout import build_layout
from skerry.core.messages import Count
from skerry.core.orders import Applied, CopiedOut, CopyOut, Detach, Go, LoopLeft, Stepped, StopLoop, TakeOver
from skerry.core.policy import Policy
from skerry.island.memory import IslandMemory, Pulse
from skerry.island.orders import Attached, Channel, Greeted, Message, Raise
from skerry.learner.config import LearnerConfig
from skerry.learner.supervisor import TICK, Supervisor
from skerry.numerics.parameters import Fragments, Parameters

_ABANDONED = 30.0  # seconds without any agent after which the end of the run is not waited for


class Boundary:
    """The trainer's side of its island."""

    def __init__(self, parameters: Parameters, config: LearnerConfig, supervisor: Supervisor) -> None:
        self.done = False  # the run has reached its budget: the loop should end
        self.over = False  # nothing more is needed of this trainer
        self.greeted: Greeted | None = None
        self.policy: Policy | None = None
        self.memory: IslandMemory | None = None
        self.count = Count()
        self.progress = 0.0  # of the run, as the step in progress goes by it
        self._parameters = parameters
        self._config = config
        self._supervisor = supervisor
        self._channel: Channel | None = None
        self._state: Stepped | LoopLeft | None = None  # what a new agent is told; None before training
        self._later: list[tuple[CopyOut | TakeOver, int]] = []  # islands of many ranks: orders for a boundary to come
        self._released = -1  # steps of the boundary that Go let us leave
        self._began = self._frozen = 0  # when the last boundary began, and how long we had been frozen by then
        self._waited = 0  # during the last boundary
        self._busy = self._all_waited = self._hook = self._max_hook = self._max_gap = 0
        self._do: dict[type, Callable[[Any, int], None]] = {
            CopyOut: self._copy_out, TakeOver: self._take_over, Go: self._go, StopLoop: self._end_loop, Detach: self._leave,
            Greeted: self._lay_out, Raise: self._raise,
        }  # fmt: skip

    # ------------------------------------------------------------------ what the training thread calls

    def join(self) -> None:
        """Wait until the agent says that training may begin (or that the run is over). Raises SkerryError."""
        while self._released < 0 and not self.over:
            self._wait()
        self.progress = self.memory.progress if self.memory else 0.0
        self._state = Stepped(count=self.count, progress=self.progress)
        self._began = time.monotonic_ns()
        self._frozen = self._supervisor.frozen_ns(self._began)

    def cross(self, tokens: int, loss: float) -> None:
        """One step was made, on so many tokens."""
        assert self.memory is not None and self.policy is not None
        began = time.monotonic_ns()
        frozen = self._supervisor.frozen_ns(began)
        gap = max(0, began - self._began - (frozen - self._frozen) - self._waited)
        self._busy += gap
        self.count = Count(self.count.steps + 1, self.count.tokens + tokens, self._busy // 1000)
        if self.count.steps >= 3:
            self._max_gap = max(self._max_gap, gap)
        self._publish(loss, gap)
        self._state = Stepped(count=self.count, progress=self.progress)
        self._attach()
        self._post(self._state)
        if self._later:
            later, self._later = self._later, []
            for order in later:
                self._obey(*order)
        self._carry_out()
        self._flush()
        self._waited = 0
        if self.policy.synchronous:
            self._wait_for_go()
        self.progress = self.memory.progress
        ended = time.monotonic_ns()
        inside = max(0, ended - began - self._waited - (self._supervisor.frozen_ns(ended) - frozen))
        self._hook += inside
        self._max_hook = max(self._max_hook, inside)
        self._began, self._frozen = began, frozen

    def finish(self, tokens: int, loss: float) -> None:
        """There will be no further step: carry out orders until the run is over. `tokens`: counted since the last step."""
        self.count = self.count._replace(tokens=self.count.tokens + tokens)
        self._state = LoopLeft(count=self.count)
        self._publish(loss)
        self._attach()
        self._post(self._state)
        seen = time.monotonic()
        while not self.over and time.monotonic() - seen < _ABANDONED:
            self._wait()
            if self._channel is not None and not self._channel.closed:
                seen = time.monotonic()

    def close(self) -> None:
        """The agent sees that we are gone, and how far we came: an interrupt may have struck before that was published."""
        if self.memory is not None:
            self._publish(float("nan"))
        if self._channel is not None:
            self._channel.close()
        if self.memory is not None:
            os.close(self.memory.file)

    # ------------------------------------------------------------------ agents come and go

    def _attach(self) -> None:
        """Take up a new agent's channel, if one lies ready; what the old one still wanted is void."""
        channel = self._supervisor.take_channel()
        if channel is None:
            return
        if self._channel is not None:
            self._channel.close()
        self._channel = channel
        self._later.clear()
        if self.memory is not None:
            self._share()
            if self._state is not None:
                self._post(self._state)

    def _share(self) -> None:
        assert self._channel is not None and self.memory is not None
        self._channel.post_file(Attached(count=self.count, progress=self.progress), self.memory.file)

    def _lay_out(self, greeted: Greeted, _: int) -> None:
        """The policy is known: build what depends on it."""
        if self.memory is None:
            self.greeted = greeted
            self.policy = msgspec.json.decode(greeted.policy, type=Policy)
            policy = self.policy
            layout = build_layout(self._parameters.specs, policy.fragments, policy.fragmentation, policy.direct)
            self._fragments = Fragments(self._parameters, layout)  # from here on
            self.memory = IslandMemory.create(self._config.shm_dir, layout, policy.slots)
            self._share()

    def _raise(self, order: Raise, _: int) -> None:
        kind = getattr(errors, order.error)
        code = {"code": order.code} if order.code else {}
        raise kind(order.message, remedy=order.remedy, **code)

    # ------------------------------------------------------------------ orders

    def _carry_out(self) -> None:
        assert self._channel is not None
        receive = self._channel.receive
        while (got := receive()) is not None:
            self._obey(*got)

    def _obey(self, order: Message, slot: int) -> None:
        """Now, or at the boundary that it is for."""
        if isinstance(order, CopyOut | TakeOver) and order.at:
            assert order.at >= self.count.steps, "an order for a boundary that is passed"
            if order.at > self.count.steps:
                self._later.append((order, slot))
                return
        self._do[type(order)](order, slot)

    def _copy_out(self, order: CopyOut, slot: int) -> None:
        assert self.memory is not None
        self._fragments.copy_out(order.fragment, self.memory.out(slot, order.fragment))
        self._post(CopiedOut(fragment=order.fragment, step=order.step, count=self.count), slot)

    def _take_over(self, order: TakeOver, slot: int) -> None:
        fragment, memory, policy = order.fragment, self.memory, self.policy
        assert memory is not None and policy is not None
        if order.rule == "overwrite":
            self._fragments.overwrite(fragment, memory.value(slot, fragment))
        elif order.rule == "blend":
            self._fragments.blend(fragment, memory.value(slot, fragment), policy.blend)
        else:  # carry, rebase: the agent has worked out the change
            self._fragments.add(fragment, memory.change(slot, fragment))
        memory.set_applied(slot, self.count)
        self._post(Applied(fragment=fragment, version=order.version, count=self.count), slot)

    def _go(self, order: Go, _: int) -> None:
        self._released = order.steps

    def _end_loop(self, order: StopLoop, _: int) -> None:
        self.done = True

    def _leave(self, order: Detach, _: int) -> None:
        self.done = self.over = True

    def _post(self, message: Stepped | LoopLeft | CopiedOut | Applied, slot: int = -1) -> None:
        assert self._channel is not None
        self._channel.line_up(message, slot)

    def _flush(self) -> None:
        assert self._channel is not None
        self._channel.flush()

    # ------------------------------------------------------------------ waiting, publishing

    def _wait_for_go(self) -> None:
        while self._released < self.count.steps and not self.done:
            self._waited += self._wait()
        self._all_waited += self._waited

    def _wait(self) -> int:
        """Until an order has come and is carried out, or a tick has passed. Returns nanoseconds waited."""
        before = self._unfrozen_ns()
        self._attach()
        if self._channel is None or self._channel.closed:
            self._supervisor.wait_for_channel(TICK)
            return self._unfrozen_ns() - before
        self._channel.flush()
        poll = select.poll()
        poll.register(self._channel.socket, select.POLLIN)
        poll.poll(TICK * 1000)
        waited = self._unfrozen_ns() - before
        self._carry_out()
        self._flush()
        return waited

    def _unfrozen_ns(self) -> int:
        now = time.monotonic_ns()
        return now - self._supervisor.frozen_ns(now)

    def _publish(self, loss: float, gap: int | None = None) -> None:
        assert self.memory is not None
        waited, hook, max_hook, max_gap = (t // 1000 for t in (self._all_waited, self._hook, self._max_hook, self._max_gap))
        pulse = Pulse(*self.count, waited, hook, max_hook, max_gap, loss)
        self.memory.publish(pulse, gap if gap is None else gap // 1000)
