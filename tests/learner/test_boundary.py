"""The trainer's side of its island alone: the real boundary, memory and channel; the test is the agent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from skerry.core.orders import CopiedOut, CopyOut, Go, Stepped
from skerry.core.policy import Policy
from skerry.island.memory import IslandMemory
from skerry.island.orders import Attached, Channel, Greeted
from skerry.learner.boundary import Boundary
from skerry.learner.config import LearnerConfig
from skerry.learner.supervisor import Supervisor
from skerry.numerics.parameters import Parameters

POLICY = Policy(fragments=2, interval=2, overlap=1, steps=1000)


class ByHand(Supervisor):
    """Its agents are the other ends of their channels."""

    def _spawn(self) -> None:
        self._fresh, theirs = Channel.pair()
        self.agent = Channel(theirs)
        self._news.set()


class Ends:
    """Both ends of an island that trains."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(5, 3)) for i in range(2)})
        self.supervisor = ByHand(lambda: b"", print)
        config = LearnerConfig(syncer="localhost:1", token_file=Path("none"))
        self.boundary = Boundary(Parameters(model), config, self.supervisor)
        self.new_agent()
        self.agent.post(Greeted(policy=msgspec.json.encode(POLICY).decode(), run_id="r"))
        self.agent.post(Go(steps=0))
        self.boundary.join()
        self.attached()

    @property
    def agent(self) -> Channel:
        return self.supervisor.agent

    def new_agent(self) -> None:
        self.supervisor._spawn()

    def attached(self) -> Attached:
        """The trainer's first word to an agent. `memory` is the agent's view from then on."""
        message, file = self.agent.receive_file()
        self.memory = IslandMemory(file, self.boundary.memory.layout, POLICY.slots, whole=True)
        os.close(file)
        return message

    def step(self) -> list[object]:
        """What the agent is told at its end."""
        self.boundary.cross(3, 0.5)
        return [message for message, _ in iter(self.agent.receive, None)]


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.boundary.close()


def test_a_step_goes_by_the_progress_that_was_known_when_it_began_and_says_so(ends: Ends) -> None:
    (first,) = ends.step()
    assert (first.count.steps, first.progress, ends.boundary.progress) == (1, 0.0, 0.0)
    ends.memory.set_progress(0.5)  # in the middle of the second step
    assert ends.boundary.progress == 0.0
    (second,) = ends.step()
    assert second.progress == 0.0 and ends.boundary.progress == 0.5
    (third,) = ends.step()
    assert third.progress == 0.5


def test_a_new_agent_is_told_where_the_trainer_stands(ends: Ends) -> None:
    ends.memory.set_progress(0.25)
    ends.step()
    ends.step()
    ends.memory.set_progress(0.75)
    ends.new_agent()
    ends.boundary.cross(3, 0.5)
    attached = ends.attached()
    assert attached == Attached(count=ends.boundary.count, progress=0.25)
    assert ends.agent.receive()[0] == Stepped(count=attached.count, progress=0.25)


def test_an_order_is_for_the_next_boundary_or_for_the_one_that_it_names(ends: Ends) -> None:
    ends.agent.post(CopyOut(fragment=0, step=7, at=3), 0)
    ends.agent.post(CopyOut(fragment=1, step=8), 1)
    copied = [[message for message in ends.step() if isinstance(message, CopiedOut)] for _ in range(4)]
    assert [[message.step for message in each] for each in copied] == [[8], [], [7], []]
    assert copied[2][0].count.steps == 3


def test_an_order_for_this_very_boundary_is_carried_out_at_once(ends: Ends) -> None:
    ends.agent.post(CopyOut(fragment=0, step=7, at=1), 0)
    assert any(isinstance(message, CopiedOut) for message in ends.step())


def test_no_order_may_name_a_boundary_that_is_passed(ends: Ends) -> None:
    ends.step()
    ends.step()
    ends.agent.post(CopyOut(fragment=0, step=7, at=2), 0)
    with pytest.raises(AssertionError, match="passed"):
        ends.step()


def test_what_a_dead_agent_wanted_later_is_void(ends: Ends) -> None:
    ends.agent.post(CopyOut(fragment=0, step=7, at=3), 0)
    ends.step()
    ends.new_agent()
    ends.boundary.cross(3, 0.5)
    ends.attached()
    assert not any(isinstance(message, CopiedOut) for _ in range(2) for message in ends.step())
