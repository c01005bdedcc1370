"""The memory that trainer and agent share, and the channel between them: nothing torn, nothing lost, nobody blocked."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import Count
from skerry.core.orders import Applied, CopiedOut, CopyOut, Detach, Go, LoopLeft, Stepped, StopLoop, TakeOver
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.errors import StorageError
from skerry.exchange import RULES
from skerry.island.memory import RING, IslandMemory, Pulse
from skerry.island.orders import Attached, Channel, Greeted, Raise, pack, unpack

SHM = Path("/dev/shm")
LAYOUT = build_layout([TensorSpec(name=f"t{i}", shape=(i + 1, 7)) for i in range(6)], 3, "balanced")


@pytest.fixture
def pair():
    """The trainer's and the agent's view of one island."""
    trainer = IslandMemory.create(SHM, LAYOUT, 2)
    agent = IslandMemory(trainer.file, LAYOUT, 2, whole=True)
    agent.check()
    yield trainer, agent
    os.close(trainer.file)


def test_both_see_the_same(pair) -> None:
    trainer, agent = pair
    for fragment in range(3):
        for slot in range(2):
            for number, area in enumerate(("value", "change", "out")):
                getattr(agent, area)(slot, fragment)[:] = fragment + 10 * slot + 100 * number
                assert (getattr(trainer, area)(slot, fragment) == fragment + 10 * slot + 100 * number).all()
        agent.base(fragment)[:] = -fragment
    assert [agent.base(p)[0] for p in range(3)] == [0, -1, -2]
    assert [agent.value(1, p)[-1] for p in range(3)] == [12, 12, 12]  # one slot, whatever fragment is in it
    assert trainer.learner == -1
    agent.welcome(3, 2, 500)
    agent.set_progress(0.5)
    assert (trainer.learner, trainer.generation, trainer.first_step, trainer.progress) == (3, 2, 500, 0.5)


def test_areas_do_not_overlap(pair) -> None:
    _, agent = pair
    areas = [agent.base(p) for p in range(3)]
    areas += [getattr(agent, name)(s, 2) for name in ("value", "change", "out") for s in range(2)]
    for number, area in enumerate(areas):
        area[:] = number
    assert all((area == number).all() for number, area in enumerate(areas))


def test_step_durations_are_a_ring(pair) -> None:
    trainer, agent = pair
    assert agent.step_durations(0).size == 0
    for step in range(1, 4):
        trainer.publish(Pulse(steps=step), 10 * step)
    trainer.publish(Pulse(steps=3, tokens=1))
    assert sorted(agent.step_durations(3)) == [10, 20, 30]
    for step in range(4, RING + 4):
        trainer.publish(Pulse(steps=step), step)
    assert sorted(agent.step_durations(RING + 3)) == list(range(4, RING + 4))
    assert agent.pulse().steps == RING + 3


WRITER = """
import sys
from skerry.core.layout import Layout
from skerry.island.memory import IslandMemory, Pulse
memory = IslandMemory(int(sys.argv[1]), Layout.from_json(sys.argv[2]), 2, whole=True)
n = memory.pulse().steps
while True:
    n += 1
    memory.publish(Pulse(*[n] * 7, float(n)), n)
    memory.commit([n] * 40)
