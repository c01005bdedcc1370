"""A run, once its layout is known: the core is told what happens, and what it decides is carried out.

    sessions --events--> feed -> SyncerCore -> carry_out --> sessions: messages, deliveries (shelf.py)
                                                        '--> the merger's thread (worker.py), snapshots (keeper.py)

Rules: everything the core hears goes through `feed`, which stamps the time, writes the tape, carries out what the core
decides and sets the timer; nothing else decides. All of this happens on the event loop's thread, which never waits:
tensors are the merger's business. The core's version of a fragment runs ahead of the one on the shelf while the merger
works on it; a delivery bears the version that is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

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
    Join,
    Merge,
    ProvideInitial,
    Refused,
    RequestInitial,
    RunOver,
    SyncerAction,
    SyncerEvent,
    Tick,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.fabric.messages import Vitals
from skerry.numerics.accumulate import Screened, weight_of
from skerry.numerics.merger import Body, Merger
from skerry.store.records import EventName, Sample
from skerry.store.snapshot import Origin, Snapshot
from skerry.store.tape import Head, Tape
from skerry.syncer.journal import Journal, RoundLog, Samples
from skerry.syncer.keeper import Keeper
from skerry.syncer.pool import Pool
from skerry.syncer.session import Session
from skerry.syncer.shelf import Edition, Shelf
from skerry.syncer.worker import Worker


@dataclass
class HandIn:
    """A contribution's body, from its arrival until it is accumulated or found useless. `buffer`: the pool's."""

    buffer: Body
    nbytes: int
    screened: Screened
    merged: bool = False


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a run is given by its process. `name`: the run's id; `clock`: seconds since the run began; `traffic`: bytes in and
    out; `ended`: called once at its end; `failed`: called for a fault of ours."""

    name: str
    policy: Policy
    buffers: int
    keeper: Keeper
    journal: Journal
    worker: Worker
    clock: Callable[[], float]
    traffic: Callable[[], tuple[int, int]]
    ended: Callable[[], None]
    failed: Callable[[BaseException], None]


