"""The agent's link: it is made anew when it falls silent, what is said of it is what is so now, and a last word is heard."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from skerry.core.messages import Join, Leave, Report, Welcome
from skerry.core.policy import Policy
from skerry.learner.notices import EVERY, MOST, Notices
from support.relay import Relay

pytestmark = pytest.mark.processes
POLICY = Policy(fragments=2, interval=2, overlap=1, steps=100_000, codec_up="fp32")
SCRIPT = Path(__file__).with_name("trainer_script.py")


@pytest.fixture
def relay() -> Iterator[Callable[[str], Relay]]:
    """A relay on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made: list[tuple[Any, Relay]] = []

    def make(target: str) -> Relay:
        async def serve() -> Relay:
            each = Relay(target)
            server = await asyncio.start_server(each._serve, "127.0.0.1", 0)
            each.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
            made.append((server, each))
            return each

        return asyncio.run_coroutine_threadsafe(serve(), loop).result(20)

    yield make

    async def end() -> None:
        for server, each in made:
            server.close()
            await each.end()

    asyncio.run_coroutine_threadsafe(end(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def two() -> nn.Module:
    torch.manual_seed(3)
    return nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(40 + i, 3)) for i in range(2)})


class Trainer:
    """trainer_script.py, its syncer reached by `address`."""

    def __init__(self, syncer: Any, token_file: Path, address: str = "") -> None:
        self.errors = token_file.parent / "stderr"
        with self.errors.open("w") as errors:
            command = [sys.executable, str(SCRIPT), address or syncer.address, str(token_file)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        syncer.begin()
        self.process.stdout.readline()
        syncer.wait_for(Report, lambda m: m.count.steps > 5)
        self.agent = next(c for c in psutil.Process(self.process.pid).children() if "skerry.learner.agent" in c.cmdline())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        psutil.wait_procs([self.agent], timeout=60)


@pytest.fixture
def trainer(token_file: Path) -> Iterator[Callable[..., Trainer]]:
    made: list[Trainer] = []

    def make(*arguments: Any) -> Trainer:
        made.append(Trainer(arguments[0], token_file, *arguments[1:]))
        return made[-1]

    yield make
    for each in made:
        each.end()
        assert not each.agent.is_running()


def test_a_half_open_link_is_made_anew_as_the_same_generation(scripted, relay, trainer) -> None:
    syncer = scripted(POLICY)
    between = relay(syncer.address)
    it = trainer(syncer, between.address)
    between.mute_all()
    join, _ = syncer.wait_for(Join)
    assert join.generation == 1 and join.count.steps > 0
    syncer.send(Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0.0))
    syncer.wait_for(Report, lambda m: m.count.steps > join.count.steps)
    assert "nothing came on its" in it.errors.read_text()


def test_an_agent_that_was_frozen_does_not_take_its_sleep_for_silence(scripted, trainer) -> None:
    syncer = scripted(POLICY)
    it = trainer(syncer)
    it.agent.suspend()
    frozen = time.monotonic()
    while time.monotonic() < frozen + 3.0:
        time.sleep(0.1)
    it.agent.resume()
    last = syncer.reports[-1].count.steps
    syncer.wait_for(Report, lambda m: m.count.steps > last)
    assert len(syncer.links) == 1


def test_the_agent_of_a_trainer_that_died_stays_until_its_leave_is_heard(scripted, token_file, trainer) -> None:
    syncer = scripted(POLICY)
    it = trainer(syncer)
    port = syncer.listener.address.port
    syncer.stop_listening()
    it.process.kill()
    it.process.wait()
    again = scripted(POLICY, port=port)
    join, _ = again.wait_for(Join)
    again.send(Welcome(learner=0, generation=join.generation, clock=0, first_step=0, progress=0.0))
    leave, _ = again.wait_for(Leave)
    assert leave.count.steps >= syncer.reports[-1].count.steps and leave.reason == "the trainer has ended"
    it.agent.wait(30)


def test_the_agent_of_a_trainer_that_died_does_not_stay_for_ever(scripted, trainer) -> None:
    syncer = scripted(POLICY.replace(final_timeout=1.0))
    syncer.hears_leaves = False
    it = trainer(syncer)
    it.process.kill()
    it.process.wait()
    syncer.wait_for(Leave)
    it.agent.wait(30)


def test_a_budget_that_was_raised_at_a_resume_is_nothing_to_refuse(scripted, island, capfd) -> None:
    it = island(two(), POLICY)
    port = it.syncer.listener.address.port
    it.syncer.stop_listening()
    again = scripted(POLICY.replace(steps=200_000, grace=0.5), port=port)
    it.train_until(lambda: bool(again.links))
    join, _ = again.wait_for(Join)
    assert join.generation == 1


def test_another_policy_at_a_resume_is_named_at_once(scripted, island, capfd) -> None:
    it = island(two(), POLICY)
    port = it.syncer.listener.address.port
    it.syncer.stop_listening()
    said = ""

    def told(words: str) -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return words in said

    it.train_until(lambda: told("connection refused"))
    scripted(POLICY.replace(interval=4, blend=0.25), port=port)
    it.train_until(lambda: told("another policy"))
    assert "interval = 4 instead of 2, blend = 0.25 instead of 0.5" in said and "resume it with the policy" in said


def test_a_reason_that_changes_is_said_at_once_and_each_once_a_minute(capsys, monkeypatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    notices = Notices("learner 0")
    for _ in range(3):
        notices.keep_saying("link", "unreachable; going on", "unreachable")
        notices.keep_saying("link", "refused: layout; going on", "refused")
    assert capsys.readouterr().err.splitlines() == [
        "skerry: learner 0: unreachable; going on", "skerry: learner 0: refused: layout; going on"]
    clock[0] += EVERY
    notices.keep_saying("link", "unreachable; going on", "unreachable")
    for i in range(100):
        notices.keep_saying("link", f"reason {i}", f"reason {i}")
    assert len(capsys.readouterr().err.splitlines()) == MOST
    notices.over("link", "connected")
    notices.over("link", "connected")
    assert capsys.readouterr().err == "skerry: learner 0: connected\n"
