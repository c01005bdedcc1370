"""The syncer in virtual time: SyncerDriver over lines that are made of events in one queue.

    island --Line--> hear -> SyncerDriver --> lines: messages, values
                                          '-> Model: what becomes of the tensors, if there are any

Rules: nothing is decided here. What was sent before a line was closed still arrives, but for bodies that were not yet sent
whole. The model's arithmetic takes no time, but for `merge_s` between a round's close and its version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.messages import (
    Contribution,
    Delivery,
    Join,
    ProvideInitial,
    SyncerEvent,
    ToLearner,
)
from skerry.core.phase import ENDED
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive import around
from skerry.drive.syncer import SyncerDriver
from skerry.world.links import Link, Pipe
from skerry.world.plane import Body, Model, VirtualPlane
from skerry.world.queue import Queue


class Agent(Protocol):
    """The other end of a line."""

    learner: int

    def hear(self, line: Line, message: ToLearner, body: Body = None) -> None:
        """A message has arrived."""


class Line(around.Line):
    """One connection of one agent."""

    __slots__ = ("_hub", "_latency", "_queue", "_seconds", "agent", "down", "lost", "said_at", "up")

    def __init__(self, hub: Hub, agent: Agent, link: Link) -> None:
        super().__init__()
        self.agent = agent
        self.lost = False
        self.up, self.down = hub.pipes.setdefault(agent.learner, (Pipe(link), Pipe(link)))
        self.said_at = hub.queue.now
        self._hub, self._queue, self._latency = hub, hub.queue, link.latency
        self._seconds = hub.value_seconds(link)

    # ------------------------------------------------------------------ the agent's end

    def say(self, message: SyncerEvent) -> None:
        """Up, a control message."""
        queue, driver = self._queue, self._hub.driver
        self.said_at = queue.now
        queue.after(self._latency, driver.join if type(message) is Join else driver.hear, self, message)

    def send(self, message: Contribution | ProvideInitial, body: Body, nbytes: int) -> None:
        """Up, with a body: after those that are still being sent."""
        queue = self._queue
        queue.at(self.up.send(queue.now, nbytes) + self._latency, self._hub.receive, self, message, body)

    def hang_up(self) -> None:
        """The agent has gone; the syncer sees it one latency later."""
        self.up.cut(self._queue.now)
        self._queue.after(self._latency, self._hub.lose, self)

    # ------------------------------------------------------------------ the syncer's end

    @property
    def closed(self) -> bool:
        return self.lost

    def tell(self, message: ToLearner) -> None:
        self._queue.after(self._latency, self.agent.hear, self, message)

    def send_value(self, delivery: Delivery) -> bool:
        hub, queue, fragment = self._hub, self._queue, delivery.fragment
        seconds = self._seconds[fragment]
        self.down.send(queue.now, hub.value_bytes[fragment])
        queue.after(seconds + self._latency, self.agent.hear, self, delivery, hub.model.body(fragment))
        if seconds:
            queue.after(seconds, hub.driver.sent, self)
        return not seconds

    def close(self, reason: str) -> None:
        """By the syncer: a newer line of its agent's has taken its place."""
        self.lost = True


class Hub:
    """`watch` is called after every close. `merge_s`: seconds from a round's close to its version. `pipes`: each
    learner's link, up and down, over all its lines."""

    def __init__(self, queue: Queue, policy: Policy, layout: Layout, model: Model, watch: Callable[[], None],
                 merge_s: float) -> None:  # fmt: skip
        self.queue = queue
        self.core = SyncerCore(policy, layout)
        self.model = model
        self.plane = VirtualPlane(model, queue, merge_s, watch)
        self.driver = SyncerDriver(self.core, self.plane, clock=lambda: queue.now, timer=self._set_timer, log=None,
                                         settled=self._settled if policy.tokens else None)  # fmt: skip
        self.pipes: dict[int, tuple[Pipe, Pipe]] = {}
        self.value_bytes = [get_codec(policy.codec_down).nbytes(size) for size in layout.sizes]
        self._value_seconds: dict[Link, list[float]] = {}
        self._tokens, self._tokens_at = 0, 0.0

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.core.phase is ENDED

    @property
    def moved_at(self) -> float:
        """When the run last came nearer to its end."""
        return max(self._tokens_at, self.core.advanced_at or 0.0)

    @property
    def bytes_up(self) -> Counter[int]:
        """Of bodies, by learner: what has left by now."""
        return Counter({learner: up.sent(self.queue.now) for learner, (up, _) in self.pipes.items()})

    @property
    def bytes_down(self) -> Counter[int]:
        """The same, to the learners."""
        return Counter({learner: down.sent(self.queue.now) for learner, (_, down) in self.pipes.items()})

    def value_seconds(self, link: Link) -> list[float]:
        """How long each fragment's value occupies such a link; one list for all its lines."""
        if link not in self._value_seconds:
            self._value_seconds[link] = [link.seconds(nbytes) for nbytes in self.value_bytes]
        return self._value_seconds[link]

    # ------------------------------------------------------------------ what lines bring

    def receive(self, line: Line, message: Contribution | ProvideInitial, body: Body) -> None:
        """A message with a body has come over a line."""
        if line.lost:
            return
        if type(message) is Contribution:
            self.plane.put(message.name, body)
            self.driver.contributed(line, message)
        else:
            assert type(message) is ProvideInitial
            self.plane.put(message.name, body)
            self.driver.provided(line, message)

    def lose(self, line: Line) -> None:
        """A line has ended."""
        line.lost = True
        line.down.cut(self.queue.now)
        self.driver.lost(line)

    # ------------------------------------------------------------------ what the driver calls

    def _settled(self) -> None:
        """Learners without a quorum come nearer to a budget of tokens, too."""
        tokens = self.core.ledger.tokens
        if tokens > self._tokens:
            self._tokens, self._tokens_at = tokens, self.queue.now

    def _set_timer(self, due: float | None) -> None:
        if due is not None:
            self.queue.at(max(due, self.queue.now), self.driver.tick, due)
