"""A run of `skerry train` that a benchmark watches while it goes on, strikes beside --chaos, and reads when it is over.

Rules: what is seen comes from the run's own files; times are the machine's clock. What a benchmark strikes by hand (`pid_*`) is
found anew each time, since any process may have been replaced meanwhile.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from skerry.launch.chaos import AGENT
from skerry.launch.guardian import Guardian
from skerry.store.fold import SYNCER, RunState
from skerry.store.metrics import Tail, read
from skerry.store.records import Begin, Event, Exited, FaultNote, Line, Round, Started, Status
from skerry.store.thinning import segments

TURN_S = 0.02
PATIENCE_S = 300.0
RELAY = "skerry.launch.relay"


@dataclass(kw_only=True)
class Outcome:
    """What a run came to. `killed`: when its syncer died; `published`: when versions came; `phases`: of the run when the syncer
    was there again, one a restart; `exported`: when models lay on disk."""

    code: int
    said: str
    summary: dict[str, Any]
    killed: list[float] = field(default_factory=list)
    published: list[float] = field(default_factory=list)
    exported: list[float] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    struck: list[FaultNote] = field(default_factory=list)

    @property
    def learners(self) -> list[dict[str, Any]]:
        """Of the summary, those that told of their steps."""
        return [one for one in self.summary.get("per_learner", ()) if one["median_step_s"]]

    @property
    def gap(self) -> float:
        """The longest between two steps, in median steps: the worst learner's."""
        return max((float(one["max_gap_ratio"]) for one in self.learners), default=float("nan"))

    @property
    def hook(self) -> float:
        """The longest time in a step hook, in median steps: the worst learner's."""
        return max((one["max_hook_s"] / one["median_step_s"] for one in self.learners), default=float("nan"))

    @property
    def step_s(self) -> float:
        """A median step of a median learner."""
        return statistics.median([one["median_step_s"] for one in self.learners])

    @property
    def generations(self) -> int:
        """The most that a learner had."""
        return max((one["generations"] for one in self.summary.get("per_learner", ())), default=0)

    def lost(self, *, but: tuple[str, ...] = ("overlap",), learners: tuple[int, ...] | None = None) -> float:
        """Tokens that were lost by other causes, of those learners (none: of all)."""
        return sum(tokens for one in self.summary["per_learner"] if learners is None or one["learner"] in learners
                   for cause, tokens in one["lost_by_cause"].items() if cause not in but)  # fmt: skip

    @property
    def exact(self) -> bool:
        """Whether every token is accounted for, and none pending."""
        ledger = self.summary["ledger"]
        return bool(ledger["processed"] == ledger["merged"] + ledger["lost"] and ledger["pending"] == 0)

    def recoveries(self) -> list[float]:
        """Seconds from each death of the syncer to the next version; deaths after the last one are left out."""
        last = max(self.published, default=0.0)
        return [min(t for t in self.published if t > at) - at for at in self.killed if at < last]


