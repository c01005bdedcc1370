"""A link's heartbeat: each side says something on each connection at least once a heartbeat, and who connected judges by it.

Rules: a Ping leaves where nothing else left for a heartbeat, never within a body. A connection is dead when this side reads
it and no byte came for SILENT heartbeats; only the side that connected ends the link for that, since it is the one that can
make another. Time is counted in looks of this process' own loop: what passed while the process was frozen is nobody's
silence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from skerry.fabric.connection import Connection
from skerry.fabric.messages import Ping

LOOKS = 4  # a heartbeat
SILENT = 3  # heartbeats
LEAST = 2.0  # seconds: on a busy machine a shorter silence means nothing


class _Watched:
    """One connection, as it was at the last look."""

    __slots__ = ("connection", "idle", "name", "seen", "sent", "silent")

    def __init__(self, name: str, connection: Connection) -> None:
        self.name, self.connection = name, connection
        self.sent, self.seen = connection.bytes_out, connection.bytes_in
        self.idle = self.silent = 0  # looks

    def beat(self) -> None:
        """A Ping, if nothing left for a heartbeat."""
        connection = self.connection
        if connection.bytes_out != self.sent:
            self.sent, self.idle = connection.bytes_out, 0
            return
        self.idle += 1
        if self.idle >= LOOKS and connection.idle:
            connection.send(Ping())
            self.sent, self.idle = connection.bytes_out, 0

    def listen(self) -> int:
        """For how many looks nothing came, though this side reads."""
        connection = self.connection
        if connection.bytes_in != self.seen or not connection.reading:
            self.seen, self.silent = connection.bytes_in, 0
        else:
            self.silent += 1
        return self.silent


class Pulse:
    """Of the connections of a link, named; it ends with `stop`. `dead`: who judges is told once why the link is dead."""

    def __init__(self, connections: Sequence[tuple[str, Connection]], heartbeat: float,
                 dead: Callable[[str], None] | None) -> None:  # fmt: skip
        self._watched = [_Watched(name, connection) for name, connection in connections]
        self._pause = heartbeat / LOOKS
        self._most = max(SILENT * LOOKS, round(LEAST / self._pause))  # looks
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._pause, self._look)

    def stop(self) -> None:
        """The link has ended."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._pause, self._look)
        for watched in self._watched:
            watched.beat()
            if self._dead is not None and watched.listen() >= self._most:
                self.stop()
                self._dead(f"nothing came on its {watched.name} connection for {self._most * self._pause:.3g} s")
                return
