"""A run, once its layout is known: SyncerDriver with what a real syncer has: a plane, a tape, a clock, a journal.

    sessions --> SyncerDriver (drive/syncer.py) --> sessions, the plane (plane.py)
                      |--> the log (store/log.py), journal, snapshots (keeper.py)

Rules: nothing is decided here. All of it happens on the event loop's thread, which never waits. While the log cannot be written
the run stands still, and its clock with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from skerry.core.layout import Layout
from skerry.core.messages import (
    Amend,
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
from skerry.syncer.clock import Clock
from skerry.syncer.journal import Journal, RoundLog, Samples
from skerry.syncer.keeper import Keeper
from skerry.syncer.past import Past
from skerry.syncer.plane import ThreadPlane
from skerry.syncer.session import Session
from skerry.syncer.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a run is given by its process. `name`: the run's id; `worker` does arithmetic, `patient` waits for the disk (none:
    nothing does, at level process); `traffic`: bytes in and out; `ended`: called at its end; `failed`: for a fault of ours."""

    name: str
    policy: Policy
    buffers: int
    keeper: Keeper
    journal: Journal
    worker: Worker
    patient: Worker | None
    clock: Clock
    traffic: Callable[[], tuple[int, int]]
    ended: Callable[[], None]
    failed: Callable[[BaseException], None]


class Run:
    """Made when the first learner brings the layout, or of a past. Then `plane.lay_out` the values there are, if any, and
    `begin`."""

    def __init__(self, around: Surroundings, layout: Layout, origin: Origin, past: Past | None = None) -> None:
        """Raises OSError if the tape cannot be begun, StorageError if there is no room for the values."""
        self.layout = layout
        self.core = past.core if past else SyncerCore(around.policy, layout)
        self.samples = Samples(around.journal)
        self.ended_at: float | None = None
        self._around = around
        self._origin = origin
        self._unheard = past.unheard if past else ()
        values = past.values if past else around.keeper.new_values(layout)
        self.plane = ThreadPlane(around.policy, layout, around.worker, around.buffers, values, around.patient)
        self._tape = self._new_tape(past.events if past else 0)
        self._rounds = RoundLog(around.journal)
        self._timer: asyncio.TimerHandle | None = None
        self.driver = SyncerDriver(self.core, self.plane, clock=around.clock.now, timer=self._set_timer, log=self,
                                   settled=self._settled, failed=around.failed)  # fmt: skip
        self._resumed = past is not None

    def begin(self) -> None:
        """Go on from the past: with what it did not know of itself, and with another policy, if there is one."""
        if not self._resumed:
            return
        for published in self._unheard:
            self.driver.feed(published)
        if self._around.policy != self.core.policy:
            self.driver.feed(Amend(policy=self._around.policy))
        self.driver.feed(Restarted())
        if self.core.phase is ENDED:
            self._around.ended()

    def _set_timer(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            wait = max(0.0, due - self._around.clock.now())
            self._timer = asyncio.get_running_loop().call_later(wait, self.driver.tick, due)

    # ------------------------------------------------------------------ the log

    def _head(self, events: int) -> Head:
        around, core = self._around, self.core
        about = {"origin": {"aliases": dict(self._origin.aliases), "config": self._origin.config}, "traffic": around.traffic()}
        return Head(run=around.name, began=around.clock.now(), policy=core.policy, layout=self.layout, state=core.state(),
                    epoch=core.epoch, events=events, about=about)  # fmt: skip

    def _new_tape(self, events: int) -> Tape:
        """Its thread's calls come to this one."""
        around, keeper, loop = self._around, self._around.keeper, asyncio.get_running_loop()

        def here(do: Callable[..., object]) -> Callable[..., None]:
            def call(*args: object) -> None:
                loop.call_soon_threadsafe(do, *args)

            return call

        return Tape(keeper.path / "tape", self._head(events), level=keeper.durability, keep=keeper.keep_tape,
                    say=here(around.journal.trouble), committed=here(lambda _: self.driver.committed()),
                    troubled=here(self._troubled), vanished=here(self._vanished))  # fmt: skip

    def _troubled(self, trouble: bool) -> None:
        """The log cannot be written, or can again."""
        if trouble:
            self._around.clock.stop()
            self.driver.pause()
        else:
            self._around.clock.go_on()
            self.driver.resume()

    def _vanished(self) -> None:
        """The run's directory was removed under our feet: what is in memory is the run."""
        self._troubled(True)
        self._mending = asyncio.get_running_loop().create_task(self._make_anew())

    async def _make_anew(self) -> None:
        around, merger = self._around, self.plane.merger
        try:
            if around.patient is not None:
                await around.patient.submit(lambda: None)  # what it is about to keep still belongs to the old file
            merger.slots = await around.worker.submit(around.keeper.make_anew, merger.slots)
            old, self._tape = self._tape, self._new_tape(self._tape.position)
            old.close(around.clock.now())
            self.plane.keep_waiting()
        except Exception as error:
            around.failed(error)
            return
        around.journal.moved(around.keeper.path)
        self._troubled(False)
        self.driver.committed()

    # ------------------------------------------------------------------ what the driver tells

    @property
    def committed(self) -> int:
        """See drive.syncer.Log."""
        return self._tape.committed

    def heard(self, now: float, event: SyncerEvent) -> int:
        """See drive.syncer.Log."""
        if isinstance(event, Failed):
            self._around.journal.trouble(f"the round of fragment {event.fragment} at step {event.step} failed: {event.why}")
        return self._tape.event(now, event)

    def decided(self, now: float, action: SyncerAction) -> None:
        """See drive.syncer.Log."""
        self._tape.action(action)
        self._rounds.saw(now, action, self.core)
        match action:
            case Welcome():
                self.samples.left.discard(action.learner)
            case Distribute():
                self._around.keeper.rounds += 1
            case Verdict(verdict="refused"):
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
        """How every learner fares. Once a second."""
        return self.samples.take(self._around.clock.now(), self.core, self.driver.lines)

    async def told_all(self) -> None:
        """Wait until everything that was decided has left, however long the disk takes."""
        while not self.driver.idle:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Hear nothing more."""
        self._set_timer(None)
        self.driver.stop()

    def close(self) -> None:
        """Complete the log."""
        self.stop()
        self._tape.close(self._around.clock.now())

    def snapshot(self) -> Snapshot:
        """The run after the events so far: what the core knows, and the values that exist. They stay as they are for the jobs
        that the worker is given before the next event."""
        around, core, slots = self._around, self.core, self.plane.merger.slots
        return Snapshot(
            run=around.name, t=around.clock.now(), layout=self.layout, origin=self._origin, policy=core.policy,
            state=core.state(), published=tuple((stands.version, stands.step) for stands in slots.headers if stands),
            events=self._tape.position, traffic=around.traffic(), theta=slots.thetas(), momentum=slots.momenta(),
        )  # fmt: skip

    def _settled(self) -> None:
        """Between two events."""
        keeper, around = self._around.keeper, self._around
        if self.core.versions and keeper.wants(around.clock.now()):
            keeper.save(self.snapshot(), around.worker, around.journal)
        if self._tape.full:
            self._tape.roll(self._head(self._tape.position))
