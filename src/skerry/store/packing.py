"""The tape's bytes: records, and the core's messages as short arrays.

    record    length of the payload u32 | its crc32 u32 | crc-16 of these eight bytes u16 | payload      (little-endian)
    payload   a MessagePack array: [code, t, decided, field, field, ...]; an event's code is its place in CODES

The code is the payload's second byte, for the array is short and so is the number: it chooses the decoder, which makes exactly
the declared types, tuples with names among them. A message with an integer beyond 64 bits travels as text instead (WIDE).
What packs each class, and makes each event, is compiled once, as in core/maker.py, for every event passes through here.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, get_args, get_type_hints
from zlib import crc32

import msgspec

from skerry.core import messages
from skerry.core.messages import SyncerAction, SyncerEvent
from skerry.core.plain import plain

CODES: tuple[type, ...] = get_args(SyncerEvent)
_ACTIONS: tuple[type, ...] = get_args(SyncerAction)
WIDE, ENDED, HEAD = 125, 126, 127
ENVELOPE = 3  # what stands before the fields
SHORTEST = 10  # bytes of a record before its payload

encode = msgspec.msgpack.Encoder().encode
_START = struct.Struct("<II")
_WHOLE = struct.Struct("<IIH")


class Damaged(Exception):
    """What is wrong with a record."""


def framed(payload: bytes) -> bytes:
    """The record of a payload."""
    start = _START.pack(len(payload), crc32(payload))
    return b"%b%b%b" % (start, crc_hqx(start, 0).to_bytes(2, "little"), payload)


def unframed(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """The payloads of records that follow each other, each with the place where its record begins. Ends at the end, or at a
    record that is cut short there. Raises Damaged."""
    unpack, crc, check, size = _WHOLE.unpack_from, crc32, crc_hqx, len(data)
    while at + SHORTEST <= size:
        length, told, start = unpack(data, at)
        if start != check(data[at : at + 8], 0):
            raise Damaged("the beginning of a record has a wrong checksum")
        stop = at + SHORTEST + length
        if stop > size:
            return
        payload = data[at + SHORTEST : stop]
        if crc(payload) != told:
            raise Damaged("a record has a wrong checksum")
        yield at, payload
        at = stop


# ---------------------------------------------------------------- messages


def _packer(code: int, cls: type) -> Callable[[float, int, Any], tuple[Any, ...]]:
    """A function of (t, decided, message) that gives the array."""
    names = "".join(f"message.{field.name}, " for field in fields(cls))
    made: Callable[[float, int, Any], tuple[Any, ...]] = eval(f"lambda t, decided, message: ({code}, t, decided, {names})")
    return made


def _hints(cls: type) -> tuple[Any, ...]:
    known = get_type_hints(cls, vars(messages))
    return tuple(known[field.name] for field in fields(cls))


def _unpacker(cls: type) -> Callable[[bytes], tuple[float, int, Any]]:
    """A function of a payload that gives (t, decided, message)."""
    names = [field.name for field in fields(cls)]
    assert len(names) + ENVELOPE <= 15, "its code would not be the payload's second byte"
    sets = "".join(f" made.{name} = {name}\n" for name in names)
    known = {"cls": cls, "new": object.__new__}
    exec(f"def make({', '.join(['_', 't_', 'decided_', *names])}):\n made = new(cls)\n{sets} return t_, decided_, made", known)
    make: Any = known["make"]
    array: Any = tuple[(int, float, int, *_hints(cls))]  # type: ignore[misc]
    decode = msgspec.msgpack.Decoder(array).decode
    return lambda payload: make(*decode(payload))


PACK = {cls: _packer(code, cls) for code, cls in enumerate(dict.fromkeys(CODES + _ACTIONS))}
_UNPACK = [_unpacker(cls) for cls in CODES]
KINDS = [[cls.__name__, *(field.name for field in fields(cls))] for cls in CODES]
"""What a segment's head tells of its codes: a reader must know the same."""


def packed(t: float, decided: int, message: Any) -> bytes:
    """The payload of any message, integers of any size in it."""
    array = PACK[type(message)](t, decided, message)
    try:
        return encode(array)
    except OverflowError:
        code, t, decided, *said = array
        return encode((WIDE, code, t, decided, plain(said)))


def unpacked(payload: bytes) -> tuple[float, int, Any]:
    """Time, what was decided before, and the message. Raises msgspec.MsgspecError, ValueError, LookupError for what is none."""
    code = payload[1]
    if code != WIDE:
        return _UNPACK[code](payload)
    _, code, t, decided, said = msgspec.msgpack.decode(payload)
    cls = CODES[code]
    array: Any = tuple[_hints(cls)]  # type: ignore[misc]
    made = msgspec.convert(said, array, strict=False)
    return t, decided, cls(**dict(zip((field.name for field in fields(cls)), made, strict=True)))


def sum_of(actions: Any, before: int = 0) -> int:
    """A checksum of decisions, in order; 0 of none."""
    for action in actions:
        before = crc32(packed(0.0, 0, action), before)
    return before
