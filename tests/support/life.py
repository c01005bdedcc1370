"""One learner whose fragments are single numbers: a LearnerDriver, and all that it drives, which a test moves by hand.

What outlives an agent is kept as it was committed, never as it stands in the core; and whatever leaves is held against it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Ask, Contribution, Count, Delivery, Welcome
from skerry.core.orders import Applied, CopiedOut, CopyOut, Linked, Stepped, TakeOver
from skerry.core.policy import Policy
from skerry.drive.learner import LearnerDriver, Redo
from support.desk import after
from support.layouts import tiny_layout

FRAGMENTS = 2
SHARE = 0.25


class Life:
    """A trainer and what it shares with its agents, of which one is there at a time: Holdings, Trainer and Uplink in one.

    `said`: what reached the trainer or the syncer, in order. `log`: every call, in order."""

    def __init__(self, at_once: bool = False, **policy: Any) -> None:
        """`at_once`: orders are carried out within the call that posts them."""
        self.policy = Policy(**{"fragments": FRAGMENTS, "interval": 4, "overlap": 2, "blend": SHARE, **policy})
        self.at_once = at_once
        self.theta, self.base, self.steps = [1.0] * FRAGMENTS, [0.0] * FRAGMENTS, 0
        self.marks: dict[int, Count] = {}
        self.committed: tuple[LearnerMemory, dict[int, Redo]] = (LearnerMemory.empty(FRAGMENTS), {})
        self.shown = 0.0
        self.commits = 0
        self.orders: list[tuple[Any, Any]] = []
        self.said: list[Any] = []
        self.log: list[str] = []
        self.freed: list[Any] = []
        self.known_as: tuple[int, int, int] = (-1, 0, 0)
        self.begin_agent()

    def begin_agent(self) -> None:
        """A new one, that knows what was committed."""
        self.orders.clear()
        core = LearnerCore(self.policy, tiny_layout(self.policy), deepcopy(self.committed[0]), after(self.steps))
        self.driver = LearnerDriver(core, self, self, self)
        self.driver.begin(0.0, Stepped(count=after(self.steps)))

    def feed(self, event: Any, came: Any = None) -> list[Any]:
        """What was said on it."""
        old = len(self.said)
        self.driver.feed(0.0, event, came)
        return self.said[old:]

    def last(self, kind: type) -> Any:
        return [message for message in self.said if isinstance(message, kind)][-1]

    # ------------------------------------------------------------------ Holdings

    def encode(self, fragment: int, copy: float) -> tuple[float, float]:
        return self.base[fragment] - copy, copy

    def initial(self, fragment: int, copy: float) -> float:
        return copy

    def free_copy(self, copy: float) -> None:
        self.freed.append(("copy", copy))

    def prepare(self, order: TakeOver, value: float, kept: float | None) -> tuple[float, float | None]:
        self.marks.pop(order.fragment, None)
        added = {"rebase": lambda: value - kept, "carry": lambda: value - self.base[order.fragment]}.get(order.rule)
        return value, added and added()

    def follow(self, fragment: int, value: float) -> None:
        self.log.append("follow")
        self.base[fragment] = value

    def free(self, value: float) -> None:
        self.log.append("free")
        self.freed.append(value)

    def commit(self, memory: LearnerMemory, redos: Any) -> None:
        self.log.append("commit")
        self.commits += 1
        self.committed = deepcopy(memory), dict(redos)

    def show(self, progress: float, falls: bool) -> None:
        self.shown = progress if falls else max(self.shown, progress)

    def redos(self) -> list[Redo]:
        return list(self.committed[1].values())

    def applied(self, redo: Redo) -> Count | None:
        return self.marks.get(redo.order.fragment)

    def introduce(self, learner: int, generation: int, first_step: int) -> None:
        self.known_as = learner, generation, first_step

    # ------------------------------------------------------------------ Uplink and Trainer

    def send(self, message: Any) -> None:
        """What follows from the core's memory leaves: it must be what was committed."""
        core = self.driver.core
        assert self.committed[0] == core.memory, f"{message} was not committed before"
        assert self.shown >= core.progress, "the trainer was not shown how far the run is"
        self.log.append(type(message).__name__)
        self.said.append(message)

    def send_body(self, message: Any, body: float) -> None:
        self.send(message)
        self.body = body

    def copy_out(self, order: CopyOut) -> None:
        self.take_over(order, None)

    def take_over(self, order: Any, ready: Any) -> None:
        self.send(order)
        if isinstance(order, TakeOver):
            assert self.committed[1][order.fragment].order == order, "an order without its redo record"
        self.orders.append((order, ready))
        if self.at_once:
            self.obey()

    go = stop_loop = detach = reject = warn = send

    # ------------------------------------------------------------------ the trainer

    def obey(self, hears: bool = True) -> None:
        """Carry out what is ordered. `hears`: there is an agent that hears of it."""
        while self.orders:
            order, ready = self.orders.pop(0)
            p, count, copy = order.fragment, after(self.steps), None
            if isinstance(order, CopyOut):
                event: Any = CopiedOut(fragment=p, step=order.step, count=count)
                copy = self.theta[p]
            else:
                value, added = ready
                rest = (1 - SHARE) * self.theta[p] + SHARE * value if order.rule == "blend" else value
                self.theta[p] = self.theta[p] + added if added is not None else rest
                self.marks[p] = count
                event = Applied(fragment=p, version=order.version, count=count)
            if hears:
                self.feed(event, copy)

    def step(self) -> None:
        """One, which adds 1 to everything; the orders are for it to carry out."""
        self.steps += 1
        self.theta = [theta + 1 for theta in self.theta]
        self.feed(Stepped(count=after(self.steps)))

    # ------------------------------------------------------------------ the syncer

    def welcome(self, generation: int = 1, first_step: int = 0) -> None:
        self.feed(Linked())
        self.feed(Welcome(learner=5, generation=generation, clock=0, first_step=first_step, progress=0.0))

    def deliver(self, fragment: int, version: int, value: float, *, step: int = 0, merged: int = 0) -> list[Any]:
        message = Delivery(fragment=fragment, version=version, step=step, merged=merged, progress=0.125)
        return self.feed(message, value)

    def enter(self) -> Life:
        """Join and take version 0 over, which is 10; then a step."""
        self.welcome()
        for p in range(FRAGMENTS):
            self.deliver(p, 0, 10.0)
        self.obey()
        self.step()
        return self

    def hand_over(self, step: int = 4) -> Contribution:
        """Fragment 0 is asked for, and handed over."""
        self.feed(Ask(fragment=0, step=step, progress=0.25))
        self.obey()
        return self.last(Contribution)
