"""Carrying out a FaultScript on real processes, and making sure that every fault really struck.

How each kind strikes (PART trainer or agent; none = both, the trainer first):

| kind | is |
| --- | --- |
| kill | SIGKILL; with a duration, the launcher does not start the trainer, or the syncer, again before it is over |
| stop | SIGSTOP, and SIGCONT when the duration is over |
| slow | the trainer is stopped and continued five times a second, running for FACTOR of the time |
| leave | SIGTERM to the trainer, which leaves cleanly and is not started again |
| join | one more learner is started |
| cut | SIGKILL to the relay (relay.py) of the learner's link, which is started again after the duration: the kernel breaks
its connections, and refuses new ones meanwhile |
| halfopen | SIGSTOP to that relay, SIGCONT after the duration: connections stand, the kernel accepts new ones, nothing passes |
| full | no file of the processes may grow (RLIMIT_FSIZE is 0) for the duration; who takes their place is struck, too |

Rules: no clock of its own (time is an argument, counted from the moment the run trains); a fault whose target is not
there just now (its trainer is being restarted) strikes as soon as it is; a strike counts only after the kernel shows
its effect. Agents are found as children of their trainer.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import psutil

from skerry.errors import SkerryError
from skerry.world.faults import LINKS, SYNCER, Fault, FaultScript

AGENT = "skerry.learner.agent"
"""What an agent's command line holds."""

DUTY_S = 0.2
FULL_S = 0.05
EFFECT_S = 2.0
BOTH_ENDS_OF_BOTH = 4  # connections of a relay: control and bulk, each from the learner and to the syncer
_REPEATED = ("slow", "full")


class ChaosError(SkerryError):
    """A fault of the script did not strike, or had no effect: the run did not show what it was meant to show."""


class Run(Protocol):
    """What the launcher lends: its processes, alive or not. `learner`: an id, or SYNCER where that makes sense."""

    def syncer(self) -> int | None:
        """Process id of the syncer, None while there is none."""

    def trainer(self, learner: int) -> int | None:
        """Process id of the learner's trainer, None while it has none."""

    def link(self, learner: int) -> int | None:
        """Process id of the relay of the learner's link, None while there is none."""

    def join(self, learner: int) -> None:
        """Start one more learner."""

    def leave(self, learner: int) -> None:
        """Ask a learner to leave, and do not start it again."""

    def keep_down(self, learner: int, seconds: float) -> None:
        """Do not start the learner's trainer (or the syncer) again before so much time has passed."""

    def keep_cut(self, learner: int, seconds: float) -> None:
        """Do not start the relay of the learner's link again before so much time has passed."""


@dataclass
class _Active:
    """A fault with a duration, or one that is repeated. `stopped`: the processes that it holds stopped; `full`: those whose
    files may not grow, each with the limit that it had."""

    fault: Fault
    stopped: list[psutil.Process] = field(default_factory=list)
    full: dict[psutil.Process, tuple[int, int]] = field(default_factory=dict)
    edge: float = 0.0  # when a slowed trainer is next stopped or continued


