"""SIGKILL, SIGSTOP and Ctrl-C for trainers and agents: the other is well, nothing is lost, nothing is left behind."""

from __future__ import annotations

import os
import resource
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from skerry.core.messages import Ask, BudgetReached, Contribution, Join, Leave, Report, TakenOver, Verdict, Welcome
from skerry.core.policy import Policy
from skerry.core.presets import preset

pytestmark = pytest.mark.processes
POLICY = Policy(fragments=2, interval=2, overlap=1, steps=1000, codec_up="fp32")
SCRIPT = Path(__file__).parent / "trainer_script.py"
LONGEST_HOOK = 50_000_000  # ns


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(50 + i, 3)) for i in range(2)})


def welcome_back(it) -> Join:
    """The next agent joins as the same generation."""
    join, _ = it.until(Join)
    it.syncer.send(Welcome(learner=join.learner, generation=join.generation, clock=0, first_step=0, progress=0.3))
    return join


# ---------------------------------------------------------------- the agent


def test_a_killed_agent_is_not_noticed_and_loses_nothing(island) -> None:
    it = island(model(), POLICY)
    it.step(3)
    it.syncer.send(Ask(fragment=0, step=2, progress=0.1))
    first, _ = it.until(Contribution)
    agent = it.agent
    agent.kill()
    join = welcome_back(it)
    assert it.agent.pid != agent.pid and not agent.is_running()
    assert (join.learner, join.generation, join.bases) == (0, 1, (0, 0))
    assert join.count.steps > first.until.steps and join.count.tokens == 3 * join.count.steps
    it.syncer.send(Ask(fragment=0, step=6, progress=0.1))
    second, body = it.until(Contribution)
    assert second.since == first.since and second.base == first.base  # unanswered: its work is handed over again
    assert np.allclose(np.frombuffer(body, np.float32), 0.125 * second.until.steps, atol=1e-4)
    it.syncer.deliver(0, 1, np.zeros(it.syncer.layout.sizes[0]), step=6, merged=second.until.tokens)
    moved, _ = it.until(TakenOver, lambda m: m.version == 1)
    assert moved.settled.steps >= second.until.steps


class Hooks:
    """What each hook of an island takes by itself, in ns. A busy neighbour takes the core away, and that is no delay of ours:
    it leaves the thread's own CPU time as it is. Whoever waits in a hook gives the core away by himself, and the kernel counts
    that: of such a hook all its time counts."""

    def __init__(self, it) -> None:
        self.took: list[int] = []
        self._boundary, self._cross = it.learner._boundary, it.learner._boundary.cross
        self._boundary.cross = self._measured

    def _measured(self, tokens: int, loss: float) -> None:
        given, cpu, wall = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time_ns(), time.monotonic_ns()
        self._cross(tokens, loss)
        cpu, wall = time.thread_time_ns() - cpu, time.monotonic_ns() - wall
        waited = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw > given
        self.took.append(wall if waited else cpu)

    def check(self) -> None:
        """None of them is long, and most are short."""
        assert max(self.took) < LONGEST_HOOK, f"{max(self.took) / 1e6} ms"
        assert statistics.median(self.took) < 1e6


def test_steps_are_not_delayed_while_an_agent_is_replaced(island) -> None:
    it = island(model(), POLICY)
    it.step(20)
    hooks = Hooks(it)
    for _ in range(3):
        it.agent.kill()
        welcome_back(it)
    assert len(hooks.took) > 20
    hooks.check()


@pytest.mark.parametrize("delay", [lambda: time.sleep(0.06), lambda: spin(0.06)], ids=["waits", "works"])
def test_a_single_long_hook_of_many_is_seen(island, delay) -> None:
    """What the two tests beside this one rest on."""
    it = island(model(), POLICY)
    hooks, boundary = Hooks(it), it.learner._boundary
    publish, late = boundary._publish, iter([False] * 70 + [True] + [False] * 1000)

    def now_and_then(*args) -> None:
        publish(*args)
        if next(late):
            delay()

    boundary._publish = now_and_then
    it.step(70)
    hooks.check()
    it.step(30)
    assert sum(took >= 0.06e9 for took in hooks.took) == 1
    with pytest.raises(AssertionError, match="ms"):
        hooks.check()


