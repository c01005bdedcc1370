"""A link: what two processes have between them, the same on both sides. A control connection, and for learners a bulk
connection, so that messages never wait behind bodies.

Rules: each connection keeps its order; between the two there is none. When either ends, the link ends; whoever connected ends
it when either falls silent (pulse.py). What was sent then may be lost; a new link's Join makes it good. A handler is called
on the event loop's thread and must not block; it may raise ProtocolError to end the link for what the peer sent.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Protocol

from skerry.core.messages import Refused
from skerry.errors import ProtocolError
from skerry.fabric.bodies import Bodies
from skerry.fabric.connection import Connection
from skerry.fabric.messages import BY_CLASS, Greeting, Ping, Role, Side, accepted
from skerry.fabric.pulse import Pulse
from skerry.fabric.tokens import Identity
from skerry.fabric.wire import Frame

LONGEST_REASON = 1000  # characters
VANISHED = 60.0  # seconds that sent messages may stay unacknowledged by the peer's machine before the link ends


class Handler(Protocol):
    """Who a link reports to."""

    def on_message(self, link: Link, message: Any) -> None:
        """A message without a body has come."""

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview | None:
        """The body of a bulk message begins to come: the memory for it, exactly `nbytes` writable bytes (check that length
        against the layout first), or None: no memory now. Then the bulk connection rests, and resume_bulk asks again. Others
        may be asked for, and be whole, before this one is."""

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None:
        """The body is complete in the memory that bulk_buffer gave; the memory is the handler's again."""

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None:
        """The link ended before the body was complete; the memory is the handler's again. on_closed follows."""

    def on_closed(self, link: Link, reason: str) -> None:
        """The link has ended. Said once, last."""


class Link:
    """Made by connect() or a Listener. `peer`: its address; `greeting`: what the server told (run, session, policy); `role` and
    `identity`: what the client came as, and who it proved to be; `features`: what both sides have; `ended`: done when the
    link has ended."""

    def __init__(self, control: Connection, bulk: Connection | None, *, side: Side, role: Role, identity: Identity,
                 features: frozenset[str], greeting: Greeting) -> None:  # fmt: skip
        self.peer = control.peer
        self.role = role
        self.identity = identity
        self.features = features
        self.greeting = greeting
        self._side = side
        self._control = control
        self._bulk = bulk
        self._handler: Handler | None = None
        self._reason: str | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepts = accepted(role, side)
        self._pulse: Pulse | None = None
        self._numbers = itertools.count()  # of the bodies sent
        self._bodies = Bodies(self._room)

    def __repr__(self) -> str:
        return f"<{self.role} link with {self.peer}>"

    @property
    def bytes_in(self) -> int:
        """Bytes received, as on the sockets but without TLS: frames with their headers, handshakes included."""
        return self._control.bytes_in + (self._bulk.bytes_in if self._bulk else 0)

    @property
    def bytes_out(self) -> int:
        """Bytes sent, likewise."""
        return self._control.bytes_out + (self._bulk.bytes_out if self._bulk else 0)

    @property
    def closed(self) -> bool:
        """Whether the link has ended or is ending: nothing sent from now on leaves."""
        return self._reason is not None

    def start(self, handler: Handler) -> None:
        """Begin to pass on what comes. Nothing is read before."""
        self._handler = handler
        self._control.set_vanished(VANISHED)
        for connection in self._connections():
            connection.start(self)
        if not self.ended.done():
            named = list(zip(("control", "bulk"), self._connections(), strict=False))
            self._pulse = Pulse(named, self.greeting.heartbeat, self._dead if self._side == "client" else None)

    def send(self, message: Any) -> None:
        """Send a message without a body; returns at once. On an ended link it is dropped. A peer that lets too many
        wait is cut off (connection.LARGEST_BACKLOG)."""
        assert BY_CLASS[type(message)].sender == self._side
        self._control.send(message)

    async def send_bulk(self, message: Any, body: bytes | memoryview) -> None:
        """Send a message with its body (one byte at least), after those already waiting. Returns when all of it is with the
        kernel: until then the body's memory must not change. Cancelling it ends the link. Raises ConnectionError: it ended."""
        assert BY_CLASS[type(message)].sender == self._side and self._bulk is not None
        await self._bulk.send_body(message, next(self._numbers), memoryview(body).cast("B"))

    def resume_bulk(self) -> None:
        """There is memory again: ask bulk_buffer for the body that waits, if one does."""
        if self._bulk is not None:
            self._bulk.pump()

    def close(self, reason: str = "closed by this side") -> None:
        """End the link after the messages already sent have left; a body half sent is cut short."""
        if self._reason is None:
            self._reason = reason
        if self._bulk is not None:
            self._bulk.end(reason, abort=True)
        self._control.end(reason)

    async def wait_closed(self) -> None:
        """Wait until the link has ended and on_closed was called."""
        await asyncio.shield(self.ended)

    def _dead(self, reason: str) -> None:
        """The other end, or the way to it, is gone without a word."""
        if self._reason is None:
            self._reason = reason
        for connection in self._connections():
            connection.end(reason, abort=True)

    # ---------------------------------------------------------------- what its connections call

    def frame(self, connection: Connection, frame: Frame) -> None:
        assert self._handler is not None
        self._check(connection, frame)
        message = frame.message
        if isinstance(message, Refused) and message.code == "protocol":
            self.close(f"the peer gave this side up: {message.reason}")
        elif frame.body:
            self._bodies.announce(frame)
        elif type(message) is not Ping:
            self._handler.on_message(self, message)

    def place(self, connection: Connection, chunk: Frame) -> memoryview | None:
        self._check(connection, chunk)
        return self._bodies.place(chunk)

    def filled(self, connection: Connection, chunk: Frame) -> None:
        assert self._handler is not None
        whole = self._bodies.filled(chunk)
        if whole is not None:
            self._handler.on_bulk(self, *whole)

    def holds(self, connection: Connection) -> bool:
        return connection is self._bulk and self._bodies.holding

    def fault(self, connection: Connection, error: ProtocolError) -> None:
        if self._side == "server":
            self._control.send(Refused(code="protocol", reason=str(error)[:LONGEST_REASON]))
        self.close(f"protocol error: {error}")

    def lost(self, connection: Connection, reason: str) -> None:
        assert self._handler is not None
        if self._reason is None:
            self._reason = reason
        if connection is self._bulk:
            for message, memory in self._bodies.lose():
                self._handler.on_bulk_lost(self, message, memory)
        others = [other for other in self._connections() if not other.has_ended]
        for other in others:
            other.end(reason, abort=other.reason is None)
        if not others and not self.ended.done():
            if self._pulse is not None:
                self._pulse.stop()
            self.ended.set_result(None)
            self._handler.on_closed(self, self._reason)

    def _connections(self) -> list[Connection]:
        return [self._control] if self._bulk is None else [self._control, self._bulk]

    def _check(self, connection: Connection, frame: Frame) -> None:
        message, bulk = frame.message, connection is self._bulk
        if type(message) not in self._accepts or ((frame.body > 0) != bulk and type(message) is not Ping):
            where = "bulk" if bulk else "control"
            raise ProtocolError(f"a {type(message).__name__} on the {where} connection of a {self.role}'s link")

    def _room(self, message: Any, nbytes: int) -> memoryview | None:
        assert self._handler is not None
        return self._handler.bulk_buffer(self, message, nbytes)
