"""A run's processes as the launcher sees them: in sessions of their own, their output in files, their end noticed.

Rules: own session, so that a Ctrl-C in the terminal reaches the launcher alone, which ends the run in order; output
goes to run_dir/logs/NAME.log (appended); every process bears the guardian's mark.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skerry.config.checks import positive, whole
from skerry.errors import SkerryError

LIVED_S = 60.0
STEADY_S = 10.0
LONGEST_PAUSE_S = 30.0
PERMANENT = (2, 3, 4, 7)
"""Exit codes of a learner that starting it again cannot mend: configuration, data, refused, storage (errors.py)."""
SETTLED = (0, *range(2, 9), 130)
"""Exit codes of a syncer that are its last word: the run is over or saved, or a user's error (errors.py)."""


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
    syncer_restarts: int = 5  # a dead syncer is started again, at most so often without a new version in between
    start_timeout: float = 60.0  # seconds within which the syncer must be ready
    evaluate: bool = True  # evaluate the global model during the run and at its end, at low priority

    def __post_init__(self) -> None:
        whole(self, "max_restarts", "syncer_restarts", least=0, where="launch.")
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

    def becomes(self, command: Sequence[str]) -> None:
        """What the next start runs."""
        self._command = tuple(command)

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
class Kept:
    """A process that is started again when it has ended, and what the launcher means to do with it."""

    process: Process
    started: float = 0.0
    restarts: int = 0
    pause: float = 0.0
    again_at: float | None = None  # when to start it again; None while it runs or is not wanted
    down_until: float = 0.0  # it is not started again before: a fault's will
    wanted: bool = True

    def start(self, now: float) -> None:
        """Start the process, for the first time or again."""
        self.restarts += self.again_at is not None
        self.started, self.again_at = now, None
        self.process.start()

    def due(self, now: float) -> bool:
        """Whether it is time to start it again."""
        return self.wanted and self.again_at is not None and now >= self.again_at

    def just_ended(self) -> bool:
        """Whether its end was not looked at yet."""
        return self.wanted and self.again_at is None and self.process.code is not None

    def plan(self, now: float, pause: float) -> None:
        """Start it again after the pause, or later if a fault wants it."""
        self.pause = pause
        self.again_at = max(now + pause, self.down_until)


@dataclass
class LearnerProcess(Kept):
    """A learner's trainer."""

    learner: int = 0

    def ended(self, now: float, config: LaunchConfig) -> int | None:
        """If the trainer has just ended: its exit code; the next start is planned unless it is not wanted any more."""
        if not self.just_ended():
            return None
        code = self.process.code
        if code == 0 or self.restarts >= config.max_restarts:
            self.wanted = False
        else:
            calm = not self.pause or now - self.started > LIVED_S
            self.plan(now, config.restart_after if calm else min(LONGEST_PAUSE_S, 2 * self.pause))
        return code


@dataclass
class SyncerProcess(Kept):
    """The syncer: it is started again at once if it dies by a signal or a fault of ours; after a growing pause if it lived for
    seconds only; not at all if it died too often without getting anywhere."""

    deaths: int = 0  # in a row, without progress
    progress: int = 0  # how far the run was at the last death

    def ended(self, now: float, config: LaunchConfig, progress: int) -> int | None:
        """If it has just ended: its exit code. `progress`: how far the run is, in whatever grows with it."""
        if not self.just_ended():
            return None
        code = self.process.code
        self.deaths = self.deaths + 1 if progress == self.progress else 1
        self.progress = progress
        if code in SETTLED or self.deaths > config.syncer_restarts:
            self.wanted = False
        else:
            hasty = now - self.started < STEADY_S
            self.plan(now, min(LONGEST_PAUSE_S, 2 * self.pause or config.restart_after) if hasty else 0.0)
        return code

    def error(self) -> ChildError:
        """Why it is not started again."""
        found = self.process.error()
        if self.deaths > 1 and self.process.code not in SETTLED:
            return ChildError(f"the syncer died {self.deaths} times in a row without a new version; at last it "
                              f"{self.process.ending()}", exit_code=found.exit_code, remedy=found.remedy)  # fmt: skip
        return found