def spin(seconds: float) -> None:
    """Be busy so long."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("rule", ["overwrite", "carry", "rebase", "blend"])
def test_what_was_taken_over_while_the_agent_was_dying_is_known_to_the_next(island, rule) -> None:
    """The agent is stopped with its order posted; the trainer carries it out; the agent is killed before it hears of it."""
    included = rule != "carry"
    it = island(model(), POLICY.replace(**{"on_included" if included else "on_excluded": rule}))
    it.step(3)
    it.syncer.send(Ask(fragment=1, step=2, progress=0.1))
    hand, _ = it.until(Contribution)
    agent, boundary = it.agent, it.learner._boundary
    if not included:
        it.syncer.send(Verdict(learner=0, generation=1, fragment=1, step=2, verdict="late"))
    value = np.full(it.syncer.layout.sizes[1], 4.0, np.float32)
    it.syncer.deliver(1, 1, value, step=2, merged=hand.until.tokens if included else 0)
    deadline = time.monotonic() + 20
    while not boundary.memory.committed()[6 + 2 + 6 :]:  # the order is committed, so it is (about to be) posted
        assert time.monotonic() < deadline
    select_readable(boundary._channel.socket)
    agent.suspend()
    it.step()
    at = it.learner.step
    it.step(2)
    agent.kill()
    join = welcome_back(it)
    assert join.bases == (0, 1)
    settled = join.settled[1]
    assert settled.steps == {"carry": 0, "rebase": hand.until.steps}.get(rule, at)
    it.syncer.send(Ask(fragment=1, step=6, progress=0.1))
    again, body = it.until(Contribution)
    assert again.base == 1 and again.since == settled
    made = it.learner.step - again.until.steps
    assert np.allclose(np.frombuffer(body, np.float32), value - (it.fragment(1) + 0.125 * made), atol=1e-4)


def select_readable(sock) -> None:
    """Wait until a message lies in the socket."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(20_000)


def test_an_order_that_was_never_carried_out_is_forgotten(island) -> None:
    it = island(model(), POLICY)
    it.step(3)
    agent, boundary = it.agent, it.learner._boundary
    value = np.full(it.syncer.layout.sizes[1], 4.0, np.float32)
    it.syncer.deliver(1, 1, value, step=2)
    select_readable(boundary._channel.socket)
    agent.kill()
    while it.learner._supervisor.agent_pid == agent.pid or not it.learner._supervisor._news.is_set():
        time.sleep(0.01)
    join = welcome_back(it)
    assert join.bases == (0, 0)
    assert it.fragment(1).max() < 4.0
    it.syncer.deliver(1, 1, value, step=2)
    assert it.until(TakenOver, lambda m: m.version == 1)[0].fragment == 1


def test_a_stopped_agent_delays_nobody(island) -> None:
    """Its channel fills up; the trainer goes on; when it runs again it hears the newest count."""
    it = island(model(), POLICY)
    it.step(5)
    it.agent.suspend()
    it.step(1000)
    hooks = Hooks(it)
    it.step(2000)
    hooks.check()
    it.agent.resume()
    steps = it.learner.step
    it.until(Report, lambda m: m.count.steps >= steps)
    assert it.learner._supervisor.agent_pid == it.agent.pid


def test_an_agent_killed_before_the_run_begins(scripted, token_file, tmp_path) -> None:
    """At any stage of the beginning."""
    import skerry

    syncer = scripted(POLICY)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    learner = skerry.Learner(net, optimizer, syncer=syncer.address, token_file=token_file)

    def begin() -> None:
        syncer.wait_for(Join)  # the memory is shared; nobody is welcomed
        psutil.Process(learner._supervisor.agent_pid).kill()
        syncer.begin()

    with ThreadPoolExecutor(1) as other:
        begun = other.submit(begin)
        with learner:
            begun.result()
            assert learner.id == 0


def test_repeated_agent_deaths_under_training(island) -> None:
    """Agents die at random moments of a busy exchange: contributions follow one another without a gap or an overlap."""
    rng = np.random.default_rng(11)
    it = island(model(), POLICY.replace(on_included="rebase"))
    covered, versions, step = [0, 0], [0, 0], 2
    for round_ in range(16):
        p = round_ % 2
        if round_ % 8 == 7:
            it.step(int(rng.integers(0, 4)))
            it.agent.kill()
            welcome_back(it)
        step += 2
        it.step(1)
        it.syncer.send(Ask(fragment=p, step=step, progress=0.1))
        message, body = it.until(Contribution, lambda m, step=step: m.step == step)
        assert message.base == versions[p]
        assert covered[p] <= message.since.tokens < message.until.tokens
        assert np.isfinite(np.frombuffer(body, np.float32)).all()
        versions[p] += 1
        covered[p] = message.until.tokens
        it.syncer.deliver(p, versions[p], np.zeros(it.syncer.layout.sizes[p]), step=step, merged=message.until.tokens)
        if round_ % 8 != 6:
            it.until(TakenOver, lambda m, v=versions[p], p=p: m.version == v and m.fragment == p)
        else:  # the agent dies with the delivery under way; the syncer would send it again
            it.agent.kill()
            join = welcome_back(it)
            if join.bases[p] < versions[p]:
                it.syncer.deliver(p, versions[p], np.zeros(it.syncer.layout.sizes[p]), step=step, merged=message.until.tokens)
                it.until(TakenOver, lambda m, v=versions[p], p=p: m.version == v and m.fragment == p)