class Chaos:
    """Strikes when `advance` is called. `note(event, fault)` hears "strike" and "end" of each fault."""

    def __init__(self, script: FaultScript, run: Run, note: Callable[[Literal["strike", "end"], Fault], None]) -> None:
        self._due = list(script)
        self._run = run
        self._note = note
        self._active: list[_Active] = []

    @property
    def unfired(self) -> list[Fault]:
        """The faults that have not struck."""
        return list(self._due)

    def advance(self, now: float) -> float:
        """Do everything that is due at `now`; gives the time at which something falls due next (infinite: nothing)."""
        waiting = []
        for fault in self._due:
            if fault.at > now or not self._strike(fault, now):
                waiting.append(fault)
        self._due = waiting
        for active in list(self._active):
            self._go_on(active, now)
        times = [fault.at for fault in self._due if fault.at > now]
        times += [min(a.edge, _end(a.fault)) if a.fault.kind in _REPEATED else _end(a.fault) for a in self._active]
        return min(times, default=float("inf"))

    def release(self) -> None:
        """Let go of whatever is held: the run is ending."""
        for active in self._active:
            _let_go(active)
        self._active.clear()

    def _strike(self, fault: Fault, now: float) -> bool:
        """Carry the fault out; False if its target is not there yet."""
        if fault.kind == "join":
            self._run.join(fault.learner)
        else:
            targets = self._targets(fault)
            if not targets:
                return False
            if fault.kind in ("kill", "cut"):
                self._kill(fault, targets)
            elif fault.kind in ("stop", "halfopen"):
                _stop(targets)
                self._active.append(_Active(fault, targets))
            elif fault.kind in _REPEATED:
                self._active.append(_Active(fault, edge=now))
            else:
                self._run.leave(fault.learner)
        self._note("strike", fault)
        return True

    def _kill(self, fault: Fault, targets: list[psutil.Process]) -> None:
        if fault.duration or fault.kind == "cut":  # said first: the launcher may see the end at once
            keep = self._run.keep_cut if fault.kind == "cut" else self._run.keep_down
            keep(fault.learner, fault.duration)
        _signal(targets, signal.SIGKILL)
        _until(targets, psutil.STATUS_ZOMBIE)

    def _go_on(self, active: _Active, now: float) -> None:
        fault = active.fault
        if now >= _end(fault):
            _let_go(active)
            self._active.remove(active)
            self._note("end", fault)
        elif fault.kind == "full" and now >= active.edge:
            for process in self._targets(fault):
                _fill(active, process)
            active.edge = now + FULL_S
        elif fault.kind == "slow" and now >= active.edge:
            if active.stopped:
                _signal(active.stopped, signal.SIGCONT)
                active.stopped = []
                active.edge = now + DUTY_S * fault.factor
            else:
                active.stopped = self._targets(fault)
                _stop(active.stopped)
                active.edge = now + DUTY_S * (1 - fault.factor)

    def _targets(self, fault: Fault) -> list[psutil.Process]:
        """The processes to strike; none unless all parts that the fault means are there."""
        if fault.learner == SYNCER:
            pid = self._run.syncer()
        else:
            pid = (self._run.link if fault.kind in LINKS else self._run.trainer)(fault.learner)
        if pid is None:
            return []
        try:
            process = psutil.Process(pid)
            if fault.kind in LINKS:  # a link is there when both of the learner's connections are
                return [process] if len(_established(process)) >= BOTH_ENDS_OF_BOTH else []
            if fault.learner == SYNCER or fault.kind in ("slow", "leave") or fault.part == "trainer":
                return [process]
            agents = [child for child in process.children() if AGENT in child.cmdline()]
        except psutil.Error:
            return []
        if not agents:
            return []
        return agents if fault.part == "agent" else [process, *agents]


def _end(fault: Fault) -> float:
    return fault.ends if fault.duration else float("inf")


def _established(process: psutil.Process) -> list[object]:
    return [one for one in process.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]


def _fill(active: _Active, process: psutil.Process) -> None:
    """From now on the kernel lets no file of the process grow."""
    if process in active.full:
        return
    try:
        before = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
        if process.rlimit(psutil.RLIMIT_FSIZE)[0] != 0:
            raise ChaosError(f"the fault had no effect: {process} may still write")
    except psutil.NoSuchProcess:
        return
    active.full[process] = before


def _let_go(active: _Active) -> None:
    _signal(active.stopped, signal.SIGCONT)
    for process, limits in active.full.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, limits)


def _signal(targets: list[psutil.Process], number: signal.Signals) -> None:
    for process in targets:
        try:
            process.send_signal(number)  # psutil checks that the id has not been given to another process since
        except psutil.NoSuchProcess:
            pass


def _stop(targets: list[psutil.Process]) -> None:
    _signal(targets, signal.SIGSTOP)
    _until(targets, psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)


def _until(targets: list[psutil.Process], *states: str) -> None:
    """Wait until the kernel shows each process in one of these states, or gone. (psutil's own wait would take the exit
    status that the launcher waits for.)"""
    until = time.monotonic() + EFFECT_S
    for process in targets:
        while process.is_running() and (state := _state(process)) not in states:
            if time.monotonic() > until:
                raise ChaosError(f"the fault had no effect: {process} is {state}, not {' or '.join(states)}")
            time.sleep(0.001)


def _state(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)
