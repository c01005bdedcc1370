"""The syncer's driver in virtual time: SyncerCore, and a line to every learner's agent.

    island --Line--> hear -> SyncerCore -> carry out --> lines: messages, deliveries
                                                     '-> Model: what becomes of the tensors, if there are any

Rules: nothing is decided here; a line delivers one body after the other, always the newest version at the time of sending.
What was sent before a line was closed still arrives, but for bodies that were not yet sent whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.messages import (
    Ask,
    BudgetReached,
    Cancel,
    Close,
    Contribution,
    Deliver,
    Delivery,
    Gone,
    Merge,
    ProvideInitial,
    Refused,
    RequestInitial,
    RunOver,
    SyncerEvent,
    Tick,
    ToLearner,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.world.links import Link, Pipe
from skerry.world.queue import Queue

Body = Any
"""A fragment's values on their way, whatever the Model and the Trainer make of them; None where there are no tensors."""


class Model(Protocol):
    """The global model's tensors. Bodies are as the policy's codecs write them; a seed's is in fp32."""

    def seed(self, fragment: int, body: Body) -> str:
        """Take a first value; gives what is wrong with it, or ""."""

    def screen(self, fragment: int, body: Body) -> str:
        """What is wrong with a contribution, or "". It is the one that `add` may follow on."""

    def add(self, merge: Merge, body: Body) -> None:
        """Accumulate the contribution that was just screened."""

    def close(self, close: Close) -> None:
        """Make the new version."""

    def cancel(self, cancel: Cancel) -> None:
        """Forget a round."""

    def body(self, fragment: int) -> Body:
        """The present version; it must not change later."""


class Agent(Protocol):
    """The other end of a line."""

    learner: int

    def hear(self, line: Line, message: ToLearner, body: Body = None) -> None:
        """A message has arrived."""


class Line:
    """One connection of one agent."""

    __slots__ = ("_hub", "_sending", "_waiting", "agent", "down", "generation", "learner", "link", "lost", "said_at",
                 "up")  # fmt: skip

    def __init__(self, hub: Hub, agent: Agent, link: Link) -> None:
        self.agent = agent
        self.link = link
        self.up, self.down = hub.pipes.setdefault(agent.learner, (Pipe(link), Pipe(link)))
        self.learner = -1  # these two from the Welcome on
        self.generation = 0
        self.lost = False
        self.said_at = hub.queue.now
        self._hub = hub
        self._sending = False
        self._waiting: dict[int, None] = {}  # fragments to be delivered, in order

    def say(self, message: SyncerEvent) -> None:
        """Up, a control message."""
        queue = self._hub.queue
        self.said_at = queue.now
        queue.after(self.link.latency, self._hub.hear, self, message)

    def send(self, message: Contribution | ProvideInitial, body: Body, nbytes: int) -> None:
        """Up, with a body: after those that are still being sent."""
        queue = self._hub.queue
        queue.at(self.up.send(queue.now, nbytes) + self.link.latency, self._hub.hear, self, message, body)

    def close(self) -> None:
        """The agent has gone; the syncer sees it one latency later."""
        self.up.cut(self._hub.queue.now)
        self._hub.queue.after(self.link.latency, self._hub.lose, self)

    def tell(self, message: ToLearner) -> None:
        """Down, a control message."""
        self._hub.queue.after(self.link.latency, self.agent.hear, self, message)

    def deliver(self, fragment: int) -> None:
        """Down, a fragment's present version at the time when its turn comes."""
        self._waiting[fragment] = None
        if not self._sending:
            self._send_next()

    def _send_next(self) -> None:
        self._sending = False
        queue = self._hub.queue
        while self._waiting and not self._sending and not self.lost:
            fragment = next(iter(self._waiting))
            del self._waiting[fragment]
            message, body, nbytes = self._hub.delivery(self, fragment)
            seconds = self.link.seconds(nbytes)
            self.down.send(queue.now, nbytes)
            queue.after(seconds + self.link.latency, self.agent.hear, self, message, body)
            if seconds:
                self._sending = True
                queue.after(seconds, self._send_next)


