"""A learner with several addresses finds its run at the one where it is, and again where it has moved to."""

from __future__ import annotations

import socket

import pytest
from torch import nn

from skerry.core.messages import Join
from skerry.core.policy import Policy
from skerry.errors import ConfigError
from skerry.learner.config import LearnerConfig

pytestmark = pytest.mark.processes
POLICY = Policy(fragments=2, interval=2, overlap=1, steps=1000, codec_up="fp32")


@pytest.fixture
def nobody() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture
def scripted(scripted, nobody):
    """As ever, but its address is the second one of a list, whose first one nobody answers."""

    def make(policy: Policy, **more):
        syncer = scripted(policy, **more)
        syncer.address = f"127.0.0.1:{nobody},{syncer.address}"
        return syncer

    return make


def test_the_addresses_of_a_list_are_tried_in_turn(island, scripted, nobody):
    learner = island(nn.Linear(4, 4), POLICY)
    learner.syncer.stop_listening()
    learner.syncer = scripted(POLICY, port=nobody)  # the run is at the other one now
    join, _ = learner.until(Join)
    assert join.generation == 1 and join.count.steps > 0


def test_a_list_with_something_else_in_it_is_named(tmp_path):
    with pytest.raises(ConfigError, match="'elsewhere' is no address"):
        LearnerConfig(syncer="127.0.0.1:80,elsewhere", token_file=tmp_path)
