"""A run, once its layout is known: SyncerDriver with what a real syncer has: a plane, a tape, a clock, a journal.

    sessions --> SyncerDriver (drive/syncer.py) --> sessions, the plane (plane.py)
                      |--> tape, journal, snapshots (keeper.py)

Rules: nothing is decided here. All of it happens on the event loop's thread, which never waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from skerry.core.layout import Layout
from skerry.core.messages import (
    BudgetReached,
    Distribute,
    Failed,
    Refused,
    Restarted,
    RunOver,
    SyncerAction,
    SyncerEvent,
    Verdict,
    Welcome,
)
from skerry.core.phase import ENDED
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive.syncer import SyncerDriver
from skerry.store.log import Tape
from skerry.store.records import Sample
from skerry.store.snapshot import Origin, Snapshot
from skerry.store.tape import Head
from skerry.syncer.journal import Journal, RoundLog, Samples
from skerry.syncer.keeper import Keeper
from skerry.syncer.plane import ThreadPlane
from skerry.syncer.session import Session
from skerry.syncer.worker import Worker


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
    """Made when the first learner brings the layout, or of a snapshot. Then `plane.lay_out` the values there are, if any."""

    def __init__(self, around: Surroundings, layout: Layout, origin: Origin, snapshot: Snapshot | None = None) -> None:
        """Raises OSError if the tape cannot be begun."""
        state = dict(snapshot.state) if snapshot else None
        self.layout = layout
        self.core = SyncerCore(around.policy, layout, state)
        self.plane = ThreadPlane(around.policy, layout, around.worker, around.buffers)
        for fragment, (version, step) in enumerate(snapshot.published if snapshot else ()):
            assert snapshot is not None
            self.plane.merger.adopt(fragment, snapshot.theta[fragment], snapshot.momentum[fragment], version, step)
        self.samples = Samples(around.journal)
        self.refused = 0  # contributions, for their values
        self._events = 0
        self.ended_at: float | None = None
        self._around = around
        self._origin = origin
        head = Head(run=around.name, began=around.clock(), policy=around.policy, layout=layout, state=state)
        loop = asyncio.get_running_loop()
        self.tape = Tape(around.keeper.path / "tape", head, level="process", committed=lambda _: None, troubled=lambda _: None,
                         say=lambda line: (loop.call_soon_threadsafe(around.journal.trouble, line), None)[1],
                         vanished=lambda: None)  # fmt: skip
        self._rounds = RoundLog(around.journal)
        self._timer: asyncio.TimerHandle | None = None
        self.driver = SyncerDriver(self.core, self.plane, clock=around.clock, timer=self._set_timer, log=self,
                                   settled=self._save_if_due, failed=around.failed)  # fmt: skip
        if snapshot:
            self.driver.feed(Restarted())

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait = max(0.0, due - self._around.clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self.driver.tick, due)

    # ------------------------------------------------------------------ what the driver tells

    @property
    def committed(self) -> int:
        """See drive.syncer.Log."""
        return self._events

    def heard(self, now: float, event: SyncerEvent) -> int:
        """See drive.syncer.Log."""
        self.tape.event(now, event)
        if isinstance(event, Failed):
            self._around.journal.trouble(f"the round of fragment {event.fragment} at step {event.step} failed: {event.why}")
        self._events += 1
        return self._events

    def decided(self, now: float, action: SyncerAction) -> None:
        """See drive.syncer.Log."""
        self.tape.action(action)
        self._rounds.saw(now, action, self.core)
        match action:
            case Welcome():
                self.samples.left.discard(action.learner)
            case Distribute():
                self._around.keeper.rounds += 1
            case Verdict(verdict="refused"):
                self.refused += 1
                what = f"fragment {action.fragment} of generation {action.generation}: {action.reason}"
                self._around.journal.event("refused", what, learner=action.learner)
            case BudgetReached(learner=-1):
                self._around.journal.event("budget_reached", f"at step {self.core.step}")
            case RunOver():
                self._around.journal.event("run_over", f"at step {self.core.step}")
                self.ended_at = now
                self._around.ended()

    # ------------------------------------------------------------------ what sessions tell

    def told(self, session: Session, message: Welcome | Refused) -> None:
        """What became of a Join."""
        if isinstance(message, Refused):
            self._around.journal.event("refused", f"{session}: {message.reason}")
        else:
            what = f"{session.link.peer}, generation {message.generation}"
            self._around.journal.event("join", what, learner=message.learner)

    def closed(self, session: Session, reason: str) -> None:
        """The session's link has ended."""
        if self.driver.speaks(session):
            if self.core.phase is ENDED:
                session.left = ""
            if session.left == "":  # a trainer that died is told of with a reason
                self.samples.left.add(session.learner)
                self._around.journal.event("leave", learner=session.learner)
            else:
                self._around.journal.event("dead", session.left or reason, learner=session.learner)
        self.driver.lost(session)

    # ------------------------------------------------------------------ now and then, and the end

    def look(self) -> list[Sample]:
        """How every learner fares; also what tries the disk again. Once a second."""
        return self.samples.take(self._around.clock(), self.core, self.driver.lines)

    async def stop(self) -> None:
        """Hear nothing more, from a moment on when what the core knows and what the merger holds are the same."""
        stopped = asyncio.get_running_loop().create_future()

        def stop() -> None:
            self._halt()
            stopped.set_result(None)

        while self.plane.fenced:
            await asyncio.sleep(0.01)
        self.plane.cut(stop)
        await stopped

    def _halt(self) -> None:
        self._set_timer(None)
        self.driver.stop()

    def close(self) -> None:
        """Complete the tape."""
        self._halt()
        self.tape.close(self._around.clock())

    def snapshot(self) -> Snapshot:
        """The run after the events so far, within a cut (plane.cut) or after the end."""
        around, core = self._around, self.core
        return Snapshot(
            run=around.name, t=around.clock(), layout=self.layout, origin=self._origin, state=core.state(),
            published=tuple(zip(core.versions, core.rounds.steps, strict=True)), traffic=around.traffic(),
            theta=self.plane.merger.slots.thetas(), momentum=self.plane.merger.slots.momenta(),
        )  # fmt: skip

    def _save_if_due(self) -> None:
        keeper, around = self._around.keeper, self._around
        if self.core.versions and not self.plane.fenced and keeper.wants(around.clock()):
            self.plane.cut(lambda: keeper.save(self.snapshot, around.worker, around.journal))
