"""A TCP relay that stops forwarding without closing: a way between two machines that breaks without a word.

It runs in the event loop of the test. Both machines' kernels see their sockets open, and the relay's acknowledges what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Relay:
    """Between who connects to `address` and the target. `mute`: connections by their number, in order of arrival; what comes on
    them goes nowhere. `mute_all` mutes those that there are."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self.address = ""
        self.mute: set[int] = set()
        self.arrived = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def mute_all(self) -> None:
        self.mute |= set(range(self.arrived))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.arrived = self.arrived, self.arrived + 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._pass(number, reader, far_writer), self._pass(number, far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if number not in self.mute:
                    writer.write(data)
                    await writer.drain()
        if number not in self.mute:  # an end does not pass either
            writer.close()

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def relayed(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    server = await asyncio.start_server(relay._serve, "127.0.0.1", 0)
    relay.address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    try:
        yield relay
    finally:
        server.close()
        await relay.end()