class Hub:
    """`watch` is called after every Close (a new version). `lines`: by learner; `pipes`: each one's link, up and down, over all
    its lines."""

    def __init__(self, queue: Queue, policy: Policy, layout: Layout, model: Model, watch: Callable[[], None]) -> None:
        self.queue = queue
        self.core = SyncerCore(policy, layout)
        self.lines: dict[int, Line] = {}
        self.pipes: dict[int, tuple[Pipe, Pipe]] = {}
        self.ended = False
        self.moved_at = 0.0  # when the run last came nearer to its end
        self._model = model
        self._watch = watch
        self._by_tokens = policy.tokens > 0  # learners without a quorum come nearer to such a budget, too
        self._tokens = 0
        self._steps = [0] * policy.fragments  # of each fragment, the step of the round that made its version
        self._down = [get_codec(policy.codec_down).nbytes(size) for size in layout.sizes]
        self._due: float | None = None
        self._do: dict[type, Callable[[Any, Line | None, Body], None]] = {
            Welcome: self._welcome, Refused: self._refuse, RequestInitial: self._tell, Verdict: self._tell,
            Deliver: self._deliver,
            Ask: self._tell_all, Cancel: self._cancel, BudgetReached: self._tell_all, RunOver: self._end, Merge: self._merge,
            Close: self._close,
        }  # fmt: skip

    @property
    def bytes_up(self) -> Counter[int]:
        """Of bodies, by learner: what has left by now."""
        return Counter({learner: up.sent(self.queue.now) for learner, (up, _) in self.pipes.items()})

    @property
    def bytes_down(self) -> Counter[int]:
        """The same, to the learners."""
        return Counter({learner: down.sent(self.queue.now) for learner, (_, down) in self.pipes.items()})

    def hear(self, line: Line, message: SyncerEvent, body: Body = None) -> None:
        """A message has come over a line."""
        if line.lost:
            return
        if type(message) is Contribution:
            if flaw := self._model.screen(message.fragment, body):
                message = replace(message, flaw=flaw)
        elif type(message) is ProvideInitial and (flaw := self._model.seed(message.fragment, body)):
            message = replace(message, flaw=flaw)
        self._feed(message, line, body)

    def lose(self, line: Line) -> None:
        """A line has ended."""
        line.lost = True
        line.down.cut(self.queue.now)
        if self.lines.get(line.learner) is line:
            del self.lines[line.learner]
            self._feed(Gone(learner=line.learner, generation=line.generation))

    def delivery(self, line: Line, fragment: int) -> tuple[Delivery, Body, int]:
        """What is sent to that line now for that fragment, and how many bytes that are."""
        core, version, nbytes = self.core, self.core.versions[fragment], self._down[fragment]
        message = Delivery(fragment=fragment, version=version, step=self._steps[fragment], progress=core.progress,
                           merged=core.merged(line.learner, fragment, version))  # fmt: skip
        return message, self._model.body(fragment), nbytes

    # ------------------------------------------------------------------ the core

    def _feed(self, event: SyncerEvent, line: Line | None = None, body: Body = None) -> None:
        core, now = self.core, self.queue.now
        step = core.step
        for action in core.handle(now, event):
            self._do[type(action)](action, line, body)
        if core.step > step:
            self.moved_at = now
        elif self._by_tokens and core.ledger.tokens > self._tokens:
            self.moved_at, self._tokens = now, core.ledger.tokens
        due = core.deadline()
        if due != self._due:
            self._due = due
            if due is not None:
                self.queue.at(max(due, now), self._tick, due)

    def _tick(self, due: float) -> None:
        if due == self._due:
            self._due = None
            self._feed(Tick())

    def _welcome(self, action: Welcome, line: Line | None, _: Body) -> None:
        assert line is not None
        line.learner, line.generation = action.learner, action.generation
        self.lines[action.learner] = line
        line.tell(action)

    def _refuse(self, action: Refused, line: Line | None, _: Body) -> None:
        assert line is not None
        line.tell(action)

    def _tell(self, action: RequestInitial | Verdict, *_: Any) -> None:
        if action.learner in self.lines:
            self.lines[action.learner].tell(action)

    def _tell_all(self, action: Ask | Cancel | BudgetReached | RunOver, *_: Any) -> None:
        for line in self.lines.values():
            line.tell(action)

    def _end(self, action: RunOver, *_: Any) -> None:
        self.ended = True

    def _deliver(self, action: Deliver, *_: Any) -> None:
        if action.learner in self.lines:
            for fragment in action.fragments:
                self.lines[action.learner].deliver(fragment)

    def _merge(self, action: Merge, _: Line | None, body: Body) -> None:
        self._model.add(action, body)

    def _close(self, action: Close, *_: Any) -> None:
        self._model.close(action)
        self._steps[action.fragment] = action.step
        for line in self.lines.values():
            line.deliver(action.fragment)
        self._watch()

    def _cancel(self, action: Cancel, *_: Any) -> None:
        self._model.cancel(action)
        self._tell_all(action)
