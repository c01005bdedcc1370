"""The frame codec: messages to bytes and bytes to messages, without a socket (the style of h11).

A frame is a header of 20 bytes, little-endian, then the message, then, of a Chunk, its bytes:

    magic "SKRY" (4) | protocol version (2) | kind (2) | message length (4) | body length (8)
    message: a MessagePack map of the dataclass's fields; of one that announces a body: [the body's number, that map]
    body length: of an announced body; of a Chunk: of the bytes that follow it; else 0

Rules: every length is checked before anything is allocated for it; a chunk is written straight into memory which the
caller gives after it has seen its head; every field of a message is in its range (ranges.py); whatever is wrong raises
ProtocolError, after which a reader is unusable.
The header and the messages Hello and Refused keep this form in every version, so that a mismatch can be told to the peer.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

from skerry.core.messages import Refused
from skerry.errors import ProtocolError
from skerry.fabric.messages import BY_CLASS, BY_NUMBER, Chunk, Hello
from skerry.fabric.ranges import checker, whole

SPOKEN = range(3, 4)  # versions of the protocol
VERSION = SPOKEN[-1]
HEADER = struct.Struct("<4sHHIQ")
MAGIC = b"SKRY"
SCRATCH = 16 << 10  # bytes a connection holds for messages; what exceeds it is held only while it is read
LARGEST_HELLO = 4 << 10  # bytes of a message before the handshake is over
LARGEST_MESSAGE = 4 << 20  # and after it
LARGEST_CHUNK = 1 << 20  # bytes of a body in one frame, and taken from a socket at once: others have their turn in between

_encoder = msgspec.msgpack.Encoder()
_announcing = frozenset(kind.cls for kind in BY_NUMBER.values() if kind.bulk) - {Chunk}
_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {
    kind.number: msgspec.msgpack.Decoder(tuple[int, kind.cls] if kind.cls in _announcing else kind.cls)  # type: ignore[name-defined]
    for kind in BY_NUMBER.values()
}
_checks = {kind.number: checker(kind.cls) for kind in BY_NUMBER.values()}
_TIMELESS = frozenset(BY_CLASS[cls].number for cls in (Hello, Refused))  # read in any version


class VersionError(ProtocolError):
    """The peer speaks another version of the protocol."""

    def __init__(self, version: int, wanted: range = SPOKEN) -> None:
        super().__init__(f"the peer speaks {span(version)} of the protocol, this side {span(wanted[0], wanted[-1])}",
                         remedy="install the same release of skerry on both sides")  # fmt: skip


class Frame(NamedTuple):
    """A message that has come. `raw`: its encoded form; `version`: the frame's. `body`: length of the body that it announces
    under `number`, or of the bytes that follow a Chunk; 0 = none."""

    message: Any
    raw: bytes
    version: int
    body: int = 0
    number: int = 0


class Filled(NamedTuple):
    """The bytes that followed `frame`, a Chunk, are in their memory."""

    frame: Frame


def encode(message: Any, body: int = 0, *, number: int = 0, version: int = VERSION) -> bytes:
    """The frame of a message (its encoded form begins at HEADER.size), without what follows a Chunk. `body` and `number` as
    in Frame."""
    kind = BY_CLASS[type(message)]
    assert kind.bulk == (body > 0), f"{type(message).__name__} {'needs a' if kind.bulk else 'has no'} body"
    raw = _encoder.encode((number, message) if kind.cls in _announcing else message)
    return HEADER.pack(MAGIC, version, kind.number, len(raw), body) + raw


def span(lowest: int, highest: int | None = None) -> str:
    """In words."""
    return f"version {lowest}" if highest in (lowest, None) else f"versions {lowest} to {highest}"


class FrameReader:
    """Bytes in (buffer, feed), frames out (next, fill). `limit`: longest message allowed, in bytes. `versions`: those that
    frames may bear; Hello and Refused may bear any."""

    def __init__(self, limit: int = LARGEST_HELLO) -> None:
        self.limit = limit
        self.versions = SPOKEN
        self._scratch = memoryview(bytearray(SCRATCH))
        self._start = self._end = 0  # what of the scratch is read but not yet understood
        self._chunk: Frame | None = None  # whose bytes are awaited
        self._memory: memoryview | None = None  # where they go
        self._filled = 0

    @property
    def within(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._chunk is not None or self._end > self._start

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._memory is not None:
            return self._memory[self._filled :]
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

    def next(self) -> Frame | Filled | None:
        """What has come; None: more bytes are needed, or memory for a chunk (fill). Raises ProtocolError."""
        if self._chunk is not None:
            return self._complete_chunk()
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
        message, name = _decode(number, raw)
        frame = Frame(message, raw, version, body, name)
        if isinstance(message, Chunk):
            self._chunk = frame
        return frame

    def fill(self, memory: memoryview) -> None:
        """Receive the bytes that follow the Chunk into `memory`, writable and of exactly their length."""
        assert self._chunk is not None and memory.nbytes == self._chunk.body and not memory.readonly
        self._memory = memory
        here = min(self._end - self._start, self._chunk.body)
        self._memory[:here] = self._scratch[self._start : self._start + here]
        self._start += here
        self._filled = here

    def _complete_chunk(self) -> Filled | None:
        if self._chunk is None or self._memory is None or self._filled < self._chunk.body:
            return None
        filled = Filled(self._chunk)
        self._chunk = self._memory = None
        return filled

    def _check(self, magic: bytes, version: int, number: int, length: int, body: int) -> None:
        _check_magic(magic)
        if version not in self.versions and number not in _TIMELESS:
            raise VersionError(version, self.versions)
        kind = BY_NUMBER.get(number)
        if kind is None:
            raise ProtocolError(f"a frame of unknown kind {number}")
        if length > self.limit:
            raise ProtocolError(f"a {kind.cls.__name__} of {length} bytes; at most {self.limit} are allowed")
        if kind.bulk != (body > 0) or not whole(body):
            raise ProtocolError(f"a {kind.cls.__name__} with a body of {body} bytes")
        if kind.cls is Chunk and body > LARGEST_CHUNK:
            raise ProtocolError(f"a Chunk of {body} bytes; at most {LARGEST_CHUNK} are allowed")

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


def _decode(number: int, raw: bytes) -> tuple[Any, int]:
    """The message, and the number of the body that it announces."""
    try:
        got = _decoders[number].decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a malformed {BY_NUMBER[number].cls.__name__}: {error}") from error
    name = 0
    if BY_NUMBER[number].cls in _announcing:
        name, got = got
        if not whole(name):
            raise ProtocolError(f"a {BY_NUMBER[number].cls.__name__} whose body has the number {name}, which cannot be")
    _checks[number](got)
    return got, name
