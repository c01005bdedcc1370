"""Processes side by side, each of which leaves one file. Knows nothing about what they compute.

Rules: a job is done when its process ended with 0 and its file is there, and only then; one that fails does not stop the
others. However this process ends, its children end with it. It waits for events, never by sleeping. Ctrl-C is held back
until all books are in order: it never falls between a process and its entry here.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

REFRESH_S = 0.5
PATIENCE_S = 5.0
_LIBC = ctypes.CDLL(None)  # loaded before any fork
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """`result`: the file that the command leaves. `log`: takes its stderr; stays only if it fails."""

    label: str
    command: tuple[str, ...]
    result: Path
    log: Path


class Watcher(Protocol):
    """Whoever shows how far it is."""

    def started(self, job: Job) -> None:
        """Its process runs."""
        ...

    def ended(self, job: Job, failure: str | None) -> None:
        """It is over. `failure`: None, or what the process said last."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...


def carry_out(jobs: Sequence[Job], *, side_by_side: int, environment: Mapping[str, str], watcher: Watcher) -> list[Job]:
    """Run all; those that failed. Raises KeyboardInterrupt, once nothing runs any more, after a Ctrl-C."""
    waiting, failed = list(reversed(jobs)), []
    running = _Running(environment)
    with _ctrl_c_held() as pressed:
        try:
            while (waiting or running.count) and not pressed:
                while waiting and running.count < side_by_side:
                    job = waiting.pop()
                    running.start(job)
                    watcher.started(job)
                ended = running.wait()
                if pressed:  # in a terminal the processes heard it too: their end is no failure
                    break
                for job, failure in map(running.take, ended):
                    if failure is not None:
                        failed.append(job)
                    watcher.ended(job, failure)
                watcher.tick()
        finally:
            running.end()
    if pressed:
        raise KeyboardInterrupt
    return failed


@contextmanager
def _ctrl_c_held() -> Iterator[list[int]]:
    """Signals that would have raised KeyboardInterrupt are listed instead. Elsewhere than in the main thread: none come."""
    pressed: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held = [number for number, handler in before.items() if handler is signal.default_int_handler]
    if threading.current_thread() is not threading.main_thread():
        held = []
    for number in held:
        signal.signal(number, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        for number in held:
            signal.signal(number, before[number])


class _Running:
    """The processes that run now."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}

    @property
    def count(self) -> int:
        return len(self._processes)

    def start(self, job: Job) -> None:
        with job.log.open("wb") as log:
            process = subprocess.Popen(job.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                                       env=self._environment, preexec_fn=_die_with_parent)  # fmt: skip
        handle = os.pidfd_open(process.pid)
        self._processes[handle] = (job, process)
        self._selector.register(handle, selectors.EVENT_READ)

    def wait(self) -> list[int]:
        """The handles of those that have ended; waits a moment for one."""
        return [key.fd for key, _ in self._selector.select(REFRESH_S)]

    def take(self, handle: int) -> tuple[Job, str | None]:
        """The job that has ended, and why it failed if it did."""
        job, process = self._processes.pop(handle)
        self._selector.unregister(handle)
        os.close(handle)
        code = process.wait()
        if code == 0 and job.result.exists():
            job.log.unlink(missing_ok=True)
            return job, None
        return job, _last_line(job.log) or (f"ended by signal {-code}" if code < 0 else f"exit code {code}, and no word")

    def end(self) -> None:
        """Nothing runs any more. A result that was complete by then stays."""
        for _, process in self._processes.values():
            process.terminate()
        until = time.monotonic() + PATIENCE_S
        for handle, (job, process) in self._processes.items():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            job.log.unlink(missing_ok=True)
            os.close(handle)
        self._processes.clear()
        self._selector.close()


def _die_with_parent() -> None:
    """In the child, before it becomes the command: the kernel kills it when the sweep dies, even of SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
