"""When the launcher starts a syncer again, and when no more: real processes that end as they are told, virtual time."""

import os
import subprocess
import sys

import pytest

from skerry.launch.processes import SETTLED, LaunchConfig, Process, SyncerProcess

CONFIG = LaunchConfig(restart_after=0.5, syncer_restarts=3)
pytestmark = pytest.mark.processes


class Syncer:
    """`ends(code)`: it lives until `now` and ends so (negative: by that signal)."""

    def __init__(self, folder):
        self.now, self.progress = 100.0, 0
        how = "import os, sys; n = int(sys.stdin.readline()); os.kill(os.getpid(), -n) if n < 0 else sys.exit(n)"
        self.process = Process("syncer", (sys.executable, "-c", how), folder, os.environ)
        self.held = SyncerProcess(process=self.process)

    def ends(self, code, *, lived):
        self._start()
        self.now += lived
        assert self.held.ended(self.now, CONFIG, self.progress) is None
        self.process._process.stdin.write(f"{code}\n".encode())
        self.process._process.stdin.close()
        self.process._process.wait()
        assert self.held.ended(self.now, CONFIG, self.progress) == code
        assert self.held.ended(self.now, CONFIG, self.progress) is None, "told once"
        return None if self.held.again_at is None else self.held.again_at - self.now

    def _start(self):
        if self.held.again_at is not None:
            self.now = self.held.again_at
            assert self.held.due(self.now)
        self.held.start(self.now)


@pytest.fixture
def syncer(tmp_path, monkeypatch):
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: start(*a, **{**k, "stdin": subprocess.PIPE}))
    return Syncer(tmp_path)


@pytest.mark.parametrize("code", SETTLED)
def test_a_last_word_is_heeded(syncer, code):
    assert syncer.ends(code, lived=100) is None and not syncer.held.wanted


@pytest.mark.parametrize("code", [-9, -11, 1, 134])
def test_a_death_is_not_at_once(syncer, code):
    assert syncer.ends(code, lived=100) == 0.0 and syncer.held.wanted


def test_who_dies_within_seconds_is_given_ever_longer_pauses(syncer):
    pauses = []
    for _ in range(9):
        syncer.progress += 1
        pauses.append(syncer.ends(-9, lived=1))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert syncer.ends(-9, lived=11) == 0.0
    assert syncer.ends(-9, lived=1) == 0.5


def test_so_many_deaths_without_a_new_version_are_the_end(syncer):
    for _ in range(3):
        assert syncer.ends(-11, lived=100) == 0.0
    syncer.progress += 1
    for _ in range(3):
        assert syncer.ends(-11, lived=100) == 0.0
    assert syncer.ends(-11, lived=100) is None and not syncer.held.wanted
    error = syncer.held.error()
    assert "died 4 times in a row without a new version" in str(error) and "SIGSEGV" in str(error) and error.exit_code == 1


def test_a_fault_may_keep_it_down(syncer):
    syncer.held.down_until = 250.0
    assert syncer.ends(-9, lived=100) == 50.0
