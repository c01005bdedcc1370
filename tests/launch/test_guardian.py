"""No process outlives its launcher: real processes, one of them frozen, one in a session of its own, one a grandchild."""

import os
import select
import signal
import subprocess
import sys

import psutil
import pytest

from skerry.launch.guardian import MARK, Guardian, end_all

LAUNCHER = """
import subprocess, sys, time
from skerry.launch.guardian import Guardian
guardian = Guardian()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
nest = [sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], start_new_session=True); "
        "print(p.pid, flush=True); p.wait()", *sleep]
children = [subprocess.Popen(sleep, env=guardian.environment(), start_new_session=own) for own in (False, True)]
nested = subprocess.Popen(nest, env=guardian.environment(), stdout=subprocess.PIPE, text=True)
grandchild = nested.stdout.readline().strip()
print(*(p.pid for p in children), nested.pid, grandchild, guardian._process.pid, flush=True)
time.sleep(600)
"""


def _gone(pid: int, seconds: float = 60.0) -> bool:
    """Wait until the process has ended (a zombie that nobody reaps counts as ended)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


@pytest.mark.processes
def test_kill_9_of_the_launcher_leaves_nothing_alive():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    *marked, guardian = (int(pid) for pid in launcher.stdout.readline().split())
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, MARK: "other"})
    try:
        assert len(marked) == 4 and all(psutil.pid_exists(pid) for pid in marked)
        os.kill(marked[0], signal.SIGSTOP)  # a frozen one
        launcher.kill()
        assert [pid for pid in [*marked, guardian] if not _gone(pid)] == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        launcher.wait()


@pytest.mark.processes
def test_a_dead_guardian_is_replaced_and_a_dismissed_one_ends():
    guardian = Guardian()
    first = guardian._process
    guardian.keep()
    assert guardian._process is first
    first.kill()
    first.wait()
    guardian.keep()
    assert guardian._process is not first
    child = subprocess.Popen(["sleep", "600"], env=guardian.environment())
    assert guardian.dismiss() == 1
    assert child.wait() == -signal.SIGKILL and guardian._process.returncode == 0


def test_nothing_is_killed_under_a_mark_nobody_bears():
    assert end_all("no such mark") == 0
