"""Processes side by side: what counts as done, what a failure is, and that nothing outlives the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from skerry.lab import jobs
from skerry.lab.jobs import Job, carry_out


class Watched:
    """Remembers what it was told; interrupts when `after` jobs have ended."""

    def __init__(self, after: int = -1) -> None:
        self.ends: dict[str, str | None] = {}
        self.most = self._now = 0
        self._after = after

    def started(self, job: Job) -> None:
        self._now += 1
        self.most = max(self.most, self._now)

    def ended(self, job: Job, failure: str | None) -> None:
        self._now -= 1
        self.ends[job.label] = failure

    def tick(self) -> None:
        if len(self.ends) == self._after:
            raise KeyboardInterrupt


def _job(folder: Path, label: str, script: str) -> Job:
    result = folder / f"{label}.json"
    command = ("/bin/sh", "-c", script.replace("RESULT", str(result)))
    return Job(label=label, command=command, result=result, log=folder / f"{label}.log")


def _carry_out(wanted: list[Job], watched: Watched, side_by_side: int = 2) -> list[str]:
    return [job.label for job in carry_out(wanted, side_by_side=side_by_side, environment=os.environ, watcher=watched)]


def test_done_is_exit_0_and_a_file(tmp_path):
    scripts = {
        "good": "echo word >&2; echo {} > RESULT", "empty": "true", "mute": "exit 3",
        "loud": "echo one >&2; echo two >&2; echo >&2; exit 1", "struck": "kill -9 $$",
    }  # fmt: skip
    watched = Watched()
    failed = _carry_out([_job(tmp_path, label, script) for label, script in scripts.items()], watched)
    assert (set(failed), watched.most) == (set(scripts) - {"good"}, 2)
    assert watched.ends == {"good": None, "empty": "exit code 0, and no word", "mute": "exit code 3, and no word",
                            "loud": "two", "struck": "ended by signal 9"}  # fmt: skip
    assert {path.stem for path in tmp_path.glob("*.log")} == set(failed)


def test_an_interrupt_ends_what_runs_and_keeps_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.2)
    watched = Watched(after=1)
    wanted = [_job(tmp_path, "stubborn", "trap '' TERM; exec sleep 1000"), _job(tmp_path, "quick", "echo {} > RESULT"),
              _job(tmp_path, "next", "echo {} > RESULT; exec sleep 1000")]  # fmt: skip
    before = psutil.Process().children(recursive=True)
    with pytest.raises(KeyboardInterrupt):
        _carry_out(wanted, watched)
    left = set(psutil.Process().children(recursive=True)) - set(before)
    assert (watched.ends, left, list(tmp_path.glob("*.log"))) == ({"quick": None}, set(), [])
    assert (tmp_path / "quick.json").exists()


def test_children_die_with_a_sweep_that_is_killed(tmp_path):
    program = f"""
import os, pathlib
from skerry.lab.jobs import Job, carry_out
class Watcher:
    def ended(self, job, failure): pass
    def tick(self): pass
    def started(self, job): print("started", flush=True)
job = Job(label="x", command=("/bin/sleep", "1000"), result=pathlib.Path("r"), log=pathlib.Path({str(tmp_path / "log")!r}))
carry_out([job], side_by_side=1, environment=os.environ, watcher=Watcher())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout and parent.stdout.readline() == "started\n"
        children = psutil.Process(parent.pid).children()
        assert [child.name() for child in children] == ["sleep"]
        parent.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=20)
        assert (len(gone), alive) == (1, [])
    finally:
        parent.kill()
        parent.communicate()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_ctrl_c_while_a_process_is_started(tmp_path, monkeypatch, moment):
    """Wherever it falls: the process is in the books, ended, and leaves no log."""
    started = []

    def start(*args, **kwargs):
        if moment == "before":
            os.kill(os.getpid(), signal.SIGINT)
        started.append(real(*args, **kwargs))
        if moment == "after":
            os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    real = subprocess.Popen
    monkeypatch.setattr(jobs.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        _carry_out([_job(tmp_path, "endless", "sleep 1000"), _job(tmp_path, "next", "sleep 1000")], Watched(), 1)
    assert [process.poll() for process in started] == [-signal.SIGTERM]
    assert (list(tmp_path.glob("*.log")), signal.getsignal(signal.SIGINT)) == ([], signal.default_int_handler)
