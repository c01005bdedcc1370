"""Chaos strikes real processes: stand-ins for a trainer with its agent, and the kernel's word for what became of them."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from skerry.launch.chaos import Chaos
from skerry.world.faults import Fault, FaultScript
from support.links import heard, over, relayed, silent

TRAINER = """
import subprocess, sys, time
says_when_it_is_there = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"  # its command line is empty at first
agent = subprocess.Popen([sys.executable, "-c", says_when_it_is_there, "skerry.learner.agent"], start_new_session=True)
time.sleep(600)
"""
pytestmark = pytest.mark.processes
DEAD = ("gone", psutil.STATUS_ZOMBIE)  # an orphan stays a zombie where nobody reaps it


class Island:
    """Learner 0, whose trainer passes for the syncer, too; and what was asked of the launcher."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", TRAINER], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.agent = psutil.Process(int(self.process.stdout.readline()))
        self.there = True
        self.relay: subprocess.Popen[bytes] | None = None
        self.asked: list[str] = []
        self.notes: list[str] = []

    def trainer(self, learner: int) -> int | None:
        return self.process.pid if self.there and learner == 0 and self.process.poll() is None else None

    def syncer(self) -> int | None:
        return self.trainer(0)

    def link(self, learner: int) -> int | None:
        return self.relay.pid if self.relay and self.relay.poll() is None else None

    def keep_cut(self, learner: int, seconds: float) -> None:
        self.asked.append(f"keep {learner} cut {seconds:g} s")

    def join(self, learner: int) -> None:
        self.asked.append(f"join {learner}")

    def leave(self, learner: int) -> None:
        self.asked.append(f"leave {learner}")

    def keep_down(self, learner: int, seconds: float) -> None:
        self.asked.append(f"keep {learner} down {seconds:g} s")

    def chaos(self, script: str) -> Chaos:
        return Chaos(FaultScript.parse(script), self, self._note)

    def _note(self, event: str, fault: Fault) -> None:
        self.notes.append(f"{event} {fault}")

    def states(self) -> tuple[str, str]:
        trainer = psutil.Process(self.process.pid).status() if self.process.returncode is None else "gone"
        try:
            return trainer, self.agent.status()
        except psutil.NoSuchProcess:
            return trainer, "gone"


@pytest.fixture
def island() -> Iterator[Island]:
    made = Island()
    yield made
    for process in filter(None, (made.process, made.relay)):
        process.kill()
        process.wait()
    if made.agent.is_running():
        made.agent.kill()


def test_stop_freezes_the_whole_island_and_lets_it_go(island):
    chaos = island.chaos("stop:0@1s+5s")
    assert chaos.advance(0.5) == 1
    assert chaos.advance(1.0) == 6 and island.states() == ("stopped", "stopped")
    assert chaos.advance(5.9) == 6 and island.states() == ("stopped", "stopped")
    assert chaos.advance(6.0) == float("inf") and "stopped" not in island.states()
    assert island.notes == ["strike stop:0@1s+5s", "end stop:0@1s+5s"] and not chaos.unfired


def test_kill_of_each_part(island):
    chaos = island.chaos("kill:0.agent@1s kill:0.trainer@2s")
    chaos.advance(1)
    assert island.states()[1] in DEAD and island.process.poll() is None
    chaos.advance(2)
    assert island.process.wait() == -signal.SIGKILL  # its exit status is still the launcher's to read


def test_kill_of_the_whole_island(island):
    island.chaos("kill:0@0s").advance(0)
    assert island.process.wait() == -signal.SIGKILL and island.states()[1] in DEAD
    assert not island.asked


def test_a_killed_learner_is_kept_down_for_the_duration(island):
    island.chaos("kill:0.trainer@0s+60s").advance(0)
    assert island.process.wait() == -signal.SIGKILL and island.asked == ["keep 0 down 60 s"]


def test_slow_runs_the_trainer_for_its_share(island):
    chaos = island.chaos("slow:0x0.75@0s+1s")
    now, stopped = 0.0, 0.0
    while now < 1.0:
        due = chaos.advance(now)
        state, agent = island.states()
        assert agent != "stopped"
        stopped += min(due, 1.0) - now if state == "stopped" else 0.0
        now = due
    chaos.advance(1.0)
    assert stopped == pytest.approx(0.25, abs=0.06) and island.states()[0] != "stopped"


def test_a_target_that_is_not_there_is_struck_when_it_is(island):
    chaos = island.chaos("kill:0.trainer@1s")
    island.there = False
    chaos.advance(3)
    assert [str(fault) for fault in chaos.unfired] == ["kill:0.trainer@1s"] and not island.notes
    island.there = True
    chaos.advance(4)
    assert not chaos.unfired and island.process.wait() == -signal.SIGKILL


def test_join_and_leave_are_the_launchers_to_do(island):
    island.chaos("join:7@1s leave:0@2s").advance(3)
    assert island.asked == ["join 7", "leave 0"]


def test_release_lets_go_of_everything(island):
    chaos = island.chaos("stop:0@0s+60s")
    chaos.advance(0)
    chaos.release()
    assert "stopped" not in island.states()


def test_the_syncer_is_killed_and_stopped_like_any_other(island):
    chaos = island.chaos("stop:syncer@0s+5s kill:syncer@6s+3s")
    chaos.advance(0)
    assert island.states()[0] == "stopped" and island.states()[1] != "stopped"
    chaos.advance(5)
    assert island.states()[0] != "stopped"
    chaos.advance(6)
    assert island.process.wait() == -signal.SIGKILL and island.asked == ["keep -1 down 3 s"]
    assert island.notes[-1] == "strike kill:syncer@6s+3s"


def test_a_full_disk_lets_no_file_grow_until_it_is_over(island):
    before = psutil.Process(island.process.pid).rlimit(psutil.RLIMIT_FSIZE)

    def limits():
        return [psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE)[0] for pid in (island.process.pid, island.agent.pid)]

    chaos = island.chaos("full:0@0s+5s")
    assert chaos.advance(0) <= 0.1 and limits() == [0, 0], "whoever comes meanwhile is looked for soon"
    assert chaos.advance(5) == float("inf") and limits() == [before[0]] * 2
    agent_only = island.chaos("full:0.agent@0s+60s")
    agent_only.advance(0)
    assert limits() == [before[0], 0]
    agent_only.release()
    assert limits() == [before[0]] * 2


def test_a_link_is_struck_when_both_connections_are_there(island, tmp_path):
    with relayed(tmp_path) as (relay, connect, port):
        island.relay = relay
        chaos = island.chaos("halfopen:0@0s+5s cut:0@6s+2s")
        control = connect()
        chaos.advance(1)
        assert len(chaos.unfired) == 2, "one connection alone is no link"
        bulk = connect()
        chaos.advance(1)
        assert [str(fault) for fault in chaos.unfired] == ["cut:0@6s+2s"]
        control.sendall(b"nobody hears it")
        waiting = socket.create_connection(("127.0.0.1", port))  # the kernel lets it in
        assert silent(control, bulk, waiting)
        chaos.advance(5)
        assert heard(control, len(b"nobody hears it")) == b"nobody hears it", "what waited passes on"
        chaos.advance(6)
        assert relay.wait() == -signal.SIGKILL and island.asked == ["keep 0 cut 2 s"]
        assert all(over(one) for one in (control, bulk))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        waiting.close()
