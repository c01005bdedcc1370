"""Counterparts for the learner's tests: a syncer that a test scripts, behind the real listener on a thread of its own."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import skerry
from skerry.core.layout import Layout
from skerry.core.messages import Delivery, Farewell, Join, Leave, ProvideInitial, Report, RequestInitial, Welcome
from skerry.core.policy import Policy
from skerry.fabric.link import Link
from skerry.fabric.listener import Listener
from skerry.fabric.messages import LayoutText, Vitals
from skerry.fabric.tls import TlsConfig
from skerry.fabric.tokens import Keyring, Token

torch.set_num_threads(1)
TOKEN = "a token for the learner's tests"
PATIENCE = 30.0  # seconds that a test waits for something to happen


class ScriptedSyncer:
    """Does nothing by itself: a test takes what comes (`wait_for`) and sends what it likes (`send`, `deliver`)."""

    def __init__(self, policy: Policy, port: int = 0, run: str = "run-1", tls: TlsConfig | None = None) -> None:
        self.policy, self.run, self.tls = policy, run, tls
        self.reports: list[Report] = []
        self.vitals: list[Vitals] = []
        self.about: dict[str, Any] = {}
        self.layout: Layout | None = None
        self.values: dict[int, np.ndarray] = {}  # seeded
        self.links: list[Link] = []
        self.hears_leaves = True
        self._news: queue.Queue[tuple[Any, bytes]] = queue.Queue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.listener: Listener = self._call(self._listen(port))
        self.address = str(self.listener.address)

    async def _listen(self, port: int) -> Listener:
        return await Listener.start(self, keyring=Keyring(Token(TOKEN.encode())), run=self.run, port=port,
                                    policy=json.dumps(asdict(self.policy)), heartbeat=0.05, tls=self.tls)  # fmt: skip

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    # fabric.listener.Server and fabric.link.Handler, on the loop's thread

    def opened(self, link: Link) -> ScriptedSyncer:
        self.links.append(link)
        return self

    def refused(self, peer: str, code: str, reason: str) -> None:
        self._news.put((code, b""))

    def on_message(self, link: Link, message: Any) -> None:
        if isinstance(message, Report):
            self.reports.append(message)
        elif isinstance(message, Vitals):
            self.vitals.append(message)
        elif isinstance(message, Leave) and self.hears_leaves:
            link.send(Farewell(learner=message.learner, generation=message.generation))
        self._news.put((message, b""))

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview:
        return memoryview(bytearray(nbytes))

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None:
        self._news.put((message, bytes(buffer)))

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None: ...

    def on_closed(self, link: Link, reason: str) -> None: ...

    # for the test

    def wait_for(self, kind: type, which: Callable[[Any], bool] = lambda message: True) -> tuple[Any, bytes]:
        """The next message of that kind, and its body; others before it are skipped."""
        until = time.monotonic() + PATIENCE
        while True:
            message, body = self._news.get(timeout=max(0.0, until - time.monotonic()))
            if isinstance(message, LayoutText):
                self.about = json.loads(body)
                self.layout = Layout.from_json(json.dumps(self.about["layout"]))
            if isinstance(message, kind) and which(message):
                return message, body

    def heard(self, kind: type, which: Callable[[Any], bool], patience: float = 0.002) -> tuple[Any, bytes] | None:
        """As wait_for, but None if it has not come yet."""
        while True:
            try:
                message, body = self._news.get(timeout=patience)
            except queue.Empty:
                return None
            if isinstance(message, kind) and which(message):
                return message, body

    def send(self, message: Any) -> None:
        """To the learner that linked last."""
        self._loop.call_soon_threadsafe(self.links[-1].send, message)

    def deliver(self, fragment: int, version: int, value: np.ndarray, *, step: int = 0, merged: int = 0) -> None:
        """A Delivery in fp32."""
        message = Delivery(fragment=fragment, version=version, step=step, merged=merged, progress=0.25)
        self._call(self.links[-1].send_bulk(message, memoryview(np.ascontiguousarray(value, np.float32)).cast("B")))

    def stop_listening(self) -> None:
        """Break all links and be gone."""
        self._call(self.listener.close())

    def drop_link(self) -> None:
        """Break the link."""
        self._loop.call_soon_threadsafe(self.links[-1].close)

    def begin(self, *, learner: int = 0, generation: int = 1, first_step: int = 0) -> Join:
        """Let the first learner in, take its model, deliver it as version 0."""
        join, _ = self.wait_for(Join)
        self.send(Welcome(learner=learner, generation=generation, clock=0, first_step=first_step, progress=0.0))
        self.send(RequestInitial(learner=learner))
        for _ in range(self.policy.fragments):
            seeded, body = self.wait_for(ProvideInitial)
            self.values[seeded.fragment] = np.frombuffer(body, np.float32).copy()
        for fragment, value in self.values.items():
            self.deliver(fragment, 0, value)
        return join

    def close(self) -> None:
        self._call(self.listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Island:
    """A learner inside its block, with a real agent and a scripted syncer. Each step takes 1/8 off every parameter."""

    def __init__(self, model: torch.nn.Module, syncer: ScriptedSyncer, token_file: Path, **settings: Any) -> None:
        self.model, self.syncer = model, syncer
        self.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.125)
        with ThreadPoolExecutor(1) as other:
            begun = other.submit(syncer.begin, learner=settings.pop("expect", 0))
            self.learner = skerry.Learner(model, self.optimizer, syncer=syncer.address, token_file=token_file, **settings)
            self.learner.__enter__()
            self.join = begun.result()
        self.inside = True

    @property
    def agent(self) -> psutil.Process:
        """The agent as it is now."""
        return psutil.Process(self.learner._supervisor.agent_pid)

    def step(self, count: int = 1, tokens: int = 3) -> None:
        for _ in range(count):
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.ones_like(parameter)
            self.learner.count(tokens, loss=2.5)
            self.optimizer.step()

    def until(self, kind: type, which: Callable[[Any], bool] = lambda message: True) -> tuple[Any, bytes]:
        """Train until the syncer hears this."""
        for _ in range(10_000):
            self.step()
            got = self.syncer.heard(kind, which)
            if got is not None:
                return got
        raise AssertionError(f"no {kind.__name__}")

    def train_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(10_000):
            self.step()
            if condition():
                return
            time.sleep(0.002)
        raise AssertionError("never came true")

    def fragment(self, number: int) -> np.ndarray:
        """The parameters of a fragment as they are, in fp32."""
        named = dict(self.model.named_parameters())
        pieces = self.syncer.layout.fragments[number]
        return torch.cat([named[self.syncer.layout.tensors[p.tensor].name].detach().float().flatten() for p in pieces]).numpy()

    def leave(self, *error: Any) -> None:
        if self.inside:
            self.inside = False
            self.learner.__exit__(*(error or (None, None, None)))


@pytest.fixture
def island(scripted: Callable[..., ScriptedSyncer], token_file: Path) -> Iterator[Callable[..., Island]]:
    """Makes islands, and ends them."""
    made: list[Island] = []

    def make(model: torch.nn.Module, policy: Policy, **settings: Any) -> Island:
        made.append(Island(model, scripted(policy), token_file, **settings))
        return made[-1]

    yield make
    for each in made:
        each.leave(KeyboardInterrupt, KeyboardInterrupt(), None)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedSyncer]]:
    """Makes scripted syncers, and ends them."""
    made: list[ScriptedSyncer] = []

    def make(policy: Policy, **more: Any) -> ScriptedSyncer:
        made.append(ScriptedSyncer(policy, **more))
        return made[-1]

    yield make
    for syncer in made:
        syncer.close()
