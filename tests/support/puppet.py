"""Learners for tests of the syncer: real links, the real LearnerCore and driver, and a trainer that is a few lines of numpy.

`Raw` is a link and what came over it; `Puppet` is an honest learner on top of it, which makes a step when it is told to.
All of them live in the test's own event loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Count, Delivery, Refused
from skerry.core.orders import (
    Applied,
    CopiedOut,
    CopyOut,
    Detach,
    Go,
    Linked,
    LoopLeft,
    Reject,
    Stepped,
    StopLoop,
    TakeOver,
    Unlinked,
    Warn,
)
from skerry.core.policy import Policy
from skerry.drive.learner import LearnerDriver
from skerry.exchange import Exchange, change
from skerry.fabric.client import connect
from skerry.fabric.link import Link
from skerry.fabric.messages import LayoutText, Vitals
from skerry.fabric.tokens import Token
from skerry.syncer.config import SyncerConfig
from skerry.syncer.server import Server

torch.set_num_threads(1)
TOKEN = Token(b"a token for the syncer's tests")
PATIENCE = 240.0  # seconds after which a test gives up; nothing waits so long when all is well, with busy neighbours neither


def small_layout(policy: Policy, width: int = 40) -> Layout:
    """One embedding, and matrices enough for the policy's fragments."""
    specs = [TensorSpec(name="emb.weight", shape=(width, 8), direct=True)]
    specs += [TensorSpec(name=f"{i}.weight", shape=(width, width)) for i in range(max(2, policy.fragments))]
    return build_layout(specs, policy.fragments, policy.fragmentation)


async def until(true: Callable[[], Any]) -> None:
    """Let the others work until something is true."""
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < give_up, "did not come to pass"
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(run_dir: Path, policy: Policy, **config: Any):
    """A syncer in this event loop. `server.outcome`: the task that is its life."""
    token_file = run_dir.parent / f"{run_dir.name}.token"
    token_file.write_bytes(TOKEN.secret)
    server = Server(SyncerConfig(run_dir=run_dir, token_file=token_file, log="json", **config), policy)
    server.outcome = asyncio.create_task(server.serve(signals=False))
    await until(lambda: server.outcome.done() or ((run_dir / "address").exists() and hasattr(server, "_listener")))
    if server.outcome.done():
        server.outcome.result()
    server.address = str(server._listener.address)
    try:
        yield server
    finally:
        if not server.outcome.done():
            server._signalled(0)
        await server.outcome


