"""SyncerDriver: the one driver of SyncerCore, for the real syncer, for virtual time and for the tests' storms.

    lines --messages--> hear -> SyncerCore -> carry out --> lines: messages, values
                                                      '---> the plane: what is done to bodies

Rules:
- One event after the other; what follows while one is carried out waits its turn.
- Output commit: what leaves (messages, values, versions) waits in the outbox, in order, until the log has committed the event
  that it follows from. Bodies are added, and versions computed, ahead of that.
- Of a fragment at most one delivery waits for a line, a line is sent one value after the other, and what is sent is the newest
  version at that time. What a Delivery says of its receiver's work is a fold of the Distribute actions, kept here and nowhere
  else.
- A message under another name than its line's is from a past that is closed, and dropped.
- While the log cannot be written the core stands still (`pause`): what happens waits, and of a learner's reports the last.

Outside stay: sockets, processes, threads, faults, and the time, which is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from skerry.core.messages import (
    Ask,
    BudgetReached,
    Cancel,
    Close,
    Contribution,
    Contributor,
    Deliver,
    Delivery,
    Distribute,
    Failed,
    Farewell,
    Gone,
    Join,
    Merge,
    ProvideInitial,
    Published,
    Quarantined,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    SyncerEvent,
    Tick,
    ToLearner,
    Verdict,
    Welcome,
)
from skerry.core.syncer import SyncerCore
from skerry.drive.around import Line, Log, Plane
from skerry.drive.outbox import Outbox


class Newest:
    """The version of a fragment that exists: the step of its round, and up to which tokens of whom it holds the work."""

    __slots__ = ("included", "step", "version")

    def __init__(self, version: int, step: int) -> None:
        self.version = version
        self.step = step
        self.included: dict[int, Contributor] = {}  # by learner

    def of(self, learner: int, generation: int) -> int:
        """Up to which of its tokens that generation's work is in there; 0 = none of it."""
        included = self.included.get(learner)
        return included.tokens if included is not None and included.generation == generation else 0


