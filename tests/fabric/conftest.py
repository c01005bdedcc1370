"""What the fabric's tests share: a recording handler and server, and a listener that runs for the length of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from skerry.fabric.client import connect
from skerry.fabric.link import Link
from skerry.fabric.listener import Listener
from skerry.fabric.tokens import Keyring, Token

TOKEN = Token(b"a token for tests only")
PATIENCE = 20.0  # seconds after which a test gives up; nothing waits so long when all is well


class Recorder:
    """A link's handler that keeps what it is told, in order, and can be waited on."""

    def __init__(self, memory: memoryview | None = None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.memory: memoryview | None = memory if memory is not None else memoryview(bytearray(1 << 20))
        self.react: Callable[[Link, Any], None] = lambda link, message: None
        self._news = asyncio.Event()

    def note(self, *event: Any) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, *wanted: Any) -> tuple[Any, ...]:
        """The first event that begins like `wanted`; waits for it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.events:
                    if event[: len(wanted)] == wanted:
                        return event
                self._news.clear()
                await self._news.wait()

    def said(self, kind: str) -> list[Any]:
        return [event[1] for event in self.events if event[0] == kind]

    def on_message(self, link: Link, message: Any) -> None:
        self.note("message", message)
        self.react(link, message)

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview | None:
        self.note("announced", message, nbytes)
        self.react(link, message)
        return self.memory[:nbytes] if self.memory is not None else None

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None:
        self.note("bulk", message, bytes(buffer))

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None:
        self.note("bulk lost", message, buffer)

    def on_closed(self, link: Link, reason: str) -> None:
        self.note("closed", reason)


class Host(Recorder):
    """A server all of whose links are handled by recorders of their own: `links` and `handlers`, in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.handlers: list[Recorder] = []
        self.handler: Callable[[], Recorder] = Recorder

    def opened(self, link: Link) -> Recorder:
        self.links.append(link)
        self.handlers.append(self.handler())
        self.note("opened", link)
        return self.handlers[-1]

    def refused(self, peer: str, code: str, reason: str) -> None:
        self.note("refused", code, reason)


@contextlib.asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[tuple[Listener, Host]]:
    host = Host()
    listener = await Listener.start(host, **{"keyring": Keyring(TOKEN), "run": "run-1", "policy": "{}", **settings})
    try:
        yield listener, host
    finally:
        await listener.close()


@contextlib.asynccontextmanager
async def linked(client: Recorder | None = None, tls: Any = None, **settings: Any) -> AsyncIterator[SimpleNamespace]:
    """A learner's link between `client` and `server`, both recorders; `near` and `far` are its two ends."""
    async with listening(**settings) as (listener, host):
        client = client or Recorder()
        address = f"localhost:{listener.address.port}" if tls else listener.address
        near = await connect(address, token=TOKEN, handler=client, tls=tls)
        await host.until("opened")
        yield SimpleNamespace(listener=listener, host=host, near=near, far=host.links[0], client=client,
                              server=host.handlers[0])  # fmt: skip
        near.close()
        await near.wait_closed()


@pytest.fixture
def fabric() -> SimpleNamespace:
    return SimpleNamespace(TOKEN=TOKEN, KEYRING=Keyring(TOKEN), PATIENCE=PATIENCE, Recorder=Recorder, listening=listening,
                           linked=linked)  # fmt: skip
