"""LearnerDriver: whoever has a LearnerCore drives it through this: the agent's process, virtual islands, tests.

    events, each with what came with it --> LearnerDriver --> Trainer: orders, and what its user is told
                                             |     |    '---> Uplink: messages and bodies for the syncer
                                        LearnerCore '-------> Holdings: values, copies, bodies; what outlives the agent

Rules:
- Nothing is decided here, and nowhere else are the core's actions told apart.
- One event after the other: what is fed from within an action is heard when the event in hand is done with.
- What must outlive the agent is committed before anything that follows from it leaves: the core's memory after every event
  that can change it, and an order to take over, as a Redo, before the trainer hears of it.
- Of a fragment at most one order to take over is under way. Its Redo stands until the trainer's Applied has been heard; then
  the base follows first, and one commit makes it true.
- A new agent's driver completes the orders that the trainer carried out while nobody heard of it (`begin`); the others were
  never begun and never will be.

Time is an argument. What is under way between processes, over links and under faults is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Abstain,
    Contribution,
    Count,
    Delivery,
    FromLearner,
    Join,
    Leave,
    ProvideInitial,
    Received,
    Report,
    TakenOver,
    Welcome,
)
from skerry.core.orders import (
    Applied,
    CopiedOut,
    CopyOut,
    Detach,
    Drop,
    Encode,
    Forget,
    Go,
    LearnerAction,
    LearnerEvent,
    Recovered,
    Reject,
    Stepped,
    StopLoop,
    TakeOver,
    Warn,
)

Value: TypeAlias = Any
"""A delivered version of a fragment, as the Holdings keep it: a slot's number, an array, a dict."""
Copy: TypeAlias = Any
"""A fragment's parameters as the trainer copied them out: likewise."""
Body: TypeAlias = Any
"""What goes up with a Contribution or a ProvideInitial."""
Ready: TypeAlias = Any
"""What the trainer needs beside an order to take over."""


class Redo(NamedTuple):
    """An order to take over that the trainer may have carried out, and nobody has heard of it yet."""

    order: TakeOver
    value: Value
    generation: int


class Holdings(Protocol):
    """What is done to values, copies and bodies on the learner's side, and what outlives an agent."""

    def encode(self, fragment: int, copy: Copy, /) -> tuple[Body, Copy]:
        """The body of a contribution: base - copy, in the upward codec; and what rebase will need of the copy."""

    def initial(self, fragment: int, copy: Copy, /) -> Body:
        """The body of the run's first value: the copy in fp32."""

    def free_copy(self, copy: Copy, /) -> None:
        """What came with a CopiedOut is needed no more."""

    def prepare(self, order: TakeOver, value: Value, kept: Copy, /) -> Ready:
        """Make ready what the order needs; nothing of this order is marked as applied. `kept`: from `encode`, for rebase."""

    def follow(self, fragment: int, value: Value, /) -> None:
        """The trainer took the value over: it becomes the base."""

    def free(self, value: Value, /) -> None:
        """A value is needed no more."""

    def commit(self, memory: LearnerMemory, redos: Mapping[int, Redo], /) -> None:
        """Make these outlive the agent, all or nothing."""

    def show(self, progress: float, falls: bool, /) -> None:
        """Let the trainer see how far the run is. Unless it `falls`, as it may at a Welcome: never less than before, whatever a
        new agent knows of it."""

    def redos(self) -> Iterable[Redo]:
        """As an earlier agent committed them."""

    def applied(self, redo: Redo, /) -> Count | None:
        """At which counters the trainer carried that order out; None if it never did."""

    def introduce(self, learner: int, generation: int, first_step: int, /) -> None:
        """Tell the trainer who it is, and how many steps the learner made before this trainer's first."""


