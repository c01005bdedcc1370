"""The guardian: a small process that ends a run's processes when the launcher is gone, however it went.

Its stdin is a pipe from the launcher and nothing else has the other end: end of file means that the launcher is dead
(kill -9 included). Every process of a run bears the run's mark in its environment, which its children inherit whatever
session or group they make for themselves; the guardian kills each that does, frozen ones too. Rules: standard library
only and no imports from the run's parts, because it must start at once and never fail.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

MARK = "SKERRY_RUN_MARK"
"""Names the environment variable that marks a run's processes. It configures nothing."""

QUIET = 3
PAUSE_S = 0.05
PATIENCE_S = 10.0


class Guardian:
    """The launcher's side: starts the guardian and keeps one alive."""

    def __init__(self) -> None:
        """Start the first guardian: call it before any process that bears the mark is started."""
        self.mark = secrets.token_hex(16)
        self._process = self._start()

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment for a process of the run."""
        return {**base, MARK: self.mark}

    def keep(self) -> None:
        """Start another guardian if the last one died."""
        if self._process.poll() is not None:
            self._process = self._start()

    def dismiss(self) -> int:
        """The run is over: kill whatever still bears the mark, then end the guardian. Gives the number killed."""
        killed = end_all(self.mark)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return killed

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        command = [sys.executable, "-m", "skerry.launch.guardian", self.mark]
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def end_all(mark: str) -> int:
    """Kill every process that bears the mark until none is found three times in a row, for at most 10 s.
    Gives the number of processes killed."""
    until = time.monotonic() + PATIENCE_S
    killed: set[int] = set()
    quiet = 0
    while quiet < QUIET and time.monotonic() < until:
        found = set(_kill_marked(mark.encode()))
        quiet = 0 if found else quiet + 1
        killed |= found
        time.sleep(PAUSE_S if quiet < QUIET else 0)
    return len(killed)


def _kill_marked(mark: bytes) -> Iterator[int]:
    wanted = MARK.encode() + b"=" + mark
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            handle = os.pidfd_open(int(entry.name))  # so that the process looked at is the process killed
        except OSError:
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                yield int(entry.name)
        except OSError:
            pass
        finally:
            os.close(handle)


def main() -> None:
    """Wait for the launcher's end, then kill what bears the mark given as the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_all(sys.argv[1])


if __name__ == "__main__":
    main()