class SyncerDriver:
    """Owner of its core. `clock`: seconds; `timer(due)`: call `tick(due)` then (None: not at all); `settled`: called when
    everything that was to be heard is carried out; `failed`: hears of a fault of ours instead of the caller."""

    def __init__(self, core: SyncerCore, plane: Plane, *, clock: Callable[[], float], timer: Callable[[float | None], None],
                 log: Log | None, settled: Callable[[], None] | None = None,
                 failed: Callable[[Exception], None] | None = None) -> None:  # fmt: skip
        self.core = core
        self.lines: dict[int, Line] = {}
        self._plane = plane
        self._clock, self._timer, self._log, self._settled, self._failed = clock, timer, log, settled, failed
        self._inbox: deque[tuple[SyncerEvent, Line | None]] = deque()
        self._outbox = Outbox(log)
        self._position = 0  # of the event in hand
        self._working = self._stopped = self._paused = False
        self._due: float | None = None
        self._joined: dict[int, Line] = {}  # by learner: the line whose Join the core heard last
        versions = core.versions or [0] * core.policy.fragments
        self._newest = [Newest(version, step) for version, step in zip(versions, core.rounds.steps, strict=True)]
        for fragment, contributor in core.contributors():
            self._newest[fragment].included[contributor.learner] = contributor
        self._inward: dict[type, Callable[[Any], None]] = {Merge: self._merge, Close: self._close}
        self._outward: dict[type, Callable[[Any, Line | None], None]] = {
            Welcome: self._welcome, Refused: self._refuse, RequestInitial: self._tell, Verdict: self._tell,
            Ask: self._tell, BudgetReached: self._tell, Farewell: self._tell, Quarantined: self._tell, Cancel: self._cancel,
            RunOver: self._tell_all, Distribute: self._distribute, Deliver: self._deliver,
        }  # fmt: skip

    # ------------------------------------------------------------------ what happens

    def feed(self, event: SyncerEvent, line: Line | None = None) -> None:
        """Tell the core, and carry out what it decides. `line`: who asks to join, or is gone."""
        if self._stopped:
            return
        if self._working or self._paused:
            if self._paused and type(event) is Report:  # its counters are cumulative
                self._forget_report(event)
            self._inbox.append((event, line))
            return
        self._guarded(partial(self._work, event, line))

    def _guarded(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(error)

    def _work(self, event: SyncerEvent, line: Line | None) -> None:
        self._working = True
        try:
            self._handle(event, line)
            while self._inbox:
                self._handle(*self._inbox.popleft())
        finally:
            self._working = False
        if self.core.timers.unsure and (due := self.core.deadline()) != self._due:
            self._due = due
            self._timer(due)
        if self._settled is not None:
            self._settled()

    def _forget_report(self, newer: Report) -> None:
        for at, (event, _) in enumerate(self._inbox):
            if type(event) is Report and event.learner == newer.learner:
                del self._inbox[at]
                return

    def committed(self) -> None:
        """The log has committed more: what waited for that leaves."""
        self._guarded(self._outbox.release)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for the log."""
        return not self._outbox and not self._paused

    def pause(self) -> None:
        """Let the core stand still: nothing more can be taken down. Its time must stand still with it."""
        self._paused = True

    def resume(self) -> None:
        """Go on, with what happened meanwhile. A tick that fell into the pause comes now."""
        self._paused = False
        self.feed(Tick())

    def stop(self) -> None:
        """Hear nothing more, and let nothing more leave."""
        self._stopped = True
        self._outbox.close()

    def join(self, line: Line, message: Join) -> None:
        """A peer wants a place in the run."""
        self.feed(message, line)

    def hear(self, line: Line, message: Any) -> None:
        """A message without a body has come."""
        learner = line.learner  # as `is_own`, without the call: most of what a run says passes through here
        if self.lines.get(learner) is line and message.learner == learner and message.generation == line.generation:
            self.feed(message)

    def contributed(self, line: Line, message: Contribution) -> None:
        """A contribution has come, and its body lies with the plane: it is screened before the core hears of it."""

        name = message.name

        def screened(flaw: str, norms: tuple[float, ...]) -> None:
            if self.is_own(line, message):
                as_sent = (flaw, norms) == (message.flaw, message.norms)
                self.feed(message if as_sent else replace(message, flaw=flaw, norms=norms))
            else:  # its link broke meanwhile: it will be sent again over the next one
                self._plane.drop(name)

        self._plane.screen(name, screened)

    def provided(self, line: Line, message: ProvideInitial) -> None:
        """A first value has come, and lies with the plane."""

        def told(flaw: str = "") -> None:
            if self.is_own(line, message):
                self.feed(replace(message, flaw=flaw) if flaw else message)

        def looked_at(flaw: str) -> None:
            if not flaw and self.awaits_initial(line):
                self._plane.adopt(message.name, told)
            else:
                self._plane.drop(message.name)
                told(flaw)

        self._plane.provide(message.name, looked_at)

    def awaits_initial(self, line: Line) -> bool:
        """Whether the run's first values are this line's learner's to provide."""
        return self.speaks(line) and self.core.provider == line.learner

    def sent(self, line: Line) -> None:
        """A value has left on the line."""
        line.sending = False
        self._send_next(line)

    def lost(self, line: Line) -> None:
        """The line has ended."""
        line.waiting.clear()
        if self.speaks(line):
            del self.lines[line.learner]
            self.feed(Gone(learner=line.learner, generation=line.generation), line)

    def tick(self, due: float) -> None:
        """The time that the timer was set to has come, unless it was set anew since."""
        if due == self._due:
            self._due = None
            self.feed(Tick())

    def speaks(self, line: Line) -> bool:
        """Whether it is its learner's present line."""
        return self.lines.get(line.learner) is line

    def is_own(self, line: Line, message: Any) -> bool:
        """Whether the line's learner says this of itself, over its present line."""
        return self.speaks(line) and message.learner == line.learner and message.generation == line.generation

    # ------------------------------------------------------------------ the core

    def _handle(self, event: SyncerEvent, line: Line | None) -> None:
        if type(event) is Join and (line is None or line.closed):
            return  # it is gone already, and its end would never be told
        if isinstance(event, Gone) and self._joined.get(event.learner) is not line:
            return  # its learner is back, over a line on which its Welcome is yet to be told
        now, log = self._clock(), self._log
        if log is not None:
            self._position = log.heard(now, event)
        actions = self.core.handle(now, event)
        inward, outward = self._inward, self._outward
        for action in actions:
            kind = type(action)
            if log is not None:
                log.decided(now, action)
            if kind in inward:
                inward[kind](action)
                continue
            if isinstance(action, Welcome) and line is not None:
                self._joined[action.learner] = line
            if log is None:
                outward[kind](action, line)
            else:
                self._outbox.put(self._position, partial(outward[kind], action, line))
        if type(event) is Contribution and Merge not in map(type, actions):
            self._plane.drop(event.name)

    # ------------------------------------------------------------------ what is told

    def _welcome(self, action: Welcome, line: Line | None) -> None:
        """The line is that learner's from now on; an older one of it is of no use any more."""
        assert line is not None
        before = self.lines.pop(action.learner, None)
        if line.closed:  # while the log was written; nobody would ever tell
            self.feed(Gone(learner=action.learner, generation=action.generation), line)
        else:
            self.lines[action.learner] = line
            line.learner, line.generation = action.learner, action.generation
            line.tell(action)
        if before is not None:
            before.waiting.clear()
            before.close("a newer link of this learner took its place")

    def _refuse(self, action: Refused, line: Line | None) -> None:
        assert line is not None
        line.tell(action)

    def _tell(self, action: RequestInitial | Verdict | Ask | BudgetReached | Farewell | Quarantined | Cancel,
              _: Line | None) -> None:  # fmt: skip
        if action.learner < 0:
            self._tell_all(action)
        elif (line := self.lines.get(action.learner)) is not None:
            line.tell(action)

    def _tell_all(self, action: ToLearner, _: Line | None = None) -> None:
        for line in list(self.lines.values()):
            line.tell(action)

    # ------------------------------------------------------------------ bodies and values

    def _merge(self, action: Merge) -> None:
        self._plane.add(action)

    def _close(self, action: Close) -> None:
        position = self._position

        def made(failure: str) -> None:
            if failure:
                self.feed(Failed(fragment=action.fragment, step=action.step, why=failure))
            else:
                self._outbox.put(position, partial(self._plane.keep, action, position, kept))

        def kept() -> None:
            self.feed(Published(fragment=action.fragment, version=action.version))

        self._plane.close(action, made)

    def _cancel(self, action: Cancel, _: Line | None) -> None:
        if action.learner < 0:
            self._plane.cancel(action.fragment, action.step)
        self._tell(action, None)

    def _distribute(self, action: Distribute, _: Line | None) -> None:
        fragment, newest = action.fragment, self._newest[action.fragment]
        newest.version, newest.step = action.version, action.step
        for contributor in action.included:
            newest.included[contributor.learner] = contributor
        self._plane.publish(fragment, action.version, action.step)
        progress, merged_of = self.core.progress, newest.of
        said: dict[int, Delivery] = {}  # those of whom as much is merged hear the same
        for line in list(self.lines.values()):
            if line.sending or line.waiting or line.closed:
                line.waiting[fragment] = None
                continue
            merged = merged_of(line.learner, line.generation)
            delivery = said.get(merged)
            if delivery is None:
                delivery = said[merged] = self._delivery(fragment, merged, progress)
            line.sending = not line.send_value(delivery)

    def _deliver(self, action: Deliver, _: Line | None) -> None:
        line = self.lines.get(action.learner)
        if line is not None:
            for fragment in action.fragments:
                line.waiting[fragment] = None
            self._send_next(line)

    def _send_next(self, line: Line) -> None:
        while line.waiting and not line.sending and not line.closed:
            fragment = next(iter(line.waiting))
            del line.waiting[fragment]
            merged = self._newest[fragment].of(line.learner, line.generation)
            line.sending = not line.send_value(self._delivery(fragment, merged, self.core.progress))

    def _delivery(self, fragment: int, merged: int, progress: float) -> Delivery:
        """What says to a learner what the newest version is to it."""
        newest = self._newest[fragment]
        return Delivery(fragment=fragment, version=newest.version, step=newest.step, merged=merged, progress=progress)
