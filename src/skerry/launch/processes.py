"""A run's processes as the launcher sees them: in sessions of their own, their output in files, their end noticed.

Rules: own session, so that a Ctrl-C in the terminal reaches the launcher alone, which ends the run in order; output
goes to run_dir/logs/NAME.log (appended); every process bears the guardian's mark.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skerry.config.checks import positive, whole
from skerry.errors import SkerryError

LIVED_S = 60.0
PERMANENT = (2, 3, 4, 7)
"""Exit codes of a learner that starting it again cannot mend: configuration, data, refused, storage (errors.py)."""


class ChildError(SkerryError):
    """A process of the run could not do its work. Bears that process's own words and exit code."""

    def __init__(self, message: str, *, exit_code: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code if exit_code > 0 else 1


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How the launcher treats its processes."""

    max_restarts: int = 100  # a learner's trainer is started again at most so often
    restart_after: float = 0.2  # seconds until the first new start; doubles while trainers live less than a minute
    start_timeout: float = 60.0  # seconds within which the syncer must be ready
    evaluate: bool = True  # evaluate the global model during the run and at its end, at low priority

    def __post_init__(self) -> None:
        whole(self, "max_restarts", least=0, where="launch.")
        positive(self, "restart_after", "start_timeout", where="launch.")


class Process:
    """One program of the run; it can be started again after its end."""

    def __init__(self, name: str, command: Sequence[str], logs: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = tuple(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. It must not be running."""
        assert not self.alive
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment, start_new_session=True,
            )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether it runs (or stands stopped)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it is alive."""
        return self._process.pid if self._process is not None and self.alive else None

    @property
    def code(self) -> int | None:
        """What it ended with (negative: by that signal); None while it is alive or was never started."""
        return self._process.poll() if self._process is not None else None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is alive."""
        if self._process is not None:
            self._process.send_signal(number)  # does nothing once its end was noticed

    def last_words(self) -> str:
        """The last line it wrote that is not empty."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def ending(self) -> str:
        """How it ended, as in "it was ended by SIGKILL"."""
        code = self.code or 0
        words = self.last_words().removeprefix("skerry: ") if code > 0 else ""
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return how + (f": {words}" if words else "")

    def error(self) -> ChildError:
        """Its end as an error, in its own words if it has an exit code of its own (errors.py)."""
        code = self.code or 1
        words = self.last_words().removeprefix("skerry: ")
        if words and code in range(2, 9):
            return ChildError(words, exit_code=code)
        return ChildError(f"the {self.name} {self.ending()}", exit_code=code, remedy=f"its output is in {self.log}")


@dataclass
class LearnerProcess:
    """A learner's trainer and what the launcher means to do with it."""

    learner: int
    process: Process
    started: float = 0.0
    restarts: int = 0
    pause: float = 0.0
    again_at: float | None = None  # when to start it again; None while it runs or is not wanted
    down_until: float = 0.0  # it is not started again before: a fault's will
    wanted: bool = True
    codes: list[int] = field(default_factory=list)

    def start(self, now: float) -> None:
        """Start the trainer."""
        self.started, self.again_at = now, None
        self.process.start()

    def ended(self, now: float, config: LaunchConfig) -> int | None:
        """If the trainer has just ended: its exit code; the next start is planned unless it is not wanted any more."""
        code = self.process.code
        if code is None or self.again_at is not None or not self.wanted:
            return None
        self.codes.append(code)
        if code == 0 or self.restarts >= config.max_restarts:
            self.wanted = False
            return code
        calm = not self.pause or now - self.started > LIVED_S
        self.pause = config.restart_after if calm else min(30.0, 2 * self.pause)
        self.again_at = max(now + self.pause, self.down_until)
        return code