class Raw:
    """A link with the syncer. `got`: all messages, in order of arrival; bodies of Deliveries are in `bodies`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.got: list[Any] = []
        self.bodies: list[tuple[Delivery, memoryview]] = []
        self.reading = True  # deliveries
        self.link: Link | None = None
        self.token: Token | None = None  # another than the tests' own
        self.ended: str | None = None

    async def connect(self, address: str, run: str = "") -> None:
        self.ended = None
        self.link = await connect(address, token=self.token or TOKEN, handler=self, run=run)

    async def tell_layout(self, **more: Any) -> None:
        about = {"layout": json.loads(self.layout.to_json()), "aliases": {}, "config": {"kind": "test"}, **more}
        await self.link.send_bulk(LayoutText(hash=self.layout.hash), json.dumps(about).encode())

    def all(self, cls: type) -> list[Any]:
        return [message for message in self.got if isinstance(message, cls)]

    async def one(self, cls: type, number: int = 0) -> Any:
        await until(lambda: len(self.all(cls)) > number or self.ended is not None)
        assert len(self.all(cls)) > number, f"the link ended: {self.ended}; got {self.got}"
        return self.all(cls)[number]

    async def end(self) -> None:
        self.link.close()
        await until(lambda: self.ended is not None)

    def on_message(self, link: Link, message: Any) -> None:
        self.got.append(message)

    def bulk_buffer(self, link: Link, message: Delivery, nbytes: int) -> memoryview | None:
        return memoryview(bytearray(nbytes)) if self.reading else None

    def on_bulk(self, link: Link, message: Delivery, buffer: memoryview) -> None:
        self.bodies.append((message, buffer))
        self.got.append(message)

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_closed(self, link: Link, reason: str) -> None:
        if link is self.link:
            self.ended = reason


class Puppet(Raw):
    """An honest learner, made of a LearnerDriver: its Holdings of arrays, its Trainer and its Uplink."""

    def __init__(self, policy: Policy, layout: Layout, learner: int = -1, seed: int = 0, values: Any = None) -> None:
        """`values`: theta at first, instead of random ones; not copied."""
        super().__init__(layout)
        self.policy = policy
        self.memory = LearnerMemory.empty(policy.fragments, learner)
        self.rng = np.random.default_rng(seed)
        self.theta = self.rng.normal(size=layout.total).astype(np.float32) if values is None else values
        self.base = np.zeros_like(self.theta)
        self.places = [slice(a, a + n) for a, n in zip(layout.offsets, layout.sizes, strict=True)]
        self.exchange = Exchange(policy, layout, {tensor.name: "float32" for tensor in layout.tensors})
        self.count = Count()
        self.begun = self.done = self.stopped = self.over = False
        self.spoil: Callable[[int, np.ndarray], None] = lambda fragment, copy: None
        self._orders: deque[tuple[CopyOut | TakeOver, Any]] = deque()
        self._sending: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self.core = LearnerCore(policy, layout, self.memory)
        self.driver = LearnerDriver(self.core, self, self, self)
        self.driver.begin(time.monotonic(), Stepped(count=self.count))

    async def join(self, address: str, run: str = "") -> None:
        await self.connect(address, run)
        self._sending = asyncio.Queue()
        self._tasks.append(asyncio.create_task(self._send(self.link, self._sending)))
        self.feed(Linked())
        about = {"layout": json.loads(self.layout.to_json()), "aliases": {}, "config": {"kind": "test"}}
        self._sending.put_nowait((LayoutText(hash=self.layout.hash), json.dumps(about).encode()))

    async def _send(self, link: Link, bodies: asyncio.Queue) -> None:
        while not link.closed:
            message, body = await bodies.get()
            if not self.driver.wants(message):
                continue
            try:
                await link.send_bulk(message, body)
            except ConnectionError:
                return

    async def leave(self) -> None:
        """Let go of the link; nothing is said."""
        await self.end()
        for task in self._tasks:
            task.cancel()

    def feed(self, event: Any, came: Any = None) -> None:
        self.driver.feed(time.monotonic(), event, came)
        if not self.begun or self.stopped:
            self.obey()

    # ------------------------------------------------------------------ fabric.link.Handler

    def on_message(self, link: Link, message: Any) -> None:
        super().on_message(link, message)
        self.feed(message)

    def on_bulk(self, link: Link, message: Delivery, buffer: memoryview) -> None:
        super().on_bulk(link, message, buffer)
        self.feed(message, self.decoded(message.fragment, buffer))

    def on_closed(self, link: Link, reason: str) -> None:
        super().on_closed(link, reason)
        if link is self.link:
            self.feed(Unlinked())

    # ------------------------------------------------------------------ drive.learner.Uplink

    def send(self, message: Any) -> None:
        if not self.ended:
            self.link.send(message)

    def send_body(self, message: Any, body: Any) -> None:
        self._sending.put_nowait((message, body))

    # ------------------------------------------------------------------ drive.learner.Holdings

    def decoded(self, fragment: int, body: memoryview) -> np.ndarray:
        value = np.empty(self.layout.sizes[fragment], np.float32)
        self.exchange.decode(fragment, body, value)
        return value

    def encode(self, fragment: int, copy: np.ndarray) -> tuple[Any, np.ndarray]:
        self.spoil(fragment, copy)
        return self.exchange.hand_over(self.base[self.places[fragment]], copy), copy

    def initial(self, fragment: int, copy: np.ndarray) -> bytes:
        return copy.tobytes()

    def prepare(self, order: TakeOver, value: np.ndarray, kept: np.ndarray | None) -> tuple[Any, Any]:
        return value, change(order.rule, value, self.base[self.places[order.fragment]], kept)

    def follow(self, fragment: int, value: np.ndarray) -> None:
        self.base[self.places[fragment]] = value

    def free_copy(self, copy: Any) -> None: ...

    def free(self, value: Any) -> None: ...

    def commit(self, memory: LearnerMemory, redos: Any) -> None: ...

    def show(self, progress: float, falls: bool) -> None: ...

    def introduce(self, learner: int, generation: int, first_step: int) -> None: ...

    def redos(self) -> tuple[()]:
        """Its agent never dies alone."""
        return ()

    def applied(self, redo: Any) -> None: ...

    # ------------------------------------------------------------------ drive.learner.Trainer

    def copy_out(self, order: CopyOut) -> None:
        self._orders.append((order, None))

    def take_over(self, order: TakeOver, ready: Any) -> None:
        self._orders.append((order, ready))

    def go(self, order: Go) -> None:
        self.begun = True

    def stop_loop(self, order: StopLoop) -> None:
        self.done = True

    def detach(self, order: Detach) -> None:
        self.over = True
        self.link.close()

    def reject(self, action: Reject) -> None:
        self.link.close()

    def warn(self, action: Warn) -> None: ...

    def step(self, tokens: int = 64) -> None:
        """A step; then the orders."""
        assert self.begun and not self.done
        self.learn()
        self.count = Count(self.count.steps + 1, self.count.tokens + tokens, self.count.busy_us + 1000)
        self.obey()
        self.feed(Stepped(count=self.count))

    def learn(self) -> None:
        """Towards zero, with noise."""
        self.theta += -0.05 * self.theta + self.rng.normal(size=self.theta.size, scale=0.01).astype(np.float32)

    def stop(self) -> None:
        """The training loop is left."""
        self.stopped = True
        self.obey()
        self.feed(LoopLeft(count=self.count))

    def obey(self) -> None:
        while self._orders:
            order, ready = self._orders.popleft()
            if isinstance(order, CopyOut):
                self.feed(CopiedOut(fragment=order.fragment, step=order.step, count=self.count), self.copied(order.fragment))
            else:
                self.assume(order, *ready)
                self.feed(Applied(fragment=order.fragment, version=order.version, count=self.count))

    def copied(self, fragment: int) -> np.ndarray:
        return self.theta[self.places[fragment]].copy()

    def assume(self, order: TakeOver, value: np.ndarray, added: np.ndarray | None) -> None:
        """Take the value over."""
        share = self.policy.blend if order.rule == "blend" else 1.0
        theta = self.theta[self.places[order.fragment]]
        theta[:] = share * value + (1 - share) * theta if added is None else theta + added

    # ------------------------------------------------------------------ what tests look at

    @property
    def ahead(self) -> bool:
        """It has made H steps and more since a hand-over that is not settled: the syncer is slow at the moment."""
        open_ = [message.until.steps for message in self.core.handed]
        return bool(open_) and self.count.steps - self.memory.origin.steps - min(open_) >= self.policy.interval

    def vitals(self, **more: Any) -> Vitals:
        return Vitals(learner=self.memory.learner, generation=self.memory.generation, median_step_us=1000, max_gap_us=2000,
                      max_hook_us=10, hook_us=5 * self.count.steps, span_us=1000 * self.count.steps, **more)  # fmt: skip


async def train(puppets: list[Puppet], enough: Callable[[], Any], pace: Callable[[], bool] = lambda: True) -> None:
    """All of them make steps, as fast as the loop lets them, until it is enough; only while `pace` says so."""
    give_up = time.monotonic() + PATIENCE
    while not enough():
        assert time.monotonic() < give_up, "did not come to pass"
        for puppet in puppets:
            if puppet.begun and not puppet.done and not puppet.ended:
                if pace():
                    puppet.step()
            elif puppet.done and not puppet.stopped:
                puppet.stop()
        await asyncio.sleep(0.001)


__all__ = ["PATIENCE", "TOKEN", "Puppet", "Raw", "Refused", "running", "small_layout", "train", "until"]
