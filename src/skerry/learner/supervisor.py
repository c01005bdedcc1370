"""A thread of the training process that starts its agent, starts another when it dies, and notices freezes.

Rules: nothing here is ever waited for by the training thread. A new agent's channel is laid ready; the training thread
takes it up at a step boundary. The thread ticks every TICK seconds; ticks further apart than FROZEN mean that the whole
process stood still (SIGSTOP, a suspended machine), and that time counts as nobody's step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import skerry
from skerry.island.orders import Channel

TICK = 0.25
FROZEN = 1.0
_STEADY = 10.0  # an agent that lived so long died of something else than its start
_LONGEST_DELAY = 10.0


class Supervisor:
    """Keeps an agent running. `setup`: what the next agent is told on its start."""

    program = ("-m", "skerry.learner.agent")

    def __init__(self, setup: Callable[[], bytes], say: Callable[[str], None]) -> None:
        self._setup = setup
        self._say = say
        self._stop = threading.Event()
        self._agent: subprocess.Popen[bytes] | None = None
        self._fresh: Channel | None = None
        self._news = threading.Event()
        self._clock = (0, time.monotonic_ns())  # nanoseconds frozen, time of the last tick: one tuple, swapped whole
        self._thread = threading.Thread(target=self._watch, name="skerry-supervisor", daemon=True)

    def start(self) -> None:
        """Start the first agent, and the thread. Raises OSError if no process can be started."""
        self._spawn()
        self._thread.start()

    def take_channel(self) -> Channel | None:
        """The channel of an agent that was started since the last call."""
        if not self._news.is_set():
            return None
        self._news.clear()
        fresh, self._fresh = self._fresh, None
        return fresh

    def wait_for_channel(self, seconds: float) -> None:
        """Return when `take_channel` has something to give, or after some seconds."""
        self._news.wait(seconds)

    @property
    def agent_pid(self) -> int:
        """Process id of the agent last started."""
        return self._agent.pid if self._agent else 0

    def frozen_ns(self, now: int) -> int:
        """Nanoseconds that the process stood still in all, up to `now` (time.monotonic_ns)."""
        frozen, ticked = self._clock
        late = now - ticked - int(TICK * 1e9)
        return frozen + (late if late > (FROZEN - TICK) * 1e9 else 0)

    def stop(self, patience: float) -> None:
        """The agent should end by itself now, having lost its channel; kill it if it has not after `patience` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        fresh = self.take_channel()
        if fresh:
            fresh.close()
        if self._agent:
            try:
                self._agent.wait(patience)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait()

    def _watch(self) -> None:
        failures, due = 0, 0.0
        started = time.monotonic()
        while not self._stop.wait(TICK):
            self._tick()
            assert self._agent is not None
            if self._agent.poll() is None:
                continue
            now = time.monotonic()
            if not due:
                failures = failures + 1 if now - started < _STEADY else 0
                due = now + min(TICK * (2 ** max(0, failures - 1) - 1), _LONGEST_DELAY)
            if now >= due:
                self._replace(self._agent)
                started, due = time.monotonic(), 0.0

    def _replace(self, dead: subprocess.Popen[bytes]) -> None:
        code = dead.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        try:
            self._spawn()
        except OSError as error:
            self._say(f"the agent (process {dead.pid}) {how}, and no other can be started: {error}")
        else:
            self._say(f"the agent (process {dead.pid}) {how}; started another (process {self.agent_pid})")

    def _tick(self) -> None:
        now = time.monotonic_ns()
        self._clock = (self.frozen_ns(now), now)

    def _spawn(self) -> None:
        channel, theirs = Channel.pair()
        setup = os.memfd_create("skerry-agent-setup")
        try:
            os.write(setup, self._setup())
            command = [sys.executable, "-P", *self.program, str(theirs.fileno()), str(setup)]
            # start_new_session: a signal to the trainer's group leaves the agent alone
            self._agent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=_environment(),
                                           pass_fds=(theirs.fileno(), setup), start_new_session=True)  # fmt: skip
        finally:
            theirs.close()
            os.close(setup)
        self._fresh = channel
        self._news.set()


def _environment() -> dict[str, str]:
    """Ours, and the agent finds this very skerry however we came by it."""
    home = str(Path(skerry.__file__).parent.parent)
    path = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}