class Trainer(Protocol):
    """Who is given orders. It carries them out later, and never within these calls."""

    def copy_out(self, order: CopyOut, /) -> None:
        """Its answer is CopiedOut, and the copy with it."""

    def take_over(self, order: TakeOver, ready: Ready, /) -> None:
        """It marks the order as applied when it has carried it out; its answer is Applied."""

    def go(self, order: Go, /) -> None: ...

    def stop_loop(self, order: StopLoop, /) -> None: ...

    def detach(self, order: Detach, /) -> None: ...

    def reject(self, action: Reject, /) -> None:
        """It raises this as an error."""

    def warn(self, action: Warn, /) -> None:
        """For its user."""


class Uplink(Protocol):
    """Who carries to the syncer. What finds no link is dropped."""

    def send(self, message: FromLearner, /) -> None:
        """A control message."""

    def send_body(self, message: Contribution | ProvideInitial, body: Body, /) -> None:
        """A message with its body. Where it has to wait for its turn, `LearnerDriver.wants` says whether it still goes then."""


class LearnerDriver:
    """One agent's. `over`: the trainer is detached or rejected, so no link is needed any more."""

    __slots__ = ("_busy", "_copy", "_hands", "_holdings", "_redos", "_shown", "_trainer", "_uplink", "_values", "_waiting",
                 "core", "over")  # fmt: skip

    def __init__(self, core: LearnerCore, holdings: Holdings, trainer: Trainer, uplink: Uplink) -> None:
        self.core = core
        self.over = False
        self._holdings, self._trainer, self._uplink = holdings, trainer, uplink
        self._values: list[tuple[int, int, Value]] = []  # (fragment, version, value), in order of arrival
        # By fragment: until when, and what `encode` gave
        self._hands: list[tuple[Count, tuple[Body, Copy]] | None] = [None] * core.policy.fragments
        self._redos: dict[int, Redo] = {}  # by fragment
        self._copy: Copy = None  # of the CopiedOut in hand
        self._shown = 0.0  # the progress that the trainer sees
        self._busy = False
        self._waiting: list[tuple[float, LearnerEvent, Any]] = []

    # ------------------------------------------------------------------ events

    def begin(self, now: float, stands: Stepped) -> None:
        """First of all, when the trainer heeds no earlier agent's orders any more: make good what was under way then. `stands`:
        the boundary that the trainer crossed last; its progress may be 0 before the first step."""
        core, holdings = self.core, self._holdings
        actions: list[LearnerAction] = []
        for redo in list(holdings.redos()):
            order, count = redo.order, holdings.applied(redo)
            if count is not None and redo.generation == core.memory.generation:
                holdings.follow(order.fragment, redo.value)
                actions += core.handle(now, Recovered(fragment=order.fragment, version=order.version, rule=order.rule,
                                                      step=order.step, until=order.until, count=count))  # fmt: skip
        holdings.commit(core.memory, self._redos)
        for action in actions:  # none is a message: there is no link yet
            do = _DO[type(action)]
            assert do is not None
            do(self, action)
        self.feed(now, stands)

    def feed(self, now: float, event: LearnerEvent, came: Value | Copy = None) -> None:
        """Something has happened. `came`: the value of a Delivery, the copy of a CopiedOut."""
        if self._busy:
            self._waiting.append((now, event, came))
            return
        self._busy = True
        core, holdings = self.core, self._holdings
        send: Callable[[Any], None] = self._uplink.send
        while True:  # in one piece, as all that a learner does passes through here
            kind, redo = type(event), None
            said: Any = event  # with the fields of its kind
            if kind is Delivery:
                self._values.append((said.fragment, said.version, came))
            elif kind is CopiedOut:
                self._copy = came
            elif kind is Applied:
                redo = self._redos.pop(said.fragment)
                holdings.follow(said.fragment, redo.value)
            actions = core.handle(now, event)
            if redo is not None or kind is Welcome:  # nothing else changes the core's memory
                holdings.commit(core.memory, self._redos)
            if core.progress > self._shown or kind is Welcome:
                self._shown = core.progress
                holdings.show(core.progress, kind is Welcome)
            for action in actions:
                do = _DO[type(action)]
                if do is None:
                    send(action)
                else:
                    do(self, action)
            if redo is not None:
                holdings.free(redo.value)
            elif kind is CopiedOut:
                self._copy = None
                holdings.free_copy(came)
            elif kind is Welcome:  # a trainer may live through several generations: its own count goes on
                holdings.introduce(said.learner, said.generation, said.first_step - core.memory.origin.steps)
            if not self._waiting:
                break
            now, event, came = self._waiting.pop(0)
        self._busy = False

    def wants(self, message: Contribution | ProvideInitial) -> bool:
        """Whether a body that waits for its turn is to be sent still."""
        if type(message) is not Contribution:
            return True
        hand = self._hands[message.fragment]
        return hand is not None and hand[0] == message.until

    # ------------------------------------------------------------------ actions

    def _encode(self, action: Encode) -> None:
        self._hands[action.fragment] = action.until, self._holdings.encode(action.fragment, self._copy)

    def _contribute(self, message: Contribution) -> None:
        """New, or open still when a link came back."""
        hand = self._hands[message.fragment]
        assert hand is not None and hand[0] == message.until, "a contribution of which there is no body"
        self._uplink.send_body(message, hand[1][0])

    def _provide(self, message: ProvideInitial) -> None:
        self._uplink.send_body(message, self._holdings.initial(message.fragment, self._copy))

    def _forget(self, action: Forget) -> None:
        self._hands[action.fragment] = None

    def _take_over(self, order: TakeOver) -> None:
        p, holdings = order.fragment, self._holdings
        assert p not in self._redos, "two orders to take a fragment over"
        value = self._take(p, order.version)
        hand, self._hands[p] = self._hands[p], None
        assert order.rule != "rebase" or (hand is not None and hand[0] == order.until), "rebase without its copy"
        ready = holdings.prepare(order, value, None if hand is None else hand[1][1])
        self._redos[p] = Redo(order, value, self.core.memory.generation)
        holdings.commit(self.core.memory, self._redos)
        self._trainer.take_over(order, ready)

    def _drop(self, action: Drop) -> None:
        self._holdings.free(self._take(action.fragment, action.version))

    def _take(self, fragment: int, version: int) -> Value:
        """Of two that came over different links the first: if they differ at all, it is of a generation that is closed, and
        whoever speaks of it speaks of it first."""
        values = self._values
        for at, (of, number, value) in enumerate(values):
            if of == fragment and number == version:
                del values[at]
                return value
        raise AssertionError(f"version {version} of fragment {fragment} was not delivered")

    def _copy_out(self, order: CopyOut) -> None:
        self._trainer.copy_out(order)

    def _go(self, order: Go) -> None:
        self._trainer.go(order)

    def _stop_loop(self, order: StopLoop) -> None:
        self._trainer.stop_loop(order)

    def _warn(self, action: Warn) -> None:
        self._trainer.warn(action)

    def _detach(self, order: Detach) -> None:
        self.over = True
        self._trainer.detach(order)

    def _reject(self, action: Reject) -> None:
        self.over = True
        self._trainer.reject(action)


_DO: dict[type[LearnerAction], Callable[[LearnerDriver, Any], None] | None] = {
    Contribution: LearnerDriver._contribute, ProvideInitial: LearnerDriver._provide, Encode: LearnerDriver._encode,
    Forget: LearnerDriver._forget, Drop: LearnerDriver._drop, CopyOut: LearnerDriver._copy_out, Go: LearnerDriver._go,
    TakeOver: LearnerDriver._take_over, StopLoop: LearnerDriver._stop_loop, Detach: LearnerDriver._detach,
    Reject: LearnerDriver._reject, Warn: LearnerDriver._warn,
    Report: None, Abstain: None, Received: None, TakenOver: None, Join: None, Leave: None,
}  # fmt: skip
"""One table for all, as in the core. None: a message without a body, that is sent as it is."""
