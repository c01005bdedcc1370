"""The order channel between a training process and its agent: a socket pair that keeps message boundaries.

The messages are the core's own (core/orders.py), packed into one fixed struct with the number of the slot they speak
of, and three that only start the partnership. Rules:

- Sending never blocks and never fails: what the socket does not take waits in line, and a dead peer takes nothing. Step
  counts are cumulative, so of those that wait only the newest is kept; the rest is bounded by the slots.
- What stands in line together goes in one packet: a step costs one system call and wakes the peer once.
- A slot changes owner by a message here, after its copy is complete (island/memory.py).
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, TypeAlias

from skerry.core import orders
from skerry.core.messages import Count
from skerry.core.orders import Applied, CopiedOut, CopyOut, Detach, Go, LoopLeft, Stepped, StopLoop, TakeOver
from skerry.exchange import RULES

LONGEST = 65536
"""Bytes of the longest message."""
_TOGETHER = 64  # most messages in one packet


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """Agent: the syncer has answered. With its policy (JSON text) the trainer can lay out the shared memory."""

    policy: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Trainer: from here on I carry out your orders and nobody else's. Of the boundary that I crossed last, as in Stepped. The
    shared memory's file comes with it."""

    count: Count
    progress: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Raise:
    """Agent: it will never work. The trainer raises the SkerryError of that name."""

    error: str
    message: str
    remedy: str
    code: str = ""  # RefusedError's


Order: TypeAlias = orders.Order | Greeted | Raise
Reply: TypeAlias = orders.FromTrainer | Attached
Message: TypeAlias = Order | Reply

_KINDS: tuple[type, ...] = (Stepped, LoopLeft, Attached, CopiedOut, Applied, CopyOut, TakeOver, Go, StopLoop, Detach)
_TEXTS: tuple[type, ...] = (Greeted, Raise)
_STEPPED = _KINDS.index(Stepped)
_FIELDS: dict[type, tuple[str, ...]] = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS}
_NUMBERS = ("fragment", "version", "step", "steps", "at", "included")  # one column each, whichever kind has it
_FIXED = struct.Struct(f"<BBh{len(_NUMBERS)}q3q3qd")  # kind, rule, slot, numbers, count, until, progress
_NO_COUNT = Count(-1, -1, -1)


def pack(message: Message, slot: int = -1) -> bytes:
    """The bytes of a message."""
    kind = type(message)
    if kind in _TEXTS:
        return bytes([len(_KINDS) + _TEXTS.index(kind)]) + json.dumps(asdict(message)).encode()
    said: dict[str, Any] = {name: getattr(message, name) for name in _FIELDS[kind]}
    return _FIXED.pack(_KINDS.index(kind), RULES.index(said.get("rule", "overwrite")), slot,
                       *[said.get(name, 0) for name in _NUMBERS], *said.get("count", _NO_COUNT),
                       *(said.get("until") or _NO_COUNT), said.get("progress", 0.0))  # fmt: skip


def unpack(data: bytes | memoryview) -> tuple[Message, int]:
    """The inverse of pack, for one message."""
    if data[0] >= len(_KINDS):
        return _TEXTS[data[0] - len(_KINDS)](**json.loads(bytes(data[1:]))), -1
    kind_no, rule, slot, *numbers, c0, c1, c2, u0, u1, u2, progress = _FIXED.unpack(data)
    kind, until = _KINDS[kind_no], Count(u0, u1, u2)
    said: dict[str, Any] = dict(zip(_NUMBERS, numbers, strict=True))
    said |= {"rule": RULES[rule], "count": Count(c0, c1, c2), "until": None if until == _NO_COUNT else until,
             "included": bool(said["included"]), "progress": progress}  # fmt: skip
    return kind(**{name: said[name] for name in _FIELDS[kind]}), slot


assert _FIXED.size * _TOGETHER <= LONGEST


class Channel:
    """One end of the channel. Closing it tells the peer, even if a forked child still holds a copy of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.closed = False  # the peer is gone
        self._line: deque[bytes] = deque()  # to be sent
        self._come: deque[tuple[Message, int]] = deque()  # received in one packet with another
        self._buffer = memoryview(bytearray(LONGEST))

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """This process' end, and the socket to hand to the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours), theirs

    def post(self, message: Message, slot: int = -1) -> None:
        """Send, or let it wait in line."""
        self.line_up(message, slot)
        self.flush()

    def line_up(self, message: Message, slot: int = -1) -> None:
        """Let it wait in line until the next `flush`."""
        data = pack(message, slot)
        assert len(data) <= LONGEST
        if self._line and data[0] == _STEPPED == self._line[-1][0]:
            self._line.pop()
        self._line.append(data)

    def post_file(self, message: Message, file: int) -> None:
        """Send at once, with an open file. For the first message of a channel: there is room for that."""
        try:
            socket.send_fds(self.socket, [pack(message)], [file])
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def flush(self) -> bool:
        """Send what waits, as far as the socket takes it. True if nothing waits any more."""
        while self._line and not self.closed:
            count = 0
            while count < min(len(self._line), _TOGETHER) and self._line[count][0] < len(_KINDS):
                count += 1
            count = max(count, 1)  # a text goes alone
            try:
                self.socket.send(b"".join(islice(self._line, count)), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                self.closed = True
            else:
                for _ in range(count):
                    self._line.popleft()
        return True

    def receive(self) -> tuple[Message, int] | None:
        """The next message and its slot; None if there is none now, or none ever again (`closed`)."""
        if self._come:
            return self._come.popleft()
        try:
            length = self.socket.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:
            length = 0
        if not length:
            self.closed = True
            return None
        if self._buffer[0] >= len(_KINDS):
            return unpack(self._buffer[:length])
        for at in range(0, length, _FIXED.size):
            self._come.append(unpack(self._buffer[at : at + _FIXED.size]))
        return self._come.popleft()

    def receive_file(self) -> tuple[Message, int] | None:
        """As `receive`, but the second is an open file that came with the message; -1 if none did."""
        try:
            data, files, _, _ = socket.recv_fds(self.socket, LONGEST, 1)
        except BlockingIOError:
            return None
        if not data:
            self.closed = True
            return None
        return unpack(data)[0], files[0] if files else -1

    def close(self) -> None:
        """End the partnership."""
        self.closed = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()
