"""A whole run on this machine: the syncer, the learners, the evaluator; restarts, faults, the display, a clean end.

The launcher decides nothing about training. It starts processes, starts those again that die, strikes them if a
fault script says so, shows what the run's files say, and leaves nothing alive. Rules:

- One thread, one loop: whatever it waits for, it looks at `_turn`'s pace.
- The run is over when the syncer has ended with exit code 0. One that dies by a signal or a fault of ours is started again on
  what it left; a user's error ends the run.
- A learner whose link is to be struck has a relay (relay.py) before the syncer; others have none.
- First SIGINT (or SIGTERM, SIGHUP): the learners leave, the syncer saves, in about 10 s at most. Second one: everything
  is killed at once. In any case the guardian kills what is left.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from skerry.errors import SkerryError, UnreachableError
from skerry.launch.chaos import Chaos, ChaosError
from skerry.launch.display import Display
from skerry.launch.guardian import Guardian
from skerry.launch.processes import PERMANENT, Kept, LaunchConfig, LearnerProcess, Process, SyncerProcess
from skerry.launch.relay import HOST, reserve
from skerry.launch.view import RunView
from skerry.store.metrics import Tail, append
from skerry.store.records import Event, Exited, FaultNote, Note, Round, Started, Unfired
from skerry.world.faults import SYNCER, Fault, FaultScript

PACE_S = 0.05
LEAVE_S = 4.0
PARTING_S = 5.0
EVALUATE_S = 120.0

ADVANCES = ("run_over", "export")  # events that show that a run gets on, besides its rounds

Command = tuple[str, ...]


class Interrupted(SkerryError):
    """The user ended the run."""

    exit_code = 130


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to start. `learner` makes a command line for (syncer's address, learner's id); `resume` goes on with what a syncer
    that died has left."""

    run_dir: Path
    learners: int
    syncer: Command
    resume: Command
    learner: Callable[[str, int], Command]
    evaluator: Command | None = None


