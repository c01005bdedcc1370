"""One TCP or TLS connection: the thin asyncio shell around the frame codec.

Rules: a chunk is received straight into the memory that the receiver gave; while it gives none, nothing is read. A body
is sent straight from its memory, one after the other: asyncio's transports would copy what the socket does not take at once,
so without TLS the socket is written to past them, and TLS is given pieces, each when the one before has left.
What a peer does wrong ends its connection with a reason and nothing else. All of it runs on one event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from skerry.errors import ProtocolError
from skerry.fabric.messages import Chunk
from skerry.fabric.wire import HEADER, LARGEST_CHUNK, LARGEST_MESSAGE, VERSION, Filled, Frame, FrameReader, encode

MOST_VECTORS = 16  # pieces of memory that go to the kernel in one call
PIECE = 256 << 10  # bytes of a chunk given to TLS at once
LARGEST_BACKLOG = 8 << 20  # bytes of messages that may wait for a peer that does not read
PATIENCE = 10.0  # seconds for a handshake
STALL = 15.0  # seconds without a byte in the middle of a frame or body after which a peer is given up
LINGER = 5.0  # seconds a closing connection may take to send what it still holds
_JUNK = memoryview(bytearray(16 << 10))  # where a connection that is ending puts what still comes


class Receiver(Protocol):
    """Who a connection reports to once its handshake is over. Each may raise ProtocolError, which ends the connection."""

    def frame(self, connection: Connection, frame: Frame) -> None:
        """A message has come, but no Chunk."""

    def place(self, connection: Connection, chunk: Frame) -> memoryview | None:
        """A Chunk has come: the memory for what follows it, or None (asked again after `pump`)."""

    def filled(self, connection: Connection, chunk: Frame) -> None:
        """What followed the Chunk is in that memory."""

    def holds(self, connection: Connection) -> bool:
        """Whether memory waits for more chunks: it must not wait for ever."""

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
        self._version = VERSION  # of the frames that are sent
        self._chunk: Frame | None = None  # it waits for memory
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

    def speak(self, version: int) -> None:
        """From now on frames of this version of the protocol, both ways."""
        self._version = version
        self._reader.versions = range(version, version + 1)

    def send(self, message: Any) -> bytes:
        """Send a message without a body; at once, or never if the connection has ended. Returns its encoded form."""
        data = encode(message, version=self._version)
        if self.reason is None:
            self._write(data)
            assert self._transport is not None
            if self._transport.get_write_buffer_size() > LARGEST_BACKLOG:
                self.end(f"the peer let {LARGEST_BACKLOG >> 20} MiB of messages wait", abort=True)
        return data[HEADER.size :]

    async def send_body(self, message: Any, number: int, body: memoryview) -> None:
        """Announce a body under `number` and send it in chunks; returns when its memory may change again. Raises
        ConnectionError."""
        async with self._sending:
            try:
                await self._send_piece(encode(message, body.nbytes, number=number, version=self._version))
                chunks = self._chunks(number, body)
                await (self._send_past_transport(chunks) if self._plain else self._send_in_pieces(chunks))
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
    def idle(self) -> bool:
        """Whether a message that is sent now leaves at once: no body is under way, and nothing waits."""
        return (self.reason is None and self._transport is not None and not self._sending.locked()
                and self._transport.get_write_buffer_size() == 0)  # fmt: skip

    @property
    def reading(self) -> bool:
        """Whether what comes is read: not while the receiver has no memory for it."""
        return self._transport is not None and self._transport.is_reading()

    @property
    def made(self) -> bool:
        """Whether it was ever open: with TLS, whether its handshake succeeded."""
        return self._transport is not None

    @property
    def has_ended(self) -> bool:
        """Whether the connection has ended (not merely: is ending)."""
        return self._ended.done()

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
            if self._chunk is not None:
                assert self._receiver is not None
                memory = self._receiver.place(self, self._chunk)
                if memory is None:
                    return False
                self._reader.fill(memory)
                self._chunk = None
            event = self._reader.next()
            if event is None:
                return True
            if self._receiver is None:
                assert self._waiting is not None and isinstance(event, Frame)
                waiting, self._waiting = self._waiting, None
                if not waiting.done():
                    waiting.set_result(event)
            elif isinstance(event, Filled):
                self._receiver.filled(self, event.frame)
            elif isinstance(event.message, Chunk):
                self._chunk = event
            else:
                self._receiver.frame(self, event)
        return False

    def _write(self, data: bytes | memoryview) -> None:
        assert self._transport is not None
        self.bytes_out += len(data)
        self._transport.write(data)

    def _chunks(self, number: int, body: memoryview) -> Iterator[tuple[bytes, memoryview]]:
        """The frames of a body: what precedes the bytes, and these."""
        for at in range(0, body.nbytes, LARGEST_CHUNK):
            part = body[at : at + LARGEST_CHUNK]
            yield encode(Chunk(body=number, offset=at), part.nbytes, version=self._version), part

    async def _send_piece(self, data: bytes | memoryview) -> None:
        if self.reason is not None:
            raise ConnectionError(self.reason)
        self._write(data)
        if self._writable.is_set():
            await asyncio.sleep(0)  # a fast peer must not keep the loop from its other connections
        else:
            await self._writable.wait()

    async def _send_in_pieces(self, chunks: Iterator[tuple[bytes, memoryview]]) -> None:
        for head, part in chunks:
            self._write(head)
            for at in range(0, part.nbytes, PIECE):
                await self._send_piece(part[at : at + PIECE])

    async def _send_past_transport(self, chunks: Iterator[tuple[bytes, memoryview]]) -> None:
        """The transport holds nothing now, so this comes after what it sent. A second descriptor of the same socket,
        because asyncio guards the transport's own."""
        if self.reason is not None:
            raise ConnectionError(self.reason)
        assert self._transport is not None
        with self._transport.get_extra_info("socket").dup() as out:
            out.setblocking(False)
            self._out = out
            left = deque(piece for head, part in chunks for piece in (memoryview(head), part))
            gone: asyncio.Future[None] = self._loop.create_future()
            self._loop.add_writer(out, self._push, out, left, gone)
            try:
                await gone
            except OSError as error:
                self.end(self._why(error), abort=True)
            finally:
                self._loop.remove_writer(out)
                self._out = None

    def _push(self, out: socket.socket, left: deque[memoryview], gone: asyncio.Future[None]) -> None:
        """Send as much of what is left as the kernel takes now; then other connections have their turn."""
        try:
            sent = 0 if gone.done() else out.sendmsg(itertools.islice(left, MOST_VECTORS))
        except BlockingIOError:
            return
        except OSError as error:
            gone.set_exception(error)
            return
        self.bytes_out += sent
        while sent:
            piece = left.popleft()
            if sent < len(piece):
                left.appendleft(piece[sent:])
            sent -= min(sent, len(piece))
        if not left and not gone.done():
            gone.set_result(None)

    def _check_stall(self) -> None:
        assert self._transport is not None
        due = self._reader.within and self._transport.is_reading()
        if (due or (self._receiver is not None and self._receiver.holds(self))) and self.bytes_in == self._seen:
            self.end(f"the peer stopped in the middle of a frame or body for {self._stall:g} s", abort=True)
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
