"""One TCP or TLS connection: the thin asyncio shell around the frame codec.

Rules: a body is received straight into the memory that the receiver gave; while it gives none, nothing is read. A body
is sent straight from its memory: asyncio's transports would copy what the socket does not take at once, so without TLS
the socket is written to past them, and TLS is given chunks, each when the one before has left.
What a peer does wrong ends its connection with a reason and nothing else. All of it runs on one event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from skerry.errors import ProtocolError
from skerry.fabric.wire import HEADER, LARGEST_MESSAGE, Body, Frame, FrameReader, encode

CHUNK = 256 << 10  # bytes of a body given to TLS at once
LARGEST_BACKLOG = 8 << 20  # bytes of messages that may wait for a peer that does not read
PATIENCE = 10.0  # seconds for a handshake
STALL = 15.0  # seconds without a byte in the middle of a frame after which a peer is given up
LINGER = 5.0  # seconds a closing connection may take to send what it still holds
_JUNK = memoryview(bytearray(16 << 10))  # where a connection that is ending puts what still comes


class Receiver(Protocol):
    """Who a connection reports to once its handshake is over. Each may raise ProtocolError, which ends the connection."""

    def frame(self, connection: Connection, frame: Frame) -> memoryview | None:
        """A message has come. If it announces a body: the memory for it, or None (asked again after `pump`)."""

    def body(self, connection: Connection, body: Body) -> None:
        """A body is complete."""

    def fault(self, connection: Connection, error: ProtocolError) -> None:
        """The peer broke the protocol: nothing more is read. The receiver ends the connection."""

    def lost(self, connection: Connection, reason: str) -> None:
        """The connection has ended. Said once, last."""


class Connection(asyncio.BufferedProtocol):
    """Frames in and out."""

    def __init__(self, peer: str, *, stall: float = STALL) -> None:
        self.peer = peer
        self.reason: str | None = None  # why it ended or is ending
        self.bytes_in = 0
        self.bytes_out = 0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._stall = stall
        self._reader = FrameReader()
        self._receiver: Receiver | None = None
        self._waiting: asyncio.Future[Frame] | None = None  # of read()
        self._announced: Frame | None = None  # its body waits for memory
        self._pumping = False
        self._plain = True
        self._out: socket.socket | None = None  # while a body leaves on it
        self._seen = -1  # bytes_in when last looked for a stall
        self._writable = asyncio.Event()
        self._writable.set()
        self._sending = asyncio.Lock()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- what its owner calls

    async def read(self) -> Frame:
        """The next message, during the handshake. Raises ProtocolError; ConnectionError or ssl.SSLError if it ends."""
        if self._ended.done():
            raise ConnectionError(self.reason)
        waiting: asyncio.Future[Frame] = self._loop.create_future()
        self._waiting = waiting
        self.pump()
        return await waiting

    def start(self, receiver: Receiver) -> None:
        """The handshake is over: from now on everything goes to the receiver."""
        self._receiver = receiver
        self._reader.limit = LARGEST_MESSAGE
        if self._ended.done():
            receiver.lost(self, self.reason or "")
        else:
            self.pump()

    def send(self, message: Any) -> bytes:
        """Send a message without a body; at once, or never if the connection has ended. Returns its encoded form."""
        data = encode(message)
        if self.reason is None:
            self._write(data)
            assert self._transport is not None
            if self._transport.get_write_buffer_size() > LARGEST_BACKLOG:
                self.end(f"the peer let {LARGEST_BACKLOG >> 20} MiB of messages wait", abort=True)
        return data[HEADER.size :]

    async def send_body(self, message: Any, body: memoryview) -> None:
        """Send a message with its body; returns when the body's memory may change again. Raises ConnectionError."""
        async with self._sending:
            try:
                await self._send_chunk(encode(message, body.nbytes))
                if self._plain:
                    await self._send_past_transport(body)
                else:
                    for at in range(0, body.nbytes, CHUNK):
                        await self._send_chunk(body[at : at + CHUNK])
            except asyncio.CancelledError:
                self.end("a body was given up half sent", abort=True)
                raise
        if self.reason is not None:
            raise ConnectionError(self.reason)

    def pump(self) -> None:
        """Pass on what has come, as far as somebody wants it; while nobody does, nothing is read."""
        if self._pumping:
            return
        self._pumping = True
        try:
            more = self._pass_on()
        except ProtocolError as error:
            more = False
            if self._receiver is not None:
                self._receiver.fault(self, error)
            elif self._waiting is not None and not self._waiting.done():
                self._waiting.set_exception(error)
        finally:
            self._pumping = False
        assert self._transport is not None
        if more:
            if not self._transport.is_reading():
                self._seen = -1  # the pause was ours: the peer has all its time again
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def end(self, reason: str, *, abort: bool = False) -> None:
        """End the connection after what was sent has left (LINGER seconds at most), or with `abort` at once."""
        if self.reason is None:
            self.reason = reason
        if self._transport is None or self._ended.done():
            return
        if abort:
            self._transport.abort()
        else:
            self._transport.close()
            self._set_timer(LINGER, self._transport.abort)

    def set_vanished(self, seconds: float) -> None:
        """End the connection when the peer's machine has not acknowledged what was sent for so long."""
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        if not self._ended.done():
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))

    @property
    def made(self) -> bool:
        """Whether it was ever open: with TLS, whether its handshake succeeded."""
        return self._transport is not None

    @property
    def has_ended(self) -> bool:
        """Whether the connection has ended (not merely: is ending)."""
        return self._ended.done()

    @property
    def unfinished(self) -> Body | None:
        """The body that was being received when the connection ended."""
        return self._reader.body

    # ---------------------------------------------------------------- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        _keep_alive(transport.get_extra_info("socket"))
        self._plain = transport.get_extra_info("sslcontext") is None
        transport.set_write_buffer_limits(high=0 if self._plain else 1, low=0)  # asyncio's TLS pauses at >= high
        self._set_timer(self._stall, self._check_stall)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer() if self.reason is None else _JUNK

    def buffer_updated(self, nbytes: int) -> None:
        if self.reason is not None:
            return
        self.bytes_in += nbytes
        self._reader.feed(nbytes)
        self.pump()

    def eof_received(self) -> bool:
        return False  # closes

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        if self.reason is None:
            self.reason = self._why(exc)
        self._ended.set_result(None)
        self._writable.set()
        if self._out is not None:  # wakes its sender
            with contextlib.suppress(OSError):
                self._out.shutdown(socket.SHUT_RDWR)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc if isinstance(exc, ssl.SSLError) else ConnectionError(self.reason))
        if self._receiver is not None:
            self._receiver.lost(self, self.reason)

    # ---------------------------------------------------------------- inside

    def _pass_on(self) -> bool:
        """Pass on what is complete. Returns whether more should be read."""
        while self.reason is None and (self._receiver is not None or self._waiting is not None):
            if self._announced is not None:
                assert self._receiver is not None
                memory = self._receiver.frame(self, self._announced)
                if memory is None:
                    return False
                self._reader.body_into(memory)
                self._announced = None
            event = self._reader.next()
            if event is None:
                return True
            if self._receiver is None:
                assert self._waiting is not None and isinstance(event, Frame)
                waiting, self._waiting = self._waiting, None
                if not waiting.done():
                    waiting.set_result(event)
            elif isinstance(event, Body):
                self._receiver.body(self, event)
            elif event.body:
                self._announced = event
            else:
                self._receiver.frame(self, event)
        return False

    def _write(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        self.bytes_out += len(data)
        self._transport.write(data)

    async def _send_chunk(self, data: bytes | memoryview) -> None:
        if self.reason is not None:
            raise ConnectionError(self.reason)
        self._write(data)
        if self._writable.is_set():
            await asyncio.sleep(0)  # a fast peer must not keep the loop from its other connections
        else:
            await self._writable.wait()

    async def _send_past_transport(self, body: memoryview) -> None:
        """The transport holds nothing now, so this comes after what it sent. A second descriptor of the same socket,
        because asyncio guards the transport's own."""
        if self.reason is not None:
            raise ConnectionError(self.reason)
        assert self._transport is not None
        with self._transport.get_extra_info("socket").dup() as out:
            out.setblocking(False)
            self._out = out
            try:
                await self._loop.sock_sendall(out, body)
            except OSError as error:
                self.end(self._why(error), abort=True)
            finally:
                self._out = None
        self.bytes_out += body.nbytes

    def _check_stall(self) -> None:
        assert self._transport is not None
        if self._reader.within and self._transport.is_reading() and self.bytes_in == self._seen:
            self.end(f"the peer stopped in the middle of a frame for {self._stall:g} s", abort=True)
            return
        self._seen = self.bytes_in
        self._set_timer(self._stall, self._check_stall)

    def _set_timer(self, delay: float | None, call: Callable[[], None] = lambda: None) -> None:
        """The one timer: it looks for a stalled peer, then for a slow end."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if delay is None else self._loop.call_later(delay, call)

    def _why(self, error: Exception | None) -> str:
        if isinstance(error, ssl.SSLError):
            return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
        if error is not None:
            return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return "the peer closed the connection" + (" in the middle of a frame" if self._reader.within else "")


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out about a peer whose machine has vanished while nothing is being sent."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
