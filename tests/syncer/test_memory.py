"""The syncer's memory depends on the model and the pool, not on the number of learners."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import Delivery, Welcome
from skerry.core.orders import TakeOver
from skerry.core.policy import Policy
from skerry.fabric.link import Link
from support.puppet import Puppet, train, until
from support.syncer_process import SyncerProcess

pytestmark = pytest.mark.processes
SETTINGS = {"fragments": 8, "interval": 8, "quorum": 0, "silent_after": 60.0}
POLICY = Policy(**SETTINGS)
LAYOUT = build_layout([TensorSpec(name=f"{i}.weight", shape=(500, 1000)) for i in range(8)], 8, "balanced")
VALUES = np.ones(LAYOUT.total, np.float32)
BODY = np.full(2 * max(LAYOUT.sizes), 0x3C, np.uint8).tobytes()
SCRATCH = memoryview(bytearray(4 * max(LAYOUT.sizes)))


class Light(Puppet):
    """A learner whose values nobody looks at: all of them share the same few arrays."""

    def bulk_buffer(self, link: Link, message: Delivery, nbytes: int) -> memoryview:
        return SCRATCH[:nbytes]

    def on_bulk(self, link: Link, message: Delivery, buffer: memoryview) -> None:
        self.feed(message)

    def encode(self, fragment: int, copy: Any) -> tuple[bytes, None]:
        return BODY, None

    def prepare(self, order: TakeOver, value: None, kept: None) -> tuple[None, None]:
        return None, None

    def follow(self, fragment: int, value: None) -> None: ...

    def learn(self) -> None: ...

    def copied(self, fragment: int) -> np.ndarray:
        return self.theta[self.places[fragment]]

    def assume(self, order: TakeOver, value: None, added: None) -> None: ...


async def measure(syncer: SyncerProcess, learners: int) -> float:
    """Bytes at the peak over the idle syncer, in parameters of the model."""
    address = await syncer.ready()
    idle = syncer.peak()
    puppets = [Light(POLICY, LAYOUT, values=VALUES) for _ in range(learners)]
    for puppet in puppets:
        await puppet.join(address)
    await until(lambda: all(puppet.begun for puppet in puppets))
    await train(puppets, lambda: min(min(puppet.memory.base) for puppet in puppets) >= 2)
    assert all(puppet.all(Welcome) and not puppet.ended for puppet in puppets)
    return (syncer.peak() - idle) / LAYOUT.total


def test_four_times_as_many_learners_need_no_more_memory(tmp_path):
    need = {}
    for learners in (8, 32):
        folder = tmp_path / str(learners)
        folder.mkdir()
        with SyncerProcess(folder / "run", SETTINGS) as syncer:
            need[learners] = asyncio.run(measure(syncer, learners))
    print(f"bytes a parameter over an idle syncer: {need}")
    assert need[32] <= 1.1 * need[8]