class Run:
    """Made when the first learner brings the layout, or of a snapshot. Then `publish` the values there are, if any."""

    def __init__(self, around: Surroundings, layout: Layout, origin: Origin, snapshot: Snapshot | None = None) -> None:
        """Raises OSError if the tape cannot be begun."""
        state = dict(snapshot.state) if snapshot else None
        policy = around.policy
        self.layout = layout
        self.core = SyncerCore(policy, layout, state)
        values = (snapshot.theta, snapshot.momentum) if snapshot else ()
        self.merger = Merger(policy, layout, *values)
        self.pool = Pool(around.buffers, self.merger.up.nbytes(max(layout.sizes)))
        self.shelf = Shelf(policy.fragments, self.merger.reuse, _cut_off)
        self.sessions: dict[int, Session] = {}
        self.seeder: Session | None = None  # who was asked for the first model
        self.samples = Samples(around.journal)
        self.refused = 0  # contributions, for their values
        self.ended_at: float | None = None
        self._around = around
        self._origin = origin
        head = Head(run=around.name, began=around.clock(), policy=policy, layout=layout, state=state)
        self.tape = Tape(around.keeper.path / "tape", head, around.journal.trouble)
        self._rounds = RoundLog(around.journal)
        self._inbox: deque[tuple[SyncerEvent, Session | None, HandIn | None]] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        # of each fragment, the step of the round that made its version
        self._steps = [step for _, step in snapshot.published] if snapshot else [0] * policy.fragments

    # ------------------------------------------------------------------ events

    def feed(self, event: SyncerEvent, sender: Session | None = None, hand_in: HandIn | None = None) -> None:
        """Tell the core, and carry out what it decides; one event after the other."""
        self._inbox.append((event, sender, hand_in))
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox:
                self._handle(*self._inbox.popleft())
            self._save_if_due()
            self._set_timer()
        except Exception as error:
            self._around.failed(error)
        finally:
            self._handling = False

    def _handle(self, event: SyncerEvent, sender: Session | None, hand_in: HandIn | None) -> None:
        if isinstance(event, Join) and (sender is None or sender.link.closed):
            return  # it is gone already, and its end would never be told
        now = self._around.clock()
        self.tape.event(now, event)
        for action in self.core.handle(now, event):
            self.tape.action(action)
            self._rounds.saw(now, action, self.core)
            self._carry_out(action, sender, hand_in)
        if hand_in is not None and not hand_in.merged:
            self.pool.give(hand_in.buffer)

    def _set_timer(self) -> None:
        due = self.core.deadline()
        if due == self._due and self._timer is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due, self._timer = due, None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._around.clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick())

    # ------------------------------------------------------------------ actions

    def _carry_out(self, action: SyncerAction, sender: Session | None, hand_in: HandIn | None) -> None:
        match action:
            case Welcome():
                assert sender is not None
                self._welcome(sender, action)
            case Refused():
                assert sender is not None
                self._around.journal.event("refused", f"{sender}: {action.reason}")
                sender.refuse(action)
            case RequestInitial():
                self.seeder = self.sessions[action.learner]
                self.seeder.link.send(action)
            case Verdict():
                self._answer(action)
            case Ask() | BudgetReached() | RunOver():
                self._tell_all(action)
            case Merge():
                assert hand_in is not None
                self._merge(action, hand_in)
            case Close():
                self._close(action)
            case Cancel():
                self._around.worker.submit(self.merger.cancel, action.fragment, action.step)
                self._tell_all(action)
            case Deliver():
                self._deliver(action)

    def _tell_all(self, message: Ask | Cancel | BudgetReached | RunOver) -> None:
        for session in self.sessions.values():
            session.link.send(message)
        if isinstance(message, BudgetReached | RunOver):
            name: EventName = "run_over" if isinstance(message, RunOver) else "budget_reached"
            self._around.journal.event(name, f"at step {self.core.step}")
        if isinstance(message, RunOver):
            self.ended_at = self._around.clock()
            self._around.ended()

    def _welcome(self, session: Session, welcome: Welcome) -> None:
        """The link is that learner's from now on; an older one of it is of no use any more."""
        before = self.sessions.get(welcome.learner)
        self.sessions[welcome.learner] = session
        self.samples.left.discard(welcome.learner)
        session.welcome(self, welcome)
        self._around.journal.event("join", f"{session.link.peer}, generation {welcome.generation}", learner=welcome.learner)
        if before is not None:
            before.link.close("a newer link of this learner took its place")

    def _answer(self, answer: Verdict) -> None:
        session = self.sessions.get(answer.learner)
        if answer.verdict == "refused":
            self.refused += 1
            what = f"fragment {answer.fragment} of generation {answer.generation}: {answer.reason}"
            self._around.journal.event("refused", what, learner=answer.learner)
        if session is not None:
            session.link.send(answer)
            if answer.step < 0:
                session.link.close(f"the run cannot begin with this model: {answer.reason}")

    def _merge(self, merge: Merge, hand_in: HandIn) -> None:
        hand_in.merged = True
        self._around.worker.submit(
            self.merger.add, merge.fragment, merge.step, hand_in.buffer[: hand_in.nbytes], hand_in.screened,
            weight_of(merge.tokens, merge.steps), then=lambda _: self.pool.give(hand_in.buffer),
        )  # fmt: skip

    def _close(self, close: Close) -> None:
        self._around.keeper.rounds += 1
        self._steps[close.fragment] = close.step
        self._around.worker.submit(
            self.merger.close, close.fragment, close.step,
            then=lambda body: self.publish(Edition(close.fragment, close.version, close.step, body)),
        )  # fmt: skip

    def _deliver(self, deliver: Deliver) -> None:
        """What the merger still works on is delivered to all when it is ready."""
        session = self.sessions.get(deliver.learner)
        if session is not None:
            session.deliver(p for p in deliver.fragments if self.shelf.version(p) == self.core.versions[p])

    # ------------------------------------------------------------------ values up and down

    def publish(self, edition: Edition) -> None:
        """A version is ready: every learner gets it, unless the run is yet to begin."""
        self.shelf.put(edition)
        if self.core.phase != "waiting":
            for session in self.sessions.values():
                session.deliver((edition.fragment,))

    def delivery(self, session: Session, edition: Edition) -> Delivery:
        """What says to that learner what the edition is to it."""
        return Delivery(fragment=edition.fragment, version=edition.version, step=edition.step, progress=self.core.progress,
                        merged=self.core.merged(session.learner, edition.fragment, edition.version))  # fmt: skip

    def contribution_came(self, session: Session, message: Contribution, buffer: Body, nbytes: int) -> None:
        """The body is complete: it is screened before the core hears of it."""

        def screened(found: Screened) -> None:
            if self.speaks(session):
                self.feed(replace(message, flaw=found.flaw), session, HandIn(buffer, nbytes, found))
            else:  # its link broke meanwhile: it will be sent again over the next one
                self.pool.give(buffer)

        self._around.worker.submit(self.merger.screen, message.fragment, buffer[:nbytes], then=screened)

    def vitals_came(self, session: Session, message: Vitals) -> None:
        """How a learner's processes fare, by their own account."""
        self.samples.vitals.setdefault(session.learner, {})[session.generation] = message

    def seed_came(self, session: Session, message: ProvideInitial) -> None:
        """A fragment of the first model lies in theta."""
        p = message.fragment

        def screened(found: tuple[str, Body]) -> None:
            if self.seeder is session:
                self.publish(Edition(p, 0, 0, found[1]))
                self.feed(replace(message, flaw=found[0]), session)

        self._around.worker.submit(self.merger.seed, p, then=screened)

    # ------------------------------------------------------------------ links and the end

    def speaks(self, session: Session) -> bool:
        """Whether it is its learner's present link."""
        return session.run is self and self.sessions.get(session.learner) is session

    def closed(self, session: Session, reason: str) -> None:
        """The session's link has ended."""
        if session is self.seeder:
            self.seeder = None
        if not self.speaks(session):
            return
        del self.sessions[session.learner]
        if self.core.phase == "ended":
            session.left = ""
        if session.left == "":  # a trainer that died is told of with a reason
            self.samples.left.add(session.learner)
            self._around.journal.event("leave", learner=session.learner)
        else:
            self._around.journal.event("dead", session.left or reason, learner=session.learner)
        self.feed(Gone(learner=session.learner, generation=session.generation))

    def look(self) -> list[Sample]:
        """How every learner fares; also what tries the disk again. Once a second."""
        self.tape.flush()
        return self.samples.take(self._around.clock(), self.core, self.sessions)

    def stop(self) -> None:
        """Hear nothing more: from now on nothing changes but what the merger still has to do."""
        if self._timer is not None:
            self._timer.cancel()
        self._handling = True

    def close(self) -> None:
        """Complete the tape."""
        self.stop()
        self.tape.close(self._around.clock())

    def snapshot(self) -> Snapshot:
        """The run after the events so far; its values are those that the merger will then have come to."""
        return Snapshot(
            run=self._around.name, t=self._around.clock(), layout=self.layout, origin=self._origin, state=self.core.state(),
            published=tuple(zip(self.core.versions, self._steps, strict=True)), traffic=self._around.traffic(),
            theta=self.merger.theta, momentum=self.merger.momentum,
        )  # fmt: skip

    def restore(self, bodies: list[Body]) -> None:
        """Lay out the values that there are before any learner comes."""
        versions = self.core.versions or [0] * len(bodies)
        for p, body in enumerate(bodies):
            self.publish(Edition(p, versions[p], self._steps[p], body))

    def _save_if_due(self) -> None:
        keeper, around = self._around.keeper, self._around
        if self.core.versions and keeper.wants(around.clock()):
            keeper.save(self.snapshot, around.worker, around.journal)


def _cut_off(reader: Any) -> None:
    reader.link.close("it reads too slowly: it was being sent a value much older than the present one")