class Watched:
    """`with Watched(run_dir, options, guardian) as run: ...; outcome = run.outcome()`. A run that is there is removed, unless
    `--resume` is among the options. `step_s`: about how long a step takes."""

    step_s = 0.2

    def __init__(self, run_dir: Path, options: list[str], guardian: Guardian, chaos: str = "") -> None:
        if "--resume" not in options:
            shutil.rmtree(run_dir, ignore_errors=True)
        self.run_dir = run_dir
        self.state = RunState()
        self.events: list[str] = []
        command = [sys.executable, "-m", "skerry.cli", "train", "--syncer.run-dir", str(run_dir), *options]
        if chaos:
            command += ["--chaos", chaos]
        self._tails = [Tail(run_dir / name, skip="--resume" in options) for name in ("metrics.jsonl", "faults.jsonl")]
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        self._log = run_dir.parent / f"{run_dir.name}.out"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=guardian.environment())  # fmt: skip
        self._pids: dict[int, int] = {}

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # its guardian ends the rest
        self.process.wait()

    # ------------------------------------------------------------------ while it goes on

    @property
    def alive(self) -> bool:
        """Whether the launcher runs."""
        return self.process.poll() is None

    def turn(self) -> None:
        """Look at what is new, then wait a little."""
        for tail in self._tails:
            for record in tail.new():
                self.state.take(record)
                if isinstance(record, Event):
                    self.events.append(record.event)
                elif isinstance(record, Begin):
                    self.events.append("begin")
                elif isinstance(record, Started):
                    self._pids[record.learner] = record.pid or 0
        time.sleep(TURN_S)

    def until(self, condition: Callable[[], object], patience: float = PATIENCE_S) -> bool:
        """Look on until it holds; False if the run or the patience ended first."""
        end = time.monotonic() + patience
        while not condition():
            if not self.alive or time.monotonic() > end:
                return False
            self.turn()
        return True

    def sleep(self, seconds: float) -> None:
        """Look on for so long, or until the run is over."""
        self.until(lambda: False, seconds)

    def syncer(self) -> psutil.Process | None:
        """The one that runs now."""
        return self._process(SYNCER)

    def trainer(self, learner: int) -> psutil.Process | None:
        """The one that runs now."""
        return self._process(learner)

    def agent(self, learner: int) -> psutil.Process | None:
        """The one that runs now."""
        trainer = self.trainer(learner)
        with suppress(psutil.Error):
            return next((child for child in trainer.children() if AGENT in child.cmdline()), None) if trainer else None
        return None

    def relay(self, learner: int) -> psutil.Process | None:
        """Of the learner's link, where that has one."""
        with suppress(psutil.Error):
            log = str(self.run_dir / "logs" / f"link-{learner}.log")
            for child in psutil.Process(self.process.pid).children():
                if RELAY in child.cmdline() and Path(f"/proc/{child.pid}/fd/1").resolve() == Path(log).resolve():
                    return child
        return None

    def near_the_end(self, seconds: float) -> bool:
        """Whether it has so many seconds to go, or fewer, as its steps go by."""
        budget = self.state.status.budget.steps if self.state.status else 0
        return bool(budget) and self.state.step + seconds / self.step_s >= budget

    def island(self, learner: int) -> list[psutil.Process]:
        """Trainer and agent, as far as they are there."""
        return [process for process in (self.trainer(learner), self.agent(learner)) if process]

    def _process(self, learner: int) -> psutil.Process | None:
        try:
            process = psutil.Process(self._pids.get(learner, 0))
            return process if process.ppid() == self.process.pid and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    # ------------------------------------------------------------------ when it is over

    def outcome(self, patience: float = PATIENCE_S) -> Outcome:
        """Wait for the end. What does not end is killed, and its code is that."""
        self.until(lambda: False, patience)
        if self.alive:
            print(f"{self.run_dir.name}: no end after {patience:.0f} s, {self.state.phase}, step {self.state.step}", flush=True)
            self.process.kill()
        code, said = self.process.wait(), self._log.read_text(errors="replace")
        path = self.run_dir / "summary.json"
        found = Outcome(code=code, said=said, summary=json.loads(path.read_text()) if path.exists() else {})
        for record in read(self.run_dir / "faults.jsonl"):
            if isinstance(record, Exited) and record.learner == SYNCER and record.code < 0:
                found.killed.append(record.unix)
            elif isinstance(record, FaultNote) and record.event == "strike":
                found.struck.append(record)
        asked = False
        for unix, record in dated(self.run_dir):
            if isinstance(record, Begin) and record.resumed:
                asked = True
            elif isinstance(record, Status) and asked:
                found.phases.append(record.phase)
                asked = False
            elif isinstance(record, Round):
                found.published.append(unix)
            elif isinstance(record, Event) and record.event == "export":
                found.exported.append(unix)
        return found


def dated(run_dir: Path) -> Iterator[tuple[float, Line]]:
    """What the syncer told, each record with the machine's clock; damaged ends left out."""
    began = 0.0
    for path in (*segments(run_dir / "metrics.jsonl"), run_dir / "metrics.jsonl"):
        for record in read(path):
            if isinstance(record, Begin):
                began = record.unix - record.t
            yield began + getattr(record, "t", 0.0), record


def send(process: psutil.Process | None, number: signal.Signals) -> bool:
    """A signal; False if there is nobody."""
    if process is None:
        return False
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
