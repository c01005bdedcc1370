"""The frame codec: messages to bytes and bytes to messages, without a socket (the style of h11).

A frame is a header of 20 bytes, little-endian, then the message, then the body (bulk messages only):

    magic "SKRY" (4) | protocol version (2) | kind (2) | message length (4) | body length (8)
    message: a MessagePack map of the dataclass's fields     body: raw bytes

Rules: every length is checked before anything is allocated for it; a body is written straight into memory which the
caller gives after it has seen the message; whatever is wrong raises ProtocolError, after which a reader is unusable.
The header and the message Refused keep this form in every version, so that a version mismatch can be told to the peer.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

from skerry.errors import ProtocolError
from skerry.fabric.messages import BY_CLASS, BY_NUMBER

VERSION = 1
HEADER = struct.Struct("<4sHHIQ")
MAGIC = b"SKRY"
SCRATCH = 16 << 10  # bytes a connection holds for messages; what exceeds it is held only while it is read
LARGEST_HELLO = 4 << 10  # bytes of a message before the handshake is over
LARGEST_MESSAGE = 4 << 20  # and after it
LARGEST_READ = 256 << 10  # bytes of a body taken from a socket at once: other connections have their turn in between

_encoder = msgspec.msgpack.Encoder()
_decoders = {kind.number: msgspec.msgpack.Decoder(kind.cls) for kind in BY_NUMBER.values()}


class VersionError(ProtocolError):
    """The peer speaks another version of the protocol."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the peer speaks protocol version {version}, this side {VERSION}",
                         remedy="install the same release of skerry on both sides")  # fmt: skip


class Frame(NamedTuple):
    """A message that has come. `raw`: its encoded form. `body`: length of the body that follows; 0 = none."""

    message: Any
    raw: bytes
    body: int


class Body(NamedTuple):
    """The body of `frame` is complete in `memory`."""

    frame: Frame
    memory: memoryview


def encode(message: Any, body: int = 0) -> bytes:
    """The frame of a message (its encoded form begins at HEADER.size), without its body of `body` bytes."""
    kind = BY_CLASS[type(message)]
    assert kind.bulk == (body > 0), f"{type(message).__name__} {'needs a' if kind.bulk else 'has no'} body"
    raw = _encoder.encode(message)
    return HEADER.pack(MAGIC, VERSION, kind.number, len(raw), body) + raw


class FrameReader:
    """Bytes in (buffer, feed), frames out (next, body_into). `limit`: longest message allowed, in bytes."""

    def __init__(self, limit: int = LARGEST_HELLO) -> None:
        self.limit = limit
        self._scratch = memoryview(bytearray(SCRATCH))
        self._start = self._end = 0  # what of the scratch is read but not yet understood
        self._frame: Frame | None = None  # whose body is awaited
        self._memory: memoryview | None = None  # where that body goes
        self._filled = 0

    @property
    def within(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._frame is not None or self._end > self._start

    @property
    def body(self) -> Body | None:
        """The body being received: memory given, not yet complete."""
        return Body(self._frame, self._memory) if self._frame and self._memory is not None else None

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._memory is not None:
            return self._memory[self._filled : self._filled + LARGEST_READ]
        if self._start == self._end:
            self._compact(SCRATCH)
        elif self._end == len(self._scratch):
            self._compact(self._end)
        return self._scratch[self._end :]

    def feed(self, count: int) -> None:
        """`count` bytes have been written to the front of buffer()."""
        if self._memory is not None:
            self._filled += count
        else:
            self._end += count

    def next(self) -> Frame | Body | None:
        """What has come; None: more bytes are needed, or memory for a body (body_into). Raises ProtocolError."""
        if self._frame is not None:
            return self._complete_body()
        have = self._end - self._start
        if have < HEADER.size:
            if have:
                _check_magic(bytes(self._scratch[self._start : self._end]))
            return None
        magic, version, number, length, body = HEADER.unpack_from(self._scratch, self._start)
        self._check(magic, version, number, length, body)
        total = HEADER.size + length
        if have < total:
            if total > len(self._scratch) - self._start:
                self._compact(max(total, SCRATCH))
            return None
        raw = bytes(self._scratch[self._start + HEADER.size : self._start + total])
        self._start += total
        frame = Frame(_decode(number, raw), raw, body)
        if body:
            self._frame = frame
        return frame

    def body_into(self, memory: memoryview) -> None:
        """Receive the announced body into `memory`, writable bytes of exactly its length."""
        assert self._frame is not None and memory.nbytes == self._frame.body and not memory.readonly
        self._memory = memory.cast("B")
        here = min(self._end - self._start, self._frame.body)
        self._memory[:here] = self._scratch[self._start : self._start + here]
        self._start += here
        self._filled = here

    def _complete_body(self) -> Body | None:
        if self._frame is None or self._memory is None or self._filled < self._frame.body:
            return None
        body = Body(self._frame, self._memory)
        self._frame = self._memory = None
        return body

    def _check(self, magic: bytes, version: int, number: int, length: int, body: int) -> None:
        _check_magic(magic)
        if version != VERSION:
            raise VersionError(version)
        kind = BY_NUMBER.get(number)
        if kind is None:
            raise ProtocolError(f"a frame of unknown kind {number}")
        if length > self.limit:
            raise ProtocolError(f"a {kind.cls.__name__} of {length} bytes; at most {self.limit} are allowed")
        if kind.bulk != (body > 0):
            raise ProtocolError(f"a {kind.cls.__name__} with a body of {body} bytes")

    def _compact(self, size: int) -> None:
        """Move what is not yet understood to the front of a scratch of `size` bytes."""
        unread = bytes(self._scratch[self._start : self._end])
        if size != len(self._scratch):
            self._scratch = memoryview(bytearray(size))
        self._scratch[: len(unread)] = unread
        self._start, self._end = 0, len(unread)


def _check_magic(start: bytes) -> None:
    if start[:2] in (b"\x15\x03", b"\x16\x03"):
        raise ProtocolError("the peer speaks TLS, this side does not", remedy="configure TLS on both sides or on neither")
    if not MAGIC.startswith(start[:4]):
        raise ProtocolError(f"not a Skerry frame: it starts with {start[:4]!r}")


def _decode(number: int, raw: bytes) -> Any:
    try:
        return _decoders[number].decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a malformed {BY_NUMBER[number].cls.__name__}: {error}") from error