class LocalRun:
    """`LocalRun(job, config, script).run()` returns when the run is over and everything is evaluated and saved.

    Raises ChildError (a process could not work), Interrupted, ChaosError, UnreachableError (the syncer does not start).
    """

    def __init__(self, job: Job, config: LaunchConfig, script: FaultScript) -> None:
        self._job, self._config = job, config
        self._logs = job.run_dir / "logs"
        self._logs.mkdir(exist_ok=True)
        self._environment: dict[str, str] = {}
        self._view = RunView(job.run_dir.name)
        self._display = Display(self._view)
        self._metrics = Tail(job.run_dir / "metrics.jsonl", skip=True)
        self._losses = Tail(job.run_dir / "eval.jsonl", skip=True)
        self._notes = job.run_dir / "faults.jsonl"
        self._chaos = Chaos(script, self, self._struck)
        self._learners: dict[int, LearnerProcess] = {}
        self._struck_links = script.linked
        self._links: dict[int, Kept] = {}
        self._ports: dict[int, socket.socket] = {}  # of the links, kept for them
        self._syncer = SyncerProcess(process=self._process("syncer", job.syncer))
        self._reached = 0  # versions, and what else shows that the run gets on
        self._interrupts = 0
        self._trains_since: float | None = None
        self._address = ""

    def run(self) -> None:
        """The whole run."""
        before = {number: signal.signal(number, self._interrupt) for number in _ENDING}
        self._guardian = Guardian()
        self._environment.update(self._guardian.environment())
        try:
            with self._display:
                self._start()
                while self._syncer.wanted:
                    self._turn()
                    if self._interrupts and not self._view.state.ended:
                        self._save_and_leave()
                    self._enough()
                self._finish()
        finally:
            self._chaos.release()
            self._guardian.dismiss()
            for port in self._ports.values():
                port.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    # ---------------------------------------------------------------- what chaos asks of a launcher

    def syncer(self) -> int | None:
        """See chaos.Run."""
        return self._syncer.process.pid

    def link(self, learner: int) -> int | None:
        """See chaos.Run."""
        held = self._links.get(learner)
        return held.process.pid if held else None

    def trainer(self, learner: int) -> int | None:
        """See chaos.Run."""
        held = self._learners.get(learner)
        return held.process.pid if held else None

    def join(self, learner: int) -> None:
        """See chaos.Run. A learner that is there already goes on as it is."""
        held = self._learners.get(learner)
        if held is None or not held.process.alive:
            self._start_learner(learner)

    def leave(self, learner: int) -> None:
        """See chaos.Run."""
        self._learners[learner].wanted = False
        self._learners[learner].process.signal(signal.SIGTERM)

    def keep_down(self, learner: int, seconds: float) -> None:
        """See chaos.Run."""
        held = self._syncer if learner == SYNCER else self._learners[learner]
        held.down_until = time.monotonic() + seconds

    def keep_cut(self, learner: int, seconds: float) -> None:
        """See chaos.Run."""
        self._links[learner].down_until = time.monotonic() + seconds

    def _struck(self, event: Literal["strike", "end"], fault: Fault) -> None:
        self._note(FaultNote(unix=_clock(), event=event, learner=fault.learner, kind=fault.kind, target=fault.target,
                             fault=str(fault)))  # fmt: skip

    # ---------------------------------------------------------------- start

    def _start(self) -> None:
        ready = self._job.run_dir / "address"
        before = _identity(ready)  # that of a resumed run: its port is taken again
        self._launch(SYNCER, self._syncer)
        until = time.monotonic() + self._config.start_timeout
        while _identity(ready) in (None, before):
            self._watch_syncer(time.monotonic())
            if not self._syncer.wanted:
                raise self._syncer.error()
            if self._interrupts:
                raise Interrupted("stopped before the run began")
            if time.monotonic() > until:
                raise UnreachableError(f"the syncer was not ready within {self._config.start_timeout:g} s",
                                       remedy=f"see {self._syncer.process.log}, or raise launch.start_timeout")  # fmt: skip
            time.sleep(PACE_S)
        self._address = ready.read_text().strip()
        self._tell(f"syncer at {self._address}")
        for learner in range(self._job.learners):
            self._start_learner(learner)
        self._evaluator = self._process("evaluator", self._job.evaluator) if self._job.evaluator else None
        if self._evaluator:
            self._evaluator.start()

    def _process(self, name: str, command: Command) -> Process:
        return Process(name, command, self._logs, self._environment)

    def _start_learner(self, learner: int) -> None:
        address = self._relayed(learner) if learner in self._struck_links else self._address
        command = self._job.learner(address, learner)
        held = LearnerProcess(process=self._process(f"learner-{learner}", command), learner=learner)
        self._learners[learner] = held
        self._launch(learner, held)

    def _relayed(self, learner: int) -> str:
        """The address of the learner's relay, which is started if it is not there."""
        if learner not in self._links:
            self._ports[learner] = port = reserve()
            command = (sys.executable, "-m", "skerry.launch.relay", _port(port), str(self._job.run_dir / "address"))
            self._links[learner] = held = Kept(process=self._process(f"link-{learner}", command))
            held.start(time.monotonic())
        return f"{HOST}:{_port(self._ports[learner])}"

    def _launch(self, learner: int, held: Kept) -> None:
        held.start(time.monotonic())
        self._note(Started(unix=_clock(), learner=learner, pid=held.process.pid))

    # ---------------------------------------------------------------- the loop

    def _turn(self) -> None:
        """Look at everything once, then wait a little."""
        now = time.monotonic()
        self._guardian.keep()
        self._watch_syncer(now)
        self._watch_links(now)
        self._watch_learners(now)
        self._read()
        if self._trains_since is None and self._view.state.all_train(self._job.learners):
            self._trains_since = now
        due = float("inf")
        if self._trains_since is not None:
            due = self._trains_since + self._chaos.advance(now - self._trains_since)
        self._display.refresh()
        time.sleep(max(0.0, min(PACE_S, due - time.monotonic())))

    def _watch_syncer(self, now: float) -> None:
        held = self._syncer
        code = held.ended(now, self._config, self._reached)
        if code is not None:
            self._note(Exited(unix=_clock(), learner=SYNCER, code=code))
            if held.wanted:
                self._tell(f"the syncer {held.process.ending()}; it is started again")
        if held.due(now) and not self._interrupts:
            if (self._job.run_dir / "run").exists():  # it has a name, by which its learners know it
                held.process.becomes(self._job.resume)
            self._launch(SYNCER, held)

    def _watch_links(self, now: float) -> None:
        for held in self._links.values():
            if held.just_ended():
                held.plan(now, 0.0)
            if held.due(now):
                held.start(now)

    def _watch_learners(self, now: float) -> None:
        for held in self._learners.values():
            code = held.ended(now, self._config)
            if code is not None:
                self._note(Exited(unix=_clock(), learner=held.learner, code=code))
                if code in PERMANENT and self._trains_since is None:
                    raise held.process.error()
                if code in PERMANENT:
                    held.wanted, held.again_at = False, None
                if code:
                    then = "it is started again" if held.again_at else f"see {held.process.log}"
                    self._tell(f"learner {held.learner}: the trainer {held.process.ending()}; {then}")
            if held.due(now):
                self._launch(held.learner, held)

    def _read(self) -> None:
        for record in (*self._metrics.new(), *self._losses.new()):
            self._reached += isinstance(record, Round) or (isinstance(record, Event) and record.event in ADVANCES)
            self._display.tell(self._view.take(record))

    # ---------------------------------------------------------------- the end

    def _finish(self) -> None:
        """The syncer has ended by itself."""
        self._read()
        if self._syncer.process.code != 0:
            raise self._syncer.error()
        self._chaos.release()
        self._wait([held.process for held in self._learners.values()], PARTING_S)
        if self._evaluator and self._evaluator.alive and not self._interrupts:
            self._tell("evaluating the final model")
            self._evaluator.signal(signal.SIGTERM)
            self._wait([self._evaluator], EVALUATE_S)
            if self._evaluator.code != 0:
                self._tell(f"evaluator: {self._evaluator.error()}")
        self._read()
        if self._chaos.unfired:
            faults = " ".join(str(fault) for fault in self._chaos.unfired)
            self._note(Unfired(unix=_clock(), faults=faults))
            raise ChaosError(f"the run was over before these faults could strike: {faults}",
                             remedy="let them strike earlier, or raise the budget")  # fmt: skip

    def _save_and_leave(self) -> None:
        self._tell("stopping: the model is being saved; once more to end at once")
        if self._evaluator:
            self._evaluator.signal(signal.SIGKILL)
        self._chaos.release()
        for held in self._learners.values():
            held.wanted = False
            held.process.signal(signal.SIGTERM)
        self._wait([held.process for held in self._learners.values()], LEAVE_S)
        syncer = self._syncer.process
        if not syncer.alive:
            raise Interrupted("stopped while the syncer was down", remedy="--resume goes on from what it left")
        syncer.signal(signal.SIGTERM)
        self._wait([syncer], float("inf"))  # a large model takes its time, and a second interrupt ends it
        self._read()
        if syncer.code != 0 and not self._view.state.exported:
            raise Interrupted(f"stopped, but the syncer could not save (see {syncer.log})")
        if not self._view.state.exported:
            raise Interrupted("stopped before there was a model to save")
        raise Interrupted(f"stopped; the model is saved in {self._job.run_dir}", remedy="--resume goes on from there")

    def _wait(self, processes: list[Process], seconds: float) -> None:
        """Wait until all have ended, for at most so long."""
        until = time.monotonic() + seconds
        while any(process.alive for process in processes) and time.monotonic() < until:
            self._enough()
            self._read()
            self._display.refresh()
            time.sleep(PACE_S)

    def _enough(self) -> None:
        """A second interrupt ends everything at once."""
        if self._interrupts > 1:
            raise Interrupted("ended at once; what was not saved is lost", remedy="--resume goes on from the last snapshot")

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1

    # ---------------------------------------------------------------- saying

    def _tell(self, text: str) -> None:
        self._display.tell(self._view.say(text))

    def _note(self, note: Note) -> None:
        """A line of faults.jsonl."""
        append(self._notes, note)
        self._display.tell(self._view.take(note))


def _clock() -> float:
    return round(time.time(), 3)


def _port(sock: socket.socket) -> str:
    return str(sock.getsockname()[1])


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells one file of that name from the next; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
