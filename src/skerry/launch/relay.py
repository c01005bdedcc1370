"""A link that can be struck: a process that passes bytes on between one learner and the syncer.

    learner --> 127.0.0.1:PORT, the relay --> the address that stands in the file just now

It needs no orders. Kill it, and the kernel breaks both connections of the learner and refuses new ones; stop it, and they stay
open, new ones are accepted, and nothing passes. Rules: standard library only, so that it is there at once; what it cannot pass
on it ends on both sides; the end of one side is passed on after what was said before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

HOST = "127.0.0.1"
BACKLOG = 64


class Half(asyncio.Protocol):
    """One side of a connection; `other` is where its bytes go."""

    def __init__(self) -> None:
        self.other: Half | None = None
        self.transport: asyncio.Transport | None = None
        self.said_all = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read before the other side is there."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.other is None:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Nothing more comes from this side; the other one may still have something to say."""
        self.said_all = True
        other = self.other
        if other is None or other.transport is None or self.transport is None:
            return False
        if other.said_all:
            other.transport.close()
            self.transport.close()
        elif not other.transport.is_closing():
            other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        """This side reads slowly: so does the other one's writer."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It goes on."""
        if self.other is not None and self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """The other side hears of it: after what it was sent, or at once where the end was no clean one."""
        other, self.other = self.other, None
        if other is not None and other.transport is not None:
            other.other = None
            if error is None:
                other.transport.close()
            else:
                other.transport.abort()


class Near(Half):
    """The learner's side: the other one is connected as soon as it is there."""

    def __init__(self, target: Path) -> None:
        super().__init__()
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._reaching = asyncio.get_running_loop().create_task(self._reach())

    async def _reach(self) -> None:
        assert self.transport is not None
        try:
            host, _, port = self._target.read_text().strip().rpartition(":")
            _, far = await asyncio.get_running_loop().create_connection(Half, host.strip("[]"), int(port))
        except (OSError, ValueError):
            self.transport.abort()
            return
        if self.transport.is_closing():
            far.transport.abort() if far.transport is not None else None
            return
        self.other, far.other = far, self
        assert far.transport is not None
        far.transport.resume_reading()
        self.transport.resume_reading()


def reserve() -> socket.socket:
    """A port for a relay: as long as the socket is kept nobody else gets it, and who connects while no relay listens there is
    refused."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind((HOST, 0))
    return kept


async def serve(port: int, target: Path) -> None:
    """Listen at `port`, and pass on to the address in the file `target`."""
    server = await asyncio.get_running_loop().create_server(lambda: Near(target), HOST, port, backlog=BACKLOG, reuse_port=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Arguments: the port, and the file with the address."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
