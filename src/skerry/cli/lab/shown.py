"""How far a sweep is: a bar with what runs and the time left on a terminal, a line for each finished run elsewhere.

Rules: everything goes to stderr; the time left is the mean of the finished runs' over what is still to be made.
"""

from __future__ import annotations

import sys
import time
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from skerry.lab.jobs import Job

LABELS = 4


class SweepShown:
    """Watches the jobs of a sweep (jobs.Watcher)."""

    def __init__(self, runs: int, missing: int, side_by_side: int) -> None:
        self._runs, self._over, self._side_by_side = runs, runs - missing, side_by_side
        self._running: dict[str, float] = {}
        self._seconds: list[float] = []
        self._console = Console(stderr=True)
        # No thread of its own (auto_refresh): the sweep forks.
        self._bar = Progress(MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), console=self._console,
                             auto_refresh=False, disable=not sys.stderr.isatty())  # fmt: skip
        self._task = self._bar.add_task("", total=runs, completed=self._over)
        if self._over:
            self._say(f"{self._over} of {runs} runs are there already")

    def __enter__(self) -> SweepShown:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tick()
        self._bar.__exit__(*error)

    def started(self, job: Job) -> None:
        """Its process runs."""
        self._running[job.label] = time.monotonic()

    def ended(self, job: Job, failure: str | None) -> None:
        """It is over."""
        took = time.monotonic() - self._running.pop(job.label)
        self._over += 1
        if failure is not None:
            self._say(f"{job.label} failed: {failure.removeprefix('skerry: ')}")
            return
        self._seconds.append(took)
        if self._bar.disable:
            self._say(f"{self._over}/{self._runs}  {job.label}: {_span(took)}{self._left()}")

    def tick(self) -> None:
        """Time has passed."""
        names = list(self._running)
        more = f" and {len(names) - LABELS} more" if len(names) > LABELS else ""
        text = escape(", ".join([self._left().strip(), *names[:LABELS]]).removeprefix(", ") + more)
        self._bar.update(self._task, completed=self._over, description=text, refresh=True)

    def _left(self) -> str:
        if not self._seconds or self._over == self._runs:
            return ""
        mean, now = fmean(self._seconds), time.monotonic()
        waiting = self._runs - self._over - len(self._running)
        rest = mean * waiting + sum(max(0.0, mean - (now - since)) for since in self._running.values())
        return f"   about {_span(rest / min(self._side_by_side, self._runs - self._over))} left"

    def _say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