# ---------------------------------------------------------------- the trainer


class Trainer:
    """trainer_script.py in a process of its own."""

    def __init__(self, syncer, token_file: Path, *more: str) -> None:
        self.errors = token_file.parent / "stderr"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen([sys.executable, str(SCRIPT), syncer.address, str(token_file), *more],
                                            stdout=subprocess.PIPE, stderr=errors, text=True)  # fmt: skip
        self.syncer = syncer
        syncer.begin()
        self.children = [int(pid) for pid in self.line().split()[1:]]
        self.syncer.wait_for(Report, lambda m: m.count.steps > 5)
        self.agent = next(c for c in psutil.Process(self.process.pid).children() if "skerry.learner.agent" in c.cmdline())

    def line(self) -> str:
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([self.agent], timeout=10)


@pytest.fixture
def trainer(scripted, token_file) -> Iterator[Callable[..., Trainer]]:
    made: list[Trainer] = []

    def make(policy: Policy, *more: str) -> Trainer:
        made.append(Trainer(scripted(policy), token_file, *more))
        return made[-1]

    yield make
    for each in made:
        each.end()
        assert not each.agent.is_running()


@pytest.mark.parametrize("more", [(), ("fork",)])
def test_a_killed_trainer_is_counted_to_its_last_step(trainer, more) -> None:
    it = trainer(POLICY, *more)
    it.process.kill()
    it.process.wait()
    leave, _ = it.syncer.wait_for(Leave)
    assert leave.count.steps >= it.syncer.reports[-1].count.steps and leave.count.tokens == 3 * leave.count.steps
    it.agent.wait(10)


def test_ctrl_c_leaves(trainer) -> None:
    it = trainer(POLICY)
    it.process.send_signal(signal.SIGINT)
    steps = int(it.line().split()[1])
    leave, _ = it.syncer.wait_for(Leave)
    assert leave.count.steps == steps
    it.process.wait(10)
    it.agent.wait(10)
    assert "KeyboardInterrupt" in it.errors.read_text() and "asyncio" not in it.errors.read_text()


def test_ctrl_c_in_the_last_round_leaves(trainer) -> None:
    it = trainer(POLICY)
    it.syncer.send(BudgetReached())
    it.line()
    it.process.send_signal(signal.SIGINT)
    it.process.wait(10)
    it.agent.wait(10)


def test_a_frozen_island_counts_no_time(trainer) -> None:
    """Both processes are stopped for a while: the time is no step's, and the link is as it was."""
    it = trainer(POLICY)
    before = it.syncer.reports[-1].count
    for process in (it.process, it.agent):
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2.0)  # nothing to wait for: time itself is the matter
    for process in (it.agent, it.process):
        os.kill(process.pid, signal.SIGCONT)
    after, _ = it.syncer.wait_for(Report, lambda m: m.count.steps > before.steps + 50)
    busy = after.count.busy_us - before.busy_us
    assert busy < 1.2e6, busy
    vitals = it.syncer.vitals[-1]
    assert vitals.max_gap_us < 0.6e6


# ---------------------------------------------------------------- synchronous policies


def test_synchronous_goes_on_after_the_agent_is_killed(island) -> None:
    """It dies while the trainer waits for its round: the trainer is not stuck, the round's value is taken over."""
    policy = preset("diloco", interval=2, codec_up="fp32", steps=100)
    it = island(model(), policy)
    theta = it.fragment(0)
    boundary = it.learner._boundary
    it.step()

    def serve() -> Contribution:
        message, body = it.syncer.wait_for(Contribution)
        it.agent.kill()
        join, _ = it.syncer.wait_for(Join)
        assert (join.generation, join.count.steps) == (1, 2)
        it.syncer.send(Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0.1))
        assert np.allclose(np.frombuffer(body, np.float32), 0.25, atol=1e-5)
        it.syncer.deliver(0, 1, theta - 0.25, step=message.step, merged=message.until.tokens)
        return message

    def round_of(version: int) -> None:
        message, _ = it.syncer.wait_for(Contribution)
        assert message.base == version - 1
        it.syncer.deliver(0, version, theta, step=message.step, merged=message.until.tokens)

    with ThreadPoolExecutor(1) as other:
        served = other.submit(serve)
        it.step()
        assert boundary._all_waited > boundary._hook > 0
        assert served.result().step == 2
        it.until(TakenOver, lambda m: m.version == 1)
        steps = it.learner.step
        served = other.submit(round_of, 2)
        it.step(2 - steps % 2)
        served.result()
        assert np.array_equal(it.fragment(0), theta)