"""


@pytest.mark.processes
def test_a_kill_at_any_instant_tears_nothing(pair) -> None:
    """Counters and state are read while they are written, and after the writer was killed: all of a kind, never mixed."""
    trainer, _ = pair
    last = 0
    for round_ in range(4):
        command = [sys.executable, "-c", WRITER, str(trainer.file), LAYOUT.to_json()]
        writer = subprocess.Popen(command, pass_fds=(trainer.file,))
        try:
            while trainer.pulse().steps < last + 3000 + 777 * round_:
                pulse = trainer.pulse()
                assert len(set(pulse)) == 1
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        pulse, state = trainer.pulse(), trainer.committed()
        assert len(set(pulse)) == 1 and len(state) == 40 and len(set(state)) == 1
        assert state[0] in (pulse.steps, pulse.steps - 1)
        last = pulse.steps


def test_applied_marks(pair) -> None:
    trainer, agent = pair
    agent.clear_applied(1)
    assert agent.applied(1) is None
    trainer.set_applied(1, Count(4, 5, 6))
    assert agent.applied(1) == Count(4, 5, 6) and agent.applied(0) is None
    agent.clear_applied(1)
    assert agent.applied(1) is None


def test_too_little_room_is_said_on_creation() -> None:
    huge = build_layout([TensorSpec(name="t", shape=(10**14,))], 1, "balanced")
    with pytest.raises(StorageError, match=r"cannot reserve .* MB of shared memory in /dev/shm.*shm_dir"):
        IslandMemory.create(SHM, huge, 1)
    with pytest.raises(StorageError, match="No such file"):
        IslandMemory.create(SHM / "nowhere", LAYOUT, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StorageError, match="File too large"):
            IslandMemory.create(SHM, LAYOUT, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(SHM.glob("skerry-*"))


def test_no_name_is_left_behind(pair) -> None:
    assert not list(SHM.glob("skerry-*"))


def test_slots() -> None:
    assert Policy().slots == 6
    assert preset("diloco").slots == 1
    assert Policy(fragments=24, overlap=5).slots == 12


COUNT = Count(3, 2**40, 2**50)


@pytest.mark.parametrize("message", [
    Stepped(count=COUNT, progress=1 / 3), LoopLeft(count=COUNT), Attached(count=COUNT, progress=0.7),
    CopiedOut(fragment=2, step=-1, count=COUNT), Applied(fragment=0, version=2**33, count=COUNT),
    CopyOut(fragment=5, step=77), CopyOut(fragment=0, step=-2, at=2**40), Go(steps=0), StopLoop(), Detach(),
    *(TakeOver(fragment=1, version=4, rule=rule, included=rule != "carry", step=2**35) for rule in RULES),
    TakeOver(fragment=1, version=4, rule="rebase", included=True, step=9, until=COUNT, at=12),
    TakeOver(fragment=1, version=4, rule="rebase", included=True, step=9, until=Count()),
    Greeted(policy='{"a": 1}', run_id="r"), Raise(error="RefusedError", message="é", remedy="", code="token"),
])  # fmt: skip
def test_messages_keep_their_meaning(message) -> None:
    back, slot = unpack(pack(message, 7))
    assert back == message
    assert slot == (-1 if isinstance(message, Greeted | Raise) else 7)


def _ends() -> tuple[Channel, Channel]:
    ours, theirs = Channel.pair()
    return ours, Channel(theirs)


def test_a_peer_that_does_not_read_blocks_nobody_and_loses_nothing() -> None:
    trainer, agent = _ends()
    for n in range(3000):
        trainer.post(Stepped(count=Count(n, n, n)))
        if n % 1000 == 999:
            trainer.post(Applied(fragment=0, version=n, count=Count(n, n, n)), 1)
    heard = []
    while not trainer.flush() or (got := agent.receive()) is not None:
        got = agent.receive() if not trainer.flush() else got
        if got is not None:
            heard.append(got[0])
    assert [m.version for m in heard if isinstance(m, Applied)] == [999, 1999, 2999]
    steps = [m.count.steps for m in heard if isinstance(m, Stepped)]
    assert steps == sorted(steps) and len(steps) < 3000 and steps[-1] == 2999
    for end in (trainer, agent):
        end.close()


def test_a_dead_peer_takes_nothing() -> None:
    trainer, agent = _ends()
    agent.close()
    for n in range(10):
        trainer.post(Stepped(count=Count(n, n, n)))
    assert trainer.receive() is None and trainer.closed
    trainer.close()


def test_closing_is_seen_even_if_a_forked_child_holds_the_socket() -> None:
    trainer, agent = _ends()
    held = os.dup(trainer.socket.fileno())
    trainer.post(StopLoop())
    trainer.close()
    assert agent.receive() == (StopLoop(), -1)
    assert agent.receive() is None and agent.closed
    os.close(held)
    agent.close()


def test_a_file_travels() -> None:
    trainer, agent = _ends()
    memory = IslandMemory.create(SHM, LAYOUT, 2)
    memory.value(0, 0)[:] = 4.0
    trainer.post_file(Attached(count=COUNT), memory.file)
    trainer.post(LoopLeft(count=COUNT))
    message, file = agent.receive_file()
    assert message == Attached(count=COUNT)
    other = IslandMemory(file, LAYOUT, 2, whole=True)
    other.check()
    assert np.all(other.value(0, 0) == 4.0)
    assert agent.receive() == (LoopLeft(count=COUNT), -1)
    os.close(file)
    os.close(memory.file)
    for end in (trainer, agent):
        end.close()


def test_what_stands_in_line_goes_together_and_in_order() -> None:
    trainer, agent = _ends()
    sent = [Stepped(count=COUNT), CopiedOut(fragment=1, step=2, count=COUNT), StopLoop(), Greeted(policy="x" * 34, run_id=""),
            *(Applied(fragment=0, version=n, count=COUNT) for n in range(150)), Detach()]  # fmt: skip
    for message in sent:
        trainer.line_up(message, 1)
    assert agent.receive() is None
    assert trainer.flush()
    packets = 0
    while sent:
        packets += bool(not agent._come)
        assert agent.receive()[0] == sent.pop(0)
    assert packets == 5  # before the text, the text, and what comes after it by 64
    assert agent.receive() is None
    for end in (trainer, agent):
        end.close()
